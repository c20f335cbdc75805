"""A run's compiled programs: the training chunk at once, evaluation and test while it trains."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from roml_jax import experiment, meta
from roml_jax.garbage import uncollected
from roml_jax.run.start import State


def waiting(console: Console) -> contextlib.AbstractContextManager[Any]:
    """Shows on a terminal that programs are compiled, how long that usually takes, and how long it has."""
    text = "compiling, usually 10 to 40 s, and 1 to 3 s once it was compiled before"
    columns = (SpinnerColumn(), TextColumn(text), TimeElapsedColumn())
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    shown.add_task("")
    return shown


class Later:
    """A function of a learner's state that is compiled in the background.

    Args:
        pool: runs the compiler.
        function: (learner's state) -> Any.
        shapes: of the learner's state.
    """

    def __init__(
        self, pool: concurrent.futures.Executor, function: Callable[[Any], Any], shapes: Any
    ) -> None:
        self._pool, self._function, self._shapes = pool, jax.jit(function), shapes
        self._compiled: concurrent.futures.Future[Callable[[Any], Any]] | None = None

    def begin(self) -> concurrent.futures.Future[Callable[[Any], Any]]:
        """Traces the function and starts to compile it, unless that was done before.

        Must be called in the main thread: tracing may use Python's ``ast``, which can fail in Python 3.11 if
        two threads use it at once.
        """
        if self._compiled is None:
            self._compiled = self._pool.submit(self._function.lower(self._shapes).compile)
        return self._compiled

    def result(self) -> Callable[[Any], Any]:
        """The compiled function."""
        return self.begin().result()


class Programs(NamedTuple):
    """Compiled functions; ``evaluate`` is None for a run without evaluations."""

    chunk: Callable[..., Any]
    evaluate: Later | None
    test: Later

    def begin(self) -> None:
        """Starts to compile the functions that the first metrics do not need."""
        for program in (self.evaluate, self.test):
            if program is not None:
                program.begin()


def compiled(
    parts: experiment.Experiment, shapes: meta.MetaState, pool: concurrent.futures.Executor,
    begin: Callable[[concurrent.futures.Executor, meta.MetaState], Callable[[], State]], validates: bool,
) -> tuple[Programs, State]:  # fmt: skip
    """Compiles the training chunk and the state's programs, and makes the state.

    The state's programs compile while the chunk is traced, which is in the main thread (see ``Later``).

    Args:
        parts: the run's functions.
        shapes: of its state, with their shardings.
        pool: runs the compiler.
        begin: see ``start.Prepared``.
        validates: whether the run is evaluated during training.
    """
    with uncollected():
        make = begin(pool, shapes)
        chunk = pool.submit(jax.jit(parts.train.chunk, donate_argnums=0).lower(shapes, jnp.int32(0)).compile)
        state = make()
    # only the returns, so that the compiler drops what else an outcome holds
    evaluate = Later(pool, lambda s: parts.evaluate(s).returns, shapes.learner) if validates else None
    test = Later(pool, lambda s: parts.test(s).returns, shapes.learner)
    return Programs(chunk.result(), evaluate, test), state
