"""Returns of a run's learners on each task: evaluation, rows of a table, and files."""

from __future__ import annotations

import csv
import functools
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from roml_jax import experiment, held_out
from roml_jax.config import Seed
from roml_jax.errors import ConfigError
from roml_jax.evaluate.grids import grid
from roml_jax.run.saved import Saved
from roml_jax.types import Outcome

SUFFIXES = (".csv", ".parquet")

Chosen = Literal["prior", "grid"]


class Records(NamedTuple):
    """Results of a run's learners, all on the same tasks. Axes: R seeds, M tasks, K episodes.

    Attributes:
        names: names of the task's d dimensions.
        seeds: the R seeds.
        which: which learners: "last", "best_mean" or "best_cvar".
        iterations: (R,) number of training iterations of each learner.
        alpha: R risk levels, one per seed.
        chosen: how the tasks were chosen: "prior" or "grid".
        tasks: (M, d) the tasks.
        returns: (R, M, K) sum of rewards of each episode.
        diverged: (R, M, K) bool, whether the simulation diverged.
        terms: (R, M, K) terms of the reward, by name.
        length: (R, M, K) number of valid steps; None for a learner that does not act.
        horizon: H, the number of steps of an episode that does not end early.
        inner_steps: K numbers of gradient steps on the task, if the K returns are those after them and not
            those of episodes; see ``MetaLearner``.
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
    length: np.ndarray | None = None
    horizon: int = 0
    inner_steps: tuple[int, ...] = ()

    @property
    def column(self) -> str:
        """What the last dimension of the returns is."""
        return "inner steps" if self.inner_steps else "episode"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The K numbers of the columns: gradient steps on the task, or episodes from 0."""
        return self.inner_steps or tuple(range(self.returns.shape[2]))

    @property
    def by_task(self) -> np.ndarray:
        """Return of each task, (R, M): the mean over its episodes."""
        return self.returns.mean(axis=2)

    @property
    def early(self) -> np.ndarray | None:
        """(R, M, K) bool, whether an episode ended early; None for a learner that does not act."""
        return None if self.length is None else self.length < self.horizon


def outcomes(saved: Saved, places: Sequence[int], tasks: Any, key: jax.Array) -> Outcome:
    """Tests the learners of the given seeds; returns outcomes with leaves (R, M, K).

    If there are as many tasks as in the run's final test, the batches are those of that test (on one device):
    they decide the randomness of an agent that acts at random in tests.

    Args:
        saved: the run.
        places: positions of the seeds in ``config.plan``.
        tasks: (M, d).
        key: of the environments; see ``held_out.draw``.
    """
    run = jax.jit(functools.partial(held_out.on_batch, saved.parts.learner))
    n = len(tasks)
    final = n == saved.config.eval.test_tasks
    size = experiment.batch_sizes(saved.config)["test"] if final else held_out.sizes_for(None, n)[1]
    batches = held_out.cut(held_out.whole(tasks, key), size)
    found = [
        held_out.joined([run(learner, batch) for batch in batches], n) for learner in map(saved.one, places)
    ]
    return jax.tree.map(lambda *x: np.stack(x), *found)


def collect(
    saved: Saved,
    n: int,
    seed: int | None = None,
    chosen: Chosen = "prior",
    places: Sequence[int] | None = None,
) -> Records:
    """Tests the learners of a run, all on the same tasks.

    Args:
        saved: the run.
        n: number of tasks; a grid may have fewer.
        seed: random seed of tasks and environments. None for the run's ``eval.seed``; with the ``n`` of the
            final test, the tasks are then those of the final test.
        chosen: "prior" for draws from the prior, "grid" for a grid over the task range.
        places: positions of the seeds in ``config.plan``; None for all seeds.
    """
    config, family = saved.config, saved.parts.env.family
    tasks, key = held_out.draw(family, n, config.eval.seed if seed is None else seed, "test")
    if chosen == "grid":
        tasks = grid(family, n)
    places = list(range(len(config.plan)) if places is None else places)
    seeds = tuple(config.plan[place] for place in places)
    outcome = outcomes(saved, places, tasks, key)
    return Records(
        names=family.names,
        seeds=seeds,
        which=saved.which,
        iterations=np.asarray(saved.iterations)[places],
        alpha=tuple(config.alphas[place] for place in places),
        chosen=chosen,
        tasks=np.asarray(tasks),
        returns=np.asarray(outcome.returns, float),
        diverged=np.asarray(outcome.diverged),
        terms={name: np.asarray(value) for name, value in outcome.terms.items()},
        length=None if outcome.length is None else np.asarray(outcome.length),
        horizon=config.protocol.agent_spec(saved.parts.env.spec).horizon,
        inner_steps=saved.parts.learner.inner_steps,
    )


def pooled(records: Sequence[Records], alpha: float) -> Records:
    """The seeds of several records on the same tasks as one group without swept settings and reward terms.

    Args:
        records: of the same method.
        alpha: the risk level of all seeds.
    """

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in records])

    seeds = tuple(seed._replace(settings={}) for one in records for seed in one.seeds)
    return records[0]._replace(
        seeds=seeds,
        iterations=joined("iterations"),
        alpha=(alpha,) * len(seeds),
        returns=joined("returns"),
        diverged=joined("diverged"),
        terms={},
        length=None if records[0].length is None else joined("length"),
    )


def columns(records: Records) -> list[str]:
    """Column names of ``rows``. A task's dimension with the name of another column is called task/NAME."""
    before = [*records.seeds[0].columns, "which", "iteration", "task"]
    after = [
        records.column.replace(" ", "_"),
        "return",
        "diverged",
        *(() if records.length is None else ("length",)),
    ]
    after += [f"reward/{name}" for name in records.terms]
    taken = {*before, *after}
    return [*before, *(f"task/{name}" if name in taken else name for name in records.names), *after]


def rows(records: Records) -> Iterator[list[Any]]:
    """Yields one row per seed, task and episode (or number of inner steps)."""
    terms = list(records.terms.values())
    for r, one in enumerate(records.seeds):
        head = [*one.columns.values(), records.which, int(records.iterations[r])]
        for m, task in enumerate(records.tasks.tolist()):
            for k, number in enumerate(records.numbers):
                place = (r, m, k)
                values = [float(records.returns[place]), bool(records.diverged[place])]
                values += [] if records.length is None else [int(records.length[place])]
                yield [*head, m, *task, number, *values, *(float(term[place]) for term in terms)]


def check_format(path: Path) -> None:
    """Rejects a file format whose package is not installed.

    Raises:
        ConfigError: if ``pyarrow`` is missing for a .parquet file; one line.
    """
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"--out {path} needs the package pyarrow: pip install pyarrow, or use .csv")


def write(records: Records, path: Path, suffix: str) -> None:
    """Writes all rows to a file.

    Args:
        records: the results.
        path: the file.
        suffix: ".parquet" for Parquet; CSV otherwise.
    """
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
