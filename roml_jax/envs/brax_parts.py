"""Fields of a brax ``System`` that brax copies from the MuJoCo model when it loads it.

A System is an MJX model with copies of some fields in brax's own form (``link``, ``dof``, ``actuator``,
``init_q``, ``gravity``, ...). On the mjx backend the physics reads the model. Environments read the copies,
for the range of actions, the center of mass, or the pose at the start. Copies of edited fields are computed
again as ``brax.io.mjcf.load_model`` computes them.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.types import Array

# NumPy does not compare arrays with MuJoCo's enumerations
_SLIDE, _HINGE = int(mujoco.mjtJoint.mjJNT_SLIDE), int(mujoco.mjtJoint.mjJNT_HINGE)
_ON_JOINT = int(mujoco.mjtTrn.mjTRN_JOINT)


class _Copy(NamedTuple):
    """How brax computes a part of the System from fields of the model."""

    fields: tuple[str, ...]
    value: Callable[[Any], Any]


def _joints(system: Any) -> np.ndarray:
    """The joint of each degree of freedom, (nv,)."""
    return np.asarray(system.mj_model.dof_jntid)


def _is_free(system: Any) -> np.ndarray:
    return np.array([kind == "f" for kind in system.link_types], bool)


def _placed(field: str, at_free: tuple[float, ...]) -> Callable[[Any], Array]:
    """Poses of links; brax clears those of free ones, whose coordinates are in the world frame."""

    def value(system: Any) -> Array:
        pose = getattr(system, field)[1:]
        return jnp.where(_is_free(system)[:, None], jnp.asarray(at_free, pose.dtype)[None], pose)

    return value


def _joint_positions(system: Any) -> Array:
    """The position of each jointed body's first joint."""
    bodies = np.asarray(system.mj_model.jnt_bodyid)
    first = [next(group)[0] for _, group in itertools.groupby(enumerate(bodies), key=lambda pair: pair[1])]
    return system.jnt_pos[np.array(first, int)]


def _limits(system: Any) -> tuple[Array, Array]:
    model = system.mj_model
    bounded = np.asarray(model.jnt_limited, bool) & (np.asarray(model.jnt_type) >= _SLIDE)
    infinite = jnp.array([-jnp.inf, jnp.inf], system.jnt_range.dtype)
    ranges = jnp.where(bounded[:, None], system.jnt_range, infinite[None])[_joints(system)]
    return ranges[:, 0], ranges[:, 1]


def _stiffness(system: Any) -> Array:
    hinged = np.asarray(system.mj_model.jnt_type) >= _SLIDE
    return jnp.where(hinged, system.jnt_stiffness, 0.0)[_joints(system)]


def _motion(axis: str) -> Callable[[Any], Array]:
    """Rows of ``dof.motion.ang`` (hinges) or ``.vel`` (slides); those of free joints are constant."""
    kind = {"ang": _HINGE, "vel": _SLIDE}[axis]

    def value(system: Any) -> Array:
        joints = _joints(system)
        moved = np.asarray(system.mj_model.jnt_type)[joints] == kind
        return jnp.where(moved[:, None], system.jnt_axis[joints], getattr(system.dof.motion, axis))

    return value


def _on_joints(system: Any) -> np.ndarray:
    return np.flatnonzero(np.asarray(system.mj_model.actuator_trntype) == _ON_JOINT)


def _column(field: str, column: int) -> Callable[[Any], Array]:
    return lambda system: getattr(system, field)[_on_joints(system), column]


def _range(what: str) -> Callable[[Any], Array]:
    """``actuator_ctrlrange`` or ``actuator_forcerange``; infinite where it is not limited."""

    def value(system: Any) -> Array:
        bounded = np.asarray(getattr(system.mj_model, f"actuator_{what}limited"), bool)
        values = getattr(system, f"actuator_{what}range")
        infinite = jnp.array([-jnp.inf, jnp.inf], values.dtype)
        return jnp.where(bounded[:, None], values, infinite[None])[_on_joints(system)]

    return value


def _bias(column: int) -> Callable[[Any], Array]:
    def value(system: Any) -> Array:
        used = np.asarray(system.mj_model.actuator_biastype) != 0
        return (system.actuator_biasprm[:, column] * used)[_on_joints(system)]

    return value


def _solver(system: Any) -> Array:
    return jnp.concatenate((system.jnt_solref, system.jnt_solimp), axis=1)[_joints(system)]


def _same(field: str) -> _Copy:
    return _Copy((field,), operator.attrgetter(field))


_COPIES = {
    "gravity": _same("opt.gravity"),
    "viscosity": _same("opt.viscosity"),
    "density": _same("opt.density"),
    "init_q": _same("qpos0"),
    "link.transform.pos": _Copy(("body_pos",), _placed("body_pos", (0.0, 0.0, 0.0))),
    "link.transform.rot": _Copy(("body_quat",), _placed("body_quat", (1.0, 0.0, 0.0, 0.0))),
    "link.inertia.transform.pos": _Copy(("body_ipos",), lambda system: system.body_ipos[1:]),
    "link.inertia.transform.rot": _Copy(("body_iquat",), lambda system: system.body_iquat[1:]),
    "link.inertia.i": _Copy(("body_inertia",), lambda system: jax.vmap(jnp.diag)(system.body_inertia[1:])),
    "link.inertia.mass": _Copy(("body_mass",), lambda system: system.body_mass[1:]),
    "link.invweight": _Copy(("body_invweight0",), lambda system: system.body_invweight0[1:, 0]),
    "link.joint.pos": _Copy(("jnt_pos",), _joint_positions),
    "dof.motion.ang": _Copy(("jnt_axis",), _motion("ang")),
    "dof.motion.vel": _Copy(("jnt_axis",), _motion("vel")),
    "dof.armature": _same("dof_armature"),
    "dof.stiffness": _Copy(("jnt_stiffness",), _stiffness),
    "dof.damping": _same("dof_damping"),
    "dof.limit": _Copy(("jnt_range",), _limits),
    "dof.invweight": _same("dof_invweight0"),
    "dof.solver_params": _Copy(("jnt_solref", "jnt_solimp"), _solver),
    "actuator.gain": _Copy(("actuator_gainprm",), _column("actuator_gainprm", 0)),
    "actuator.gear": _Copy(("actuator_gear",), _column("actuator_gear", 0)),
    "actuator.ctrl_range": _Copy(("actuator_ctrlrange",), _range("ctrl")),
    "actuator.force_range": _Copy(("actuator_forcerange",), _range("force")),
    "actuator.bias_q": _Copy(("actuator_biasprm",), _bias(1)),
    "actuator.bias_qd": _Copy(("actuator_biasprm",), _bias(2)),
}


def _copies_of(fields: Collection[str], system: Any) -> dict[str, _Copy]:
    """The parts of a System that are copies of any of these fields, by dotted name."""
    found = {part: copy for part, copy in _COPIES.items() if set(copy.fields) & set(fields)}
    if system.dof.limit is None:  # no joint is limited
        found.pop("dof.limit", None)
    return found


def _differs(copy: Any, value: Any) -> bool:
    pairs = zip(jax.tree.leaves(copy), jax.tree.leaves(value), strict=True)
    return any(np.shape(x) != np.shape(y) or not np.allclose(x, y, rtol=1e-5, atol=1e-7) for x, y in pairs)


def check(system: Any, fields: Collection[str]) -> None:
    """Rejects edits of fields whose copies have values of the environment's own.

    Args:
        system: a ``brax.base.System``, not edited.
        fields: names of the fields to edit.

    Raises:
        ValueError: one line.
    """
    for part, copy in _copies_of(fields, system).items():
        if _differs(operator.attrgetter(part)(system), copy.value(system)):
            raise ValueError(
                f"a task cannot edit {copy.fields[0]} here: the environment has set sys.{part} to values "
                "other than its model's, so that the edit would change only one of the two"
            )


def mirrored(system: Any, fields: Collection[str]) -> Any:
    """The System with brax's copies of these fields computed again from its edited model.

    Args:
        system: a ``brax.base.System`` whose model is edited.
        fields: names of the edited fields.
    """
    return system.tree_replace(
        {part: copy.value(system) for part, copy in _copies_of(fields, system).items()}
    )
