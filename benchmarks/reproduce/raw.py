"""Compact results of a run: its options, some rows of its metrics, and the return of every held-out task."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import gaits, machine
from roml_jax import held_out, rollout
from roml_jax.config import seed_plan
from roml_jax.envs.khazad_dum import KhazadDum
from roml_jax.run import checkpoint, saved
from roml_jax.run import folder as run_folder

TASKS, ABOUT, UPDATES = "tasks.npz", "about.json", "cem.npz"
_EVALUATIONS = 40  # number of evaluations in a compact result
_KEPT = ("eval/", "test/", "sampler/phi", "train/return", "train/stopped")


class Tested(NamedTuple):
    """Results of the final learners on the held-out tasks. Axes: S seeds, M tasks, K episodes.

    Attributes:
        seeds: (S,).
        tasks: (M, d), the same for every seed and method.
        returns: (S, M) mean returns over a task's episodes.
        routes: (S, M, K) indices into ``ROUTES`` on khazad_dum, else None.
        turns: (S, M) turns of a half-cheetah's torso per episode, mean over episodes; else None.
    """

    seeds: np.ndarray
    tasks: np.ndarray
    returns: np.ndarray
    routes: np.ndarray | None
    turns: np.ndarray | None = None


class Updates(NamedTuple):
    """Every update of the cross-entropy method. Axes: S seeds, T updates, p parameters.

    Attributes:
        phi: (S, T, p) that the tasks of each batch were drawn with.
        q_int: (S, T) the min_share-quantile of each batch.
        q_ref: (S, T) the reference quantile, an estimate of the prior's alpha-quantile.
    """

    phi: np.ndarray
    q_int: np.ndarray
    q_ref: np.ndarray


def exists(folder: Path) -> bool:
    """Whether a group's result exists."""
    return (folder / TASKS).is_file()


def seeds(folder: Path) -> frozenset[int]:
    """The seeds of a method that have a result, in groups of any size; ``folder`` holds the groups."""
    found: set[int] = set()
    for place in folder.iterdir() if folder.is_dir() else ():
        if exists(place):
            with np.load(place / TASKS) as arrays:  # not ``read``, which decompresses every return
                found.update(arrays["seeds"].tolist())
    return frozenset(found)


def _test(run: saved.Saved) -> Tested:
    """Runs every seed's learner on the tasks of the final test."""
    parts, config = run.parts, run.config
    tasks, key = held_out.draw(parts.env.family, config.eval.test_tasks, config.eval.seed, "test")
    env = parts.env

    has_routes, has_turns = isinstance(env, KhazadDum), gaits.is_cheetah(config.env)

    @jax.jit
    def act(learner: Any) -> dict[str, jax.Array]:
        experience, outcome = rollout.run_test(
            parts.agent, env, config.protocol, learner, tasks, key, record=has_routes or has_turns
        )
        results = {"returns": outcome.returns.mean(axis=1)}
        if has_routes:
            results["routes"] = env.routes(env.positions(experience.obs))
        if has_turns:
            results["turns"] = gaits.turned(env.spec, experience.obs)
        return results

    by_seed = [jax.device_get(act(run.one(place))) for place in range(len(config.plan))]
    arrays = {name: np.stack([one[name] for one in by_seed]) for name in by_seed[0]}
    dtypes = {"returns": np.float32, "routes": np.uint8, "turns": np.float16}
    arrays = {name: values.astype(dtypes[name]) for name, values in arrays.items()}
    seeds = np.array([one.seed for one in config.plan])
    return Tested(seeds, np.asarray(tasks), arrays["returns"], arrays.get("routes"), arrays.get("turns"))


def _updates(run: saved.Saved) -> Updates | None:
    """Every update of a run's cross-entropy method, from its last checkpoint; None for other samplers."""
    parts, config = run.parts, run.config
    shapes = jax.eval_shape(parts.train.init, *seed_plan.leaves(config.plan))
    if not hasattr(shapes.sampler.state, "history"):
        return None
    path = checkpoint.latest(run.folder / run_folder.CHECKPOINT)
    sampler = jax.device_get(checkpoint.restore(path, "state", shapes)).sampler.state
    past = sampler.history
    updates = Updates(past.phi, past.metrics.q_int, past.metrics.q_ref)
    if len(config.plan) == 1:
        updates = Updates(*(values[None] for values in updates))
    closed, stored = int(np.max(sampler.batch)), updates.q_int.shape[1]
    order = np.arange(max(0, closed - stored), closed) % stored
    return Updates(*(values[:, order].astype(np.float32) for values in updates))


def _thinned(rows: list[dict[str, Any]], num_seeds: int) -> list[dict[str, Any]]:
    """At most 40 evaluations, evenly spaced, and the tests; with the sampler's phi at the same iterations."""
    iterations = sorted({row["iteration"] for row in rows if any(name.startswith("eval/") for name in row)})
    picked = np.unique(np.linspace(0, len(iterations) - 1, _EVALUATIONS).round().astype(int))
    selected = {iterations[i] for i in picked} if iterations else set()
    last = {row["iteration"] for row in rows[-num_seeds:]}
    thinned = []
    for row in rows:
        if row["iteration"] not in selected | last:
            continue
        small = {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in row.items()
            if name.startswith(_KEPT) or "/" not in name
        }
        if any(name.startswith(_KEPT) for name in small):
            thinned.append(small)
    return thinned


def _commit() -> str:
    """The git commit of this code; empty outside a git repository."""
    here = Path(__file__).parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return described.stdout.strip()


def write(run: Path, folder: Path) -> None:
    """Tests the final learners of a finished run and writes its compact result."""
    loaded = saved.load(run)
    tested = _test(loaded)
    folder.mkdir(parents=True, exist_ok=True)
    rows = run_folder.read_metrics(run / run_folder.METRICS)
    lines = (json.dumps(row) + "\n" for row in _thinned(rows, len(loaded.config.plan)))
    (folder / run_folder.METRICS).write_text("".join(lines))
    (folder / run_folder.CONFIG).write_text((run / run_folder.CONFIG).read_text())
    about = {
        "machine": machine.describe(),
        "hours": round(rows[-1]["seconds"] / 3600, 3),
        "commit": _commit(),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    updates = _updates(loaded)
    if updates is not None:
        np.savez_compressed(folder / UPDATES, **updates._asdict())
    arrays = {name: value for name, value in tested._asdict().items() if value is not None}
    part = folder / f"{TASKS}.part"
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    part.replace(folder / TASKS)  # written last, since ``exists`` checks for this file


def read(folder: Path) -> Tested:
    """Reads a group's test results."""
    with np.load(folder / TASKS) as arrays:
        return Tested(**{name: arrays.get(name) for name in Tested._fields})


def read_updates(folder: Path) -> Updates | None:
    """Reads a group's updates of the cross-entropy method; None if the result has none."""
    if not (folder / UPDATES).is_file():
        return None
    with np.load(folder / UPDATES) as arrays:
        return Updates(**arrays)
