"""Ctrl-C and SIGTERM, recorded as a request that the loop checks between two chunks."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """Context that records the first SIGINT or SIGTERM. A second one has its usual effect.

    Attributes:
        asked: the recorded signal, or None.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)  # type: ignore[arg-type]
        self._before = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
