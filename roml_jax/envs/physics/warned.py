"""MuJoCo's warnings: each kind once per environment, as one line of Python's logging."""

from __future__ import annotations

import logging
from collections.abc import Callable

import mujoco
import numpy as np

from roml_jax.envs.physics.held import Held

_KINDS = [kind for name, kind in mujoco.mjtWarning.__members__.items() if name != "mjNWARNING"]
_UNSTABLE = [
    int(getattr(mujoco.mjtWarning, f"mjWARN_{name}")) for name in ("BADQPOS", "BADQVEL", "BADQACC", "BADCTRL")
]


def _ignore(_: str) -> None:
    pass


def _silence() -> Callable[[], None]:
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_ignore)

    def restore() -> None:
        if mujoco.get_mju_user_warning() is _ignore:
            mujoco.set_mju_user_warning(None)

    return restore


quiet = Held(_silence)
"""Keeps MuJoCo from printing warnings and from writing MUJOCO_LOG.TXT; a caller's own handler stays."""


def blown_up(counts: np.ndarray) -> np.ndarray:
    """(n,) bool: the simulations that have blown up, by their counts of warnings (n, mjNWARNING, 2).

    MuJoCo resets such a simulation to its initial state; a control that is not finite it replaces by 0.
    """
    return np.any(counts[:, _UNSTABLE, 1] > 0, axis=1)


def say(counts: np.ndarray, said: set[int]) -> None:
    """Logs the kinds of warnings that were counted and not ``said`` before, and adds them there."""
    for kind in _KINDS:
        rows = np.flatnonzero(counts[:, int(kind), 1])
        if len(rows) and int(kind) not in said:
            said.add(int(kind))
            text = " ".join(mujoco.mju_warningText(int(kind), int(counts[rows[0], int(kind), 0])).split())
            logging.getLogger("roml_jax").warning("MuJoCo: %s (further warnings like it are not shown)", text)
