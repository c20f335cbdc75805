"""Ctrl-C, SIGTERM and SIGUSR1, recorded as a request that the loop checks between two chunks."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType, TracebackType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any] | int | None

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""The signals that stop a run; SIGUSR1 is what SLURM sends with ``--signal=USR1@60``."""


class Interrupts:
    """Context that records the first of ``KINDS``. A second one has its usual effect.

    Attributes:
        asked: the recorded signal, or None.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for kind in KINDS:
                self._before[kind] = signal.signal(kind, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        self._before = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()


class StoppedEarly(BaseException):
    """A signal arrived before the first iteration.

    Attributes:
        signal: the signal.
    """

    def __init__(self, asked: signal.Signals) -> None:
        super().__init__(asked)
        self.signal = asked


@contextlib.contextmanager
def raised() -> Generator[None]:
    """Context in which SIGTERM and SIGUSR1 raise ``StoppedEarly``, as SIGINT raises KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise StoppedEarly(signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.signal(kind, stop) for kind in KINDS if kind != signal.SIGINT}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
