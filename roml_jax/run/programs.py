"""A run's compiled programs: the training chunk at once, evaluations and final test while it trains."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from roml_jax import experiment, held_out, meta
from roml_jax.config import Config
from roml_jax.garbage import uncollected
from roml_jax.run.start import State
from roml_jax.types import Outcome


def waiting(console: Console) -> contextlib.AbstractContextManager[Any]:
    """Shows on a terminal that programs are compiled, how long that usually takes, and how long it has."""
    text = "compiling, usually 10 to 40 s, and 1 to 3 s once it was compiled before"
    columns = (SpinnerColumn(), TextColumn(text), TimeElapsedColumn())
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    shown.add_task("")
    return shown


class Tests:
    """The tests of a run while and after it trains, by programs that are compiled in the background.

    There is one program for evaluations and final test, unless their batches differ.

    Args:
        pool: runs the compiler.
        parts: the run's functions.
        config: the run's configuration.
        shapes: of the learner's state.
    """

    def __init__(
        self, pool: concurrent.futures.Executor, parts: experiment.Experiment, config: Config, shapes: Any
    ) -> None:
        self._pool, self._parts, self._config, self._shapes = pool, parts, config, shapes
        self._tasks = {"validation": config.eval.tasks, "test": config.eval.test_tasks}
        self._batches: dict[held_out.Purpose, list[held_out.Batch]] = {}
        self._compiled: dict[int, concurrent.futures.Future[Callable[..., Outcome]]] = {}

    def _drawn(self, purpose: held_out.Purpose, size: int) -> list[held_out.Batch]:
        family, seed = self._parts.env.family, self._config.eval.seed
        test = held_out.whole(*held_out.draw(family, self._tasks[purpose], seed, purpose))
        return held_out.cut(test, size)

    def begin(self) -> None:
        """Draws the tasks, traces the programs and starts to compile them, unless that was done before.

        Must be called in the main thread: tracing may use Python's ``ast``, which can fail in Python 3.11 if
        two threads use it at once.
        """
        if self._compiled:
            return

        def tested(learner: Any, batch: held_out.Batch) -> Outcome:
            outcome = self._parts.tested(learner, batch)
            return Outcome(outcome.returns, outcome.diverged, {})  # the compiler drops the rest

        program = jax.jit(tested)
        sizes = experiment.batch_sizes(self._config, self._parts.placement.task_devices)
        self._batches = {purpose: self._drawn(purpose, size) for purpose, size in sizes.items()}
        for purpose, size in sizes.items():
            if size not in self._compiled:
                lowered = program.lower(self._shapes, self._batches[purpose][0])
                self._compiled[size] = self._pool.submit(lowered.compile)

    def ready(self, purpose: held_out.Purpose) -> None:
        """Begins, unless that was done before, and waits until the program is compiled."""
        self.begin()
        self._program(purpose)

    def _program(self, purpose: held_out.Purpose) -> Callable[..., Outcome]:
        return self._compiled[len(self._batches[purpose][0].tasks)].result()

    def outcome(self, learner: Any, purpose: held_out.Purpose) -> Outcome:
        """Returns and divergence (M, K), or (R, M, K) of R > 1 seeds, of a learner on the M tasks of a test.

        Must be called after ``ready``.
        """
        test = self._program(purpose)
        pieces = [test(learner, batch) for batch in self._batches[purpose]]
        return held_out.joined(pieces, self._tasks[purpose])


class Programs(NamedTuple):
    """The compiled training chunk, and the tests."""

    chunk: Callable[..., Any]
    tests: Tests


def compiled(
    parts: experiment.Experiment, config: Config, shapes: meta.MetaState, pool: concurrent.futures.Executor,
    begin: Callable[[concurrent.futures.Executor, meta.MetaState], Callable[[], State]],
) -> tuple[Programs, State]:  # fmt: skip
    """Compiles the training chunk and the state's programs, and makes the state.

    The state's programs compile while the chunk is traced, which is in the main thread (see ``Tests.begin``).

    Args:
        parts: the run's functions.
        config: the run's configuration.
        shapes: of its state, with their shardings.
        pool: runs the compiler.
        begin: see ``start.Prepared``.
    """
    with uncollected():
        make = begin(pool, shapes)
        chunk = pool.submit(jax.jit(parts.train.chunk, donate_argnums=0).lower(shapes, jnp.int32(0)).compile)
        state = make()
    return Programs(chunk.result(), Tests(pool, parts, config, shapes.learner)), state
