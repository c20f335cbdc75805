"""MJX, imported when it is first used, with the messages about a missing Warp suppressed."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from types import ModuleType
from typing import Any

_NAME = "mujoco.mjx"


class _Quiet(ModuleType):
    """Stands for a module until one of its attributes is used: MJX takes half a second to import."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if _NAME not in sys.modules:
            with contextlib.redirect_stdout(io.StringIO()):
                importlib.import_module(_NAME)
        return getattr(sys.modules[_NAME], name)


mjx: Any = _Quiet(_NAME)  # Any: its types are unions over MJX's engines, to be narrowed at every use


def quiet_warp() -> None:
    """Turns off the line that Warp prints for every kernel it loads, unless Warp was imported before."""
    import warp

    warp.config.quiet = True


__all__ = ["mjx", "quiet_warp"]
