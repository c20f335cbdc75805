"""MuJoCo's clock is off while a batch steps: it takes a seventh to a fifth of a step's time.

Every ``MjData`` of MuJoCo's Python package installs a clock, ``mjcb_time``, for its table of timings. The
engine then reads the clock dozens of times in a step, for timings that nobody reads.
``mujoco.set_mjcb_time(None)`` does not remove this clock, so the pointer in the library is cleared.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

import mujoco

from roml_jax.envs.physics.held import Held


@functools.cache
def _clock() -> ctypes.c_void_p | None:
    """The library's pointer ``mjcb_time``; None where it cannot be found, and steps stay slower."""
    library = sys.modules[mujoco.mj_step.__module__].__file__
    try:
        return ctypes.c_void_p.in_dll(ctypes.CDLL(library), "mjcb_time")
    except (OSError, ValueError):
        return None


def _stop() -> Callable[[], None]:
    clock = _clock()
    if clock is None:
        return lambda: None
    kept, clock.value = clock.value, None

    def restore() -> None:
        if clock.value is None:
            clock.value = kept

    return restore


untimed = Held(_stop)
"""Keeps MuJoCo from reading its clock, in all threads; afterwards the clock is the one of before."""
