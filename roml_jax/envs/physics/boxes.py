"""What MuJoCo's C engine derives from a model, recomputed after a task has edited the model in place.

The engine culls contacts with boxes and spheres around the geoms (``geom_rbound``, ``geom_aabb`` and the
trees in ``bvh_aabb``). An edit of ``geom_size`` leaves them stale, and thickened bodies then pass through
each other. Since MuJoCo 3.17 ``mj_setConst`` recomputes them along with all the other constants, so here
is nothing but a choice of what to keep.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import mujoco

_BOX_INPUTS = ("geom_size", "geom_pos", "geom_quat", "body_ipos", "body_iquat")
_BOXES = ("geom_rbound", "geom_aabb", "bvh_aabb")


class Scratch(NamedTuple):
    """Working memory for one thread: a model and data of the same sizes as the models to refresh."""

    model: mujoco.MjModel
    data: mujoco.MjData


def make_scratch(model: mujoco.MjModel) -> Scratch:
    """Working memory for ``model`` and for every edited copy of it."""
    return Scratch(copy.copy(model), mujoco.MjData(model))


def set_const_c(model: mujoco.MjModel, scratch: Scratch) -> None:
    """Makes an edited model consistent: every derived constant, boxes included. In place.

    Raises:
        mujoco.FatalError: from MuJoCo, if the edit moves the inertial frame of a body that it compiled
            as simple (``body_simple`` above 0); such bodies need ``simple="false"`` in their file.
    """
    mujoco.mj_setConst(model, scratch.data)


def refresh_stale(model: mujoco.MjModel, scratch: Scratch) -> None:
    """Leaves an edited model's constants stale, but for those without which C is wrong. In place.

    They are the collision boxes, and ``body_subtreemass``, by which the engine divides to find the
    centres of mass. MJX computes both afresh, so a stale model in C is then the same as in MJX.

    Raises:
        mujoco.FatalError: as ``set_const_c``.
    """
    for name in (*_BOX_INPUTS, "body_mass"):
        getattr(scratch.model, name)[:] = getattr(model, name)
    mujoco.mj_setConst(scratch.model, scratch.data)
    for name in (*_BOXES, "body_subtreemass"):
        getattr(model, name)[:] = getattr(scratch.model, name)
