"""What is kept of a run: its options, some rows of its metrics, and the return of every held-out task."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import machine
from roml_jax import folder as folder_lib
from roml_jax import rollout, saved
from roml_jax.envs.khazad_dum import KhazadDum
from roml_jax.evaluate import held_out

TASKS, ABOUT = "tasks.npz", "about.json"
_EVALUATIONS = 40  # rows of a run's curve
_KEPT = ("eval/", "test/", "sampler/phi", "train/return", "train/stopped")


class Tested(NamedTuple):
    """The final learners on the held-out tasks. Axes: S seeds, M tasks, K episodes.

    Attributes:
        seeds: (S,).
        tasks: (M, d), the same for every seed and method.
        returns: (S, M) of a task: the mean over its episodes.
        routes: (S, M, K) indices into ``ROUTES`` on khazad_dum; else None.
    """

    seeds: np.ndarray
    tasks: np.ndarray
    returns: np.ndarray
    routes: np.ndarray | None


def exists(folder: Path) -> bool:
    """Whether a group's result is there."""
    return (folder / TASKS).is_file()


def _test(run: saved.Saved) -> Tested:
    """Every seed's learner on the tasks of the final test."""
    parts, config = run.parts, run.config
    tasks, key = held_out.draw(parts.env.family, config.eval.test_tasks, config.eval.seed, "test")
    env = parts.env

    @jax.jit
    def act(learner: Any) -> tuple[jax.Array, jax.Array | None]:
        walks = isinstance(env, KhazadDum)
        experience, outcome = rollout.run_test(
            parts.agent, env, config.protocol, learner, tasks, key, record=walks
        )
        routes = env.routes(env.positions(experience.obs)) if walks else None
        return outcome.returns.mean(axis=1), routes

    found = [jax.device_get(act(run.one(place))) for place in range(len(config.runs))]
    returns = np.stack([returns for returns, _ in found]).astype(np.float32)
    routes = None if found[0][1] is None else np.stack([routes for _, routes in found]).astype(np.uint8)
    return Tested(np.array([one.seed for one in config.runs]), np.asarray(tasks), returns, routes)


def _thinned(rows: list[dict[str, Any]], num_runs: int) -> list[dict[str, Any]]:
    """The evaluations of a curve and the tests, with the sampler's phi as it was then."""
    iterations = sorted({row["iteration"] for row in rows if any(name.startswith("eval/") for name in row)})
    picked = np.unique(np.linspace(0, len(iterations) - 1, _EVALUATIONS).round().astype(int))
    wanted = {iterations[i] for i in picked} if iterations else set()
    last = {row["iteration"] for row in rows[-num_runs:]}
    kept = []
    for row in rows:
        if row["iteration"] not in wanted | last:
            continue
        small = {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in row.items()
            if name.startswith(_KEPT) or "/" not in name
        }
        if any(name.startswith(_KEPT) for name in small):
            kept.append(small)
    return kept


def _commit() -> str:
    """Of the code that measured, as far as git knows it."""
    here = Path(__file__).parent
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()


def write(run: Path, folder: Path) -> None:
    """Tests the final learners of a run that was trained to its end, and writes its compact result."""
    loaded = saved.load(run)
    tested = _test(loaded)
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder_lib.read_metrics(run / folder_lib.METRICS)
    lines = (json.dumps(row) + "\n" for row in _thinned(rows, len(loaded.config.runs)))
    (folder / folder_lib.METRICS).write_text("".join(lines))
    (folder / folder_lib.CONFIG).write_text((run / folder_lib.CONFIG).read_text())
    about = {
        "machine": machine.describe(),
        "hours": round(rows[-1]["seconds"] / 3600, 3),
        "commit": _commit(),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    arrays = {name: value for name, value in tested._asdict().items() if value is not None}
    part = folder / f"{TASKS}.part"
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    part.replace(folder / TASKS)  # last: with it the result is there


def read(folder: Path) -> Tested:
    """A group's test."""
    with np.load(folder / TASKS) as arrays:
        return Tested(**{name: arrays.get(name) for name in Tested._fields})
