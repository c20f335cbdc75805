"""Returns of a run's learners task by task: made, laid out as rows, written to a file."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from roml_jax import held_out
from roml_jax.config import Seed
from roml_jax.errors import ConfigError
from roml_jax.evaluate.grids import grid
from roml_jax.run.saved import Saved
from roml_jax.types import Outcome

SUFFIXES = (".csv", ".parquet")
_BATCH = 1000  # tasks at once: a run's final test, which fits into memory, has as many

Chosen = Literal["prior", "grid"]


class Records(NamedTuple):
    """What the learners of a run reached on the same tasks. Axes: R seeds, M tasks, K episodes.

    Attributes:
        names: of the task's dimensions.
        seeds: (R,) of them.
        which: of the learners.
        iterations: (R,) made by each.
        alpha: (R,) each seed's own risk level.
        chosen: how tasks were chosen.
        tasks: (M, d).
        returns: (R, M, K).
        diverged: (R, M, K) bool.
        terms: (R, M, K) the reward's terms, by name.
    """

    names: tuple[str, ...]
    seeds: tuple[Seed, ...]
    which: str
    iterations: np.ndarray
    alpha: tuple[float, ...]
    chosen: Chosen
    tasks: np.ndarray
    returns: np.ndarray
    diverged: np.ndarray
    terms: Mapping[str, np.ndarray]


def _by_seed(saved: Saved, places: Sequence[int], tasks: jax.Array, key: jax.Array) -> Outcome:
    """Outcomes (R, M, K) of what the learners do in tests."""
    run = jax.jit(saved.parts.learner.test)

    def whole(learner: Any) -> Outcome:
        starts = range(0, len(tasks), _BATCH)
        keys = [key, *jax.random.split(key, len(starts))[1:]]
        pieces = [
            jax.device_get(run(learner, tasks[i : i + _BATCH], k)) for i, k in zip(starts, keys, strict=True)
        ]
        return jax.tree.map(lambda *x: np.concatenate(x), *pieces)

    outcomes = [whole(saved.one(place)) for place in places]
    return jax.tree.map(lambda *x: np.stack(x), *outcomes)


def collect(
    saved: Saved,
    n: int,
    seed: int | None = None,
    chosen: Chosen = "prior",
    places: Sequence[int] | None = None,
) -> Records:
    """Lets every learner of a run do on the same tasks what it does in tests.

    Args:
        saved: the run.
        n: how many tasks; a grid may have a few less.
        seed: of tasks and environments; None for the run's own, which gives the tasks of its final
            test where there are as many.
        chosen: tasks of the prior, or a grid over their range.
        places: of the seeds among the folder's; None for all.
    """
    config, family = saved.config, saved.parts.env.family
    tasks, key = held_out.draw(family, n, config.eval.seed if seed is None else seed, "test")
    if chosen == "grid":
        tasks = grid(family, n)
    places = list(range(len(config.plan)) if places is None else places)
    seeds = tuple(config.plan[place] for place in places)
    outcome = _by_seed(saved, places, tasks, key)
    return Records(
        names=family.names,
        seeds=seeds,
        which=saved.which,
        iterations=np.asarray(saved.iterations)[places],
        alpha=tuple(seed.settings.get("alpha", config.alpha) for seed in seeds),
        chosen=chosen,
        tasks=np.asarray(tasks),
        returns=np.asarray(outcome.returns, float),
        diverged=np.asarray(outcome.diverged),
        terms=dict(outcome.terms),
    )


def columns(records: Records) -> list[str]:
    """Names of what ``rows`` gives."""
    return [
        *records.seeds[0].columns, "which", "iteration", "task", *records.names, "episode", "return",
        "diverged", *(f"reward/{name}" for name in records.terms),
    ]  # fmt: skip


def rows(records: Records) -> Iterator[list[Any]]:
    """A row per seed, task and episode."""
    terms = list(records.terms.values())
    for r, one in enumerate(records.seeds):
        head = [*one.columns.values(), records.which, int(records.iterations[r])]
        for m, task in enumerate(records.tasks.tolist()):
            for k in range(records.returns.shape[2]):
                place = (r, m, k)
                values = [float(records.returns[place]), bool(records.diverged[place])]
                yield [*head, m, *task, k, *values, *(float(term[place]) for term in terms)]


def check_format(path: Path) -> None:
    """Refuses a format that needs what is not installed.

    Raises:
        ConfigError: one line.
    """
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"--out {path} needs the package pyarrow: pip install pyarrow, or take .csv")


def write(records: Records, path: Path, suffix: str) -> None:
    """Writes all rows as CSV or Parquet."""
    if suffix.lower() == ".parquet":
        import pyarrow
        import pyarrow.parquet

        by_column = zip(*rows(records), strict=True)
        named = dict(zip(columns(records), map(list, by_column), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(named), path)
        return
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns(records))
        writer.writerows(rows(records))
