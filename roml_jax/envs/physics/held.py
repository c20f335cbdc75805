"""Settings of MuJoCo that hold for the whole process, changed while any thread is in a block."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator


class Held:
    """A context manager that threads share: the first one in makes a change, the last one out takes it back.

    Args:
        change: makes the change and returns what takes it back.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change, self._lock, self._depth = change, threading.Lock(), 0

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        """The block."""
        with self._lock:
            if not self._depth:
                self._take_back = self._change()
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if not self._depth:
                    self._take_back()
