"""Why MJX steps a model differently from MuJoCo: contacts that it does not find, a solver cut short, ..."""

from __future__ import annotations

import copy
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs.door import contacts, programs
from roml_jax.envs.physics import mjx_unlike
from roml_jax.quiet import mjx

_ITERATIONS = 1000
_SAME_DIRECTION = 0.95  # cosine of 18 degrees


class Touch(NamedTuple):
    """The contacts of a pair of geoms: how many, and the normal (3,) of the deepest."""

    count: int
    normal: np.ndarray


Touches = dict[tuple[int, int], Touch]
_NONE = Touch(0, np.zeros(3))


class Situation(NamedTuple):
    """One control step, given to both engines.

    Attributes:
        qpos: (nq,).
        qvel: (nv,).
        act: (na,).
        ctrl: (nu,).
        frame_skip: physics steps.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    act: np.ndarray
    ctrl: np.ndarray
    frame_skip: int


def why(model: mujoco.MjModel, situation: Situation, tolerance: float) -> str | None:
    """The reasons for a difference, for the end of a sentence; None if none is known.

    Args:
        model: unedited.
        situation: of the difference.
        tolerance: of velocities, beyond which the solver has not converged.
    """
    positions, end = _trajectory(model, situation)
    reasons = [text for text in (mjx_unlike.unlike(model), _contacts(model, positions)) if text]
    converged = copy.copy(model)
    converged.opt.iterations = converged.opt.ls_iterations = _ITERATIONS
    converged.opt.tolerance = converged.opt.ls_tolerance = 1e-12
    change = abs(_trajectory(converged, situation)[1] - end).max(initial=0.0)
    if change > tolerance:
        reasons.append(
            f"the solver has not converged (opt.iterations {model.opt.iterations}, ls_iterations "
            f"{model.opt.ls_iterations}): with more iterations MuJoCo's own step changes by {change:.2g}"
        )
    return "; ".join(reasons) or None


def _contacts(model: mujoco.MjModel, positions: np.ndarray) -> str | None:
    """The first pair of geoms with other contacts."""
    for mine, theirs in zip(_touches(model, positions), _touches_of_mjx(model, positions), strict=True):
        for pair in sorted(mine | theirs):
            one, other = mine.get(pair, _NONE), theirs.get(pair, _NONE)
            turned = one.count and other.count and one.normal @ other.normal < _SAME_DIRECTION
            if one.count == other.count and not turned:
                continue
            names = " and ".join(contacts.name_of(model, mujoco.mjtObj.mjOBJ_GEOM, geom) for geom in pair)
            way = ", in another direction" if turned else ""
            return f"contacts between geoms {names}: {other.count} in MJX, {one.count} in MuJoCo{way}"
    return None


def _trajectory(model: mujoco.MjModel, situation: Situation) -> tuple[np.ndarray, np.ndarray]:
    """Positions (frame_skip, nq) before each physics step, and the velocities at the end."""
    data, positions = mujoco.MjData(model), []
    data.qpos[:], data.qvel[:] = situation.qpos, situation.qvel
    data.act[:], data.ctrl[:] = situation.act, situation.ctrl
    for _ in range(situation.frame_skip):
        positions.append(data.qpos.copy())
        mujoco.mj_step(model, data)
    return np.array(positions), data.qvel.copy()


def _touches(model: mujoco.MjModel, positions: np.ndarray) -> list[Touches]:
    """The contacts of each pair of geoms at each position, by MuJoCo."""
    data, found = mujoco.MjData(model), []
    for qpos in positions:
        data.qpos[:] = qpos
        mujoco.mj_fwdPosition(model, data)
        contact = data.contact
        active = contact.dist < contact.includemargin
        found.append(_by_pair(contact.geom[active], contact.dist[active], contact.frame[active, :3]))
    return found


def _touches_of_mjx(model: mujoco.MjModel, positions: np.ndarray) -> list[Touches]:
    """The same by MJX."""
    on_device = mjx.put_model(model)

    def collide(qpos: jax.Array) -> tuple[jax.Array, ...]:
        data = mjx.make_data(model).replace(qpos=qpos)
        contact = mjx.collision(on_device, mjx.kinematics(on_device, data))._impl.contact
        active = contact.dist < contact.includemargin
        return jnp.asarray(contact.geom), contact.dist, contact.frame[:, 0], active

    rows = zip(*programs.run(jax.vmap(collide), np.float32(positions)), strict=True)
    return [_by_pair(geom[active], dist[active], normal[active]) for geom, dist, normal, active in rows]


def _by_pair(geoms: np.ndarray, distances: np.ndarray, normals: np.ndarray) -> Touches:
    found: Touches = {}
    for i in np.argsort(distances):  # the deepest first
        first, second = sorted(map(int, geoms[i]))
        pair = first, second
        known = found.get(pair, Touch(0, normals[i]))
        found[pair] = known._replace(count=known.count + 1)
    return found
