"""Trains a sampler on a test bed; its compact result: returns, curves and the tasks drawn over time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.samplers import ideas, protocol
from roml_jax import config, experiment, held_out, risk
from roml_jax.config import Config, seed_plan
from roml_jax.errors import ConfigError

_POINTS = 20  # evaluations of a run, and points in time at which its sampler is asked for tasks
_DRAWN = 512  # tasks drawn at each point, in batches of the run's number of tasks
Limits = tuple[float, float] | None  # (failure, success)
QUANTILES = (0.1, 0.5, 0.9)  # of the tasks drawn


class Result(NamedTuple):
    """A sampler's result on a bed. Axes: S seeds, M held-out tasks, T points in time.

    Attributes:
        tasks: (M, d) the held-out tasks of the final test, the same for every sampler and seed.
        returns: (S, M) of the final learners on these tasks; see ``Bed.by_task``.
        frames: (T,) per seed, those of scoring passes included.
        mean: (S, T) mean return on the validation tasks.
        cvar: (S, T) CVaR_alpha on the validation tasks.
        drawn: (S, T, 3, d) 10 %, 50 % and 90 % quantiles of the tasks that the sampler draws.
        names: names of the d dimensions.
        about: machine, minutes, options, iterations, episodes, risk level; or {"refused": the reason}.
    """

    tasks: np.ndarray
    returns: np.ndarray
    frames: np.ndarray
    mean: np.ndarray
    cvar: np.ndarray
    drawn: np.ndarray
    names: tuple[str, ...]
    about: dict[str, Any]


def path(results: Path, bed: str, sampler: str, seeds: range) -> Path:
    """Where the description of a result, or of a group of its seeds, lies; its arrays lie beside it."""
    whole = len(seeds) == protocol.ALL_BEDS[bed].seeds
    return results / bed / (f"{sampler}.json" if whole else f"{sampler}-{seeds[0]}.json")


def _read(file: Path) -> Result | None:
    if not file.is_file():
        return None
    about = json.loads(file.read_text())
    if "refused" in about:
        return None
    with np.load(file.with_suffix(".npz")) as arrays:
        return Result(**arrays, names=tuple(about["names"]), about=about)


def read(results: Path, bed: str, sampler: str) -> Result | None:
    """A result of all seeds; None if one is missing or the sampler was refused."""
    groups = [_read(path(results, bed, sampler, seeds)) for seeds in protocol.ALL_BEDS[bed].groups]
    found = [group for group in groups if group is not None]
    if len(found) < len(groups):
        return None
    first = found[0]
    by_seed = {
        name: np.concatenate([getattr(group, name) for group in found])
        for name in ("returns", "mean", "cvar", "drawn")
    }
    seeds = sum(group.about["seeds"] for group in found)
    return first._replace(**by_seed, about=first.about | {"seeds": seeds})


def refusal(results: Path, bed: str, sampler: str) -> str | None:
    """Why a sampler was refused on a bed; None if it was not."""
    file = path(results, bed, sampler, protocol.ALL_BEDS[bed].groups[0])
    return json.loads(file.read_text()).get("refused") if file.is_file() else None


def write(file: Path, result: Result | str) -> None:
    """Writes a result, or the reason of a refusal; see ``path``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"refused": result} if isinstance(result, str) else result.about | {"names": result.names}
    if isinstance(result, Result):
        arrays = {name: getattr(result, name) for name in Result._fields if name not in ("names", "about")}
        np.savez_compressed(
            file.with_suffix(".npz"), **{k: np.asarray(v, np.float32) for k, v in arrays.items()}
        )
    file.write_text(json.dumps(about, indent=1) + "\n")  # last: its existence says that the result is whole


def _tasks_drawn(parts: experiment.Experiment, num_tasks: int) -> Callable[[Any, jax.Array], jax.Array]:
    """(one seed's sampler state, key) -> quantiles (3, d) of the tasks that the sampler would draw now."""

    def drawn(state: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, -(-_DRAWN // num_tasks))
        tasks = jax.lax.map(lambda one: parts.sampler.sample(state, one, num_tasks)[1].task, keys)
        return jnp.quantile(tasks.reshape(-1, tasks.shape[-1]), jnp.array(QUANTILES), axis=0)

    return drawn


def configure(bed: protocol.Bed, sampler: str, limits: Limits, seeds: range) -> Config:
    """The configuration of a sampler on a bed, for a group of its seeds."""
    if sampler in protocol.IDEAS:
        ideas.register()
    return config.make(
        bed.env, sampler, bed.agent, frames=bed.frames, seeds=list(seeds),
        **protocol.options(bed, sampler, limits),
    )  # fmt: skip


def train(
    bed: protocol.Bed, sampler: str, limits: Limits, seeds: range, tell: Callable[[str], None]
) -> Result:
    """Trains and tests seeds of a sampler on a bed, all in one program.

    Args:
        bed: the test bed.
        sampler: name of the sampler.
        limits: thresholds; see ``protocol.options``.
        seeds: a group of the bed's.
        tell: called with a line of progress after each evaluation.

    Raises:
        ConfigError: if the sampler does not fit the bed.
    """
    chosen, count = configure(bed, sampler, limits, seeds), len(seeds)
    parts, began = experiment.make(chosen), time.monotonic()
    several = count > 1
    vmap = jax.vmap if several else lambda f: f
    chunk = jax.jit(parts.train.chunk, donate_argnums=0)
    evaluate, test = jax.jit(parts.evaluate), jax.jit(parts.test)
    drawn = jax.jit(vmap(_tasks_drawn(parts, chosen.num_tasks)))
    state = jax.jit(parts.train.init)(*seed_plan.leaves(chosen.plan))
    stops = np.unique(np.linspace(0, parts.num_iterations, _POINTS + 1).round().astype(int))

    def look(at: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        returns = bed.by_task(np.asarray(evaluate(state.learner).returns)).reshape(count, -1)
        key = jax.random.key(at)
        quantiles = drawn(state.sampler, jax.random.split(key, count) if several else key)
        cvar = np.array([float(risk.cvar(jnp.asarray(one), chosen.alpha)) for one in returns])
        return returns.mean(axis=1), cvar, np.asarray(quantiles).reshape(count, len(QUANTILES), -1)

    looks, done = [look(0)], 0
    for stop in stops[1:]:
        while done < stop:
            n = min(parts.train.chunk_length, stop - done)
            state, _ = chunk(state, jnp.int32(n))
            done += n
        looks.append(look(done))
        speed = count * parts.frames.after(done) / (time.monotonic() - began)
        tell(
            f"{sampler}: {parts.frames.after(done):.3g} frames, mean {looks[-1][0].mean():.4g}, "
            f"CVaR {chosen.alpha:g} {looks[-1][1].mean():.4g}, {speed:,.0f} frames/s"
        )
    mean, cvar, quantiles = (np.stack(series, axis=1) for series in zip(*looks, strict=True))
    returns = np.asarray(test(state.learner).returns)  # (seeds, M, K), or (M, K) for one seed
    by_task = bed.by_task(returns).reshape(count, -1)
    tasks, _ = held_out.draw(parts.env.family, chosen.eval.test_tasks, chosen.eval.seed, "test")
    about = {
        "bed": bed.title, "sampler": sampler, "alpha": chosen.alpha, "seeds": count,
        "iterations": parts.num_iterations, "frames": parts.frames.after(parts.num_iterations),
        "episodes": returns.shape[-1],
        "options": protocol.options(bed, sampler, limits),
        "minutes": round((time.monotonic() - began) / 60, 1), "machine": machine.describe(),
    }  # fmt: skip
    return Result(
        np.asarray(tasks), by_task,
        np.array([parts.frames.after(int(at)) for at in stops]), mean, cvar, quantiles,
        parts.env.family.names, about,
    )  # fmt: skip


def attempt(
    bed: protocol.Bed, sampler: str, limits: Limits, seeds: range, tell: Callable[[str], None]
) -> Result | str:
    """A sampler's result on a bed, or the line in which the configuration is refused."""
    try:
        experiment.make(configure(bed, sampler, limits, seeds))
    except ConfigError as error:
        return str(error)
    return train(bed, sampler, limits, seeds, tell)
