"""What MJX simulates otherwise than MuJoCo, and not so rarely wrong that it would be refused."""

from __future__ import annotations

import mujoco
import numpy as np


def unlike(model: mujoco.MjModel) -> str | None:
    """What MJX simulates otherwise than MuJoCo without refusing it, with the cure; None if nothing is known.

    With the integrator implicitfast, MuJoCo leaves out the velocity derivative of a force that is at its
    limit, and MJX does not; MJX has no such derivative for muscles.
    """
    if model.opt.integrator != mujoco.mjtIntegrator.mjINT_IMPLICITFAST:
        return None
    kinds = model.actuator_gaintype, model.actuator_biastype
    affine = (mujoco.mjtGain.mjGAIN_AFFINE, mujoco.mjtBias.mjBIAS_AFFINE)
    damped = np.zeros(len(model.actuator_trntype), bool)
    for kind, wanted, numbers in zip(
        kinds, affine, (model.actuator_gainprm, model.actuator_biasprm), strict=True
    ):
        damped |= (kind == wanted) & (numbers[:, 2] != 0)
    for row in np.flatnonzero(damped & _is_limited(model)):
        return (
            f"integrator implicitfast: when the force of actuator {_name(model, row)} is at its limit, MJX "
            "damps it by its velocity gain and MuJoCo does not; use the engine 'mujoco', or the integrator "
            "Euler with joint damping"
        )
    muscles = (kinds[0] == mujoco.mjtGain.mjGAIN_MUSCLE) | (kinds[1] == mujoco.mjtBias.mjBIAS_MUSCLE)
    for row in np.flatnonzero(muscles):
        return (
            f"integrator implicitfast: MJX leaves out the damping of muscles, such as "
            f"{_name(model, row)}, from the integration; use the engine 'mujoco', or the integrator Euler"
        )
    return None


def _name(model: mujoco.MjModel, row: int) -> str:
    name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_ACTUATOR, int(row))
    return repr(name) if name else str(row)


def _is_limited(model: mujoco.MjModel) -> np.ndarray:
    """Whether the force of each actuator, or the sum of those at its joint or tendon, has a limit."""
    limited = model.actuator_forcelimited.astype(bool)
    target, kind = model.actuator_trnid[:, 0], model.actuator_trntype
    joints = (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)
    for kinds, flags in (
        (joints, model.jnt_actfrclimited),
        ((mujoco.mjtTrn.mjTRN_TENDON,), model.tendon_actfrclimited),
    ):
        own = np.isin(kind, np.array(kinds, int))
        limited[own] |= flags[target[own]].astype(bool)
    return limited
