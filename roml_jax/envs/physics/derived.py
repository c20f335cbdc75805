"""Recomputes the constants that MuJoCo derives from a model's other fields, for models edited by a task.

MuJoCo computes these constants when it compiles a model (``mj_setConst``). If a mass, pose or armature is
edited later, the inverse weights, lengths and sums are those of the unedited model ("stale") until they are
recomputed ("consistent"). The functions here are pure functions of ``mjx.Model``: they run inside ``jit``,
and under ``vmap`` only the values that depend on edited leaves are batched.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs.physics.base import ModelLeaves
from roml_jax.quiet import mjx
from roml_jax.types import Array

_SLIDERS_ONLY = 2  # value of body_simple if all joints of a body are slides along its inertial axes


def inertia_scaled(original_mass: Array, original_inertia: Array, new_mass: Array) -> Array:
    """Principal inertias after a change of each body's density: they scale with the body's mass.

    Args:
        original_mass: (nbody,) kg.
        original_inertia: (nbody, 3) kg m^2.
        new_mass: (nbody,) kg.

    Returns:
        (nbody, 3) kg m^2. A body whose original mass is 0 keeps its inertia.
    """
    massive = original_mass > 0
    ratio = jnp.where(massive, new_mass / jnp.where(massive, original_mass, 1.0), 1.0)
    return original_inertia * ratio[:, None]


def consistent(model: mjx.Model, edits: ModelLeaves) -> ModelLeaves:
    """A task's edits with all fields that depend on them.

    Args:
        model: the unedited model, unbatched.
        edits: the leaves that the task replaces. A new ``body_mass`` without a new ``body_inertia`` is a
            change of density, so the inertia is scaled with it.

    Returns:
        The edits, the scaled inertia if there is one, and ``set_const`` of the edited model, which overwrites
        derived leaves among the edits.
    """
    if "body_mass" in edits and "body_inertia" not in edits:
        inertia = inertia_scaled(model.body_mass, model.body_inertia, edits["body_mass"])
        edits = {**edits, "body_inertia": inertia}
    return {**edits, **set_const(model.tree_replace(dict(edits)))}


def set_const(model: mjx.Model) -> ModelLeaves:
    """The leaves that ``mujoco.mj_setConst`` recomputes, as a function of the model's other leaves.

    All are computed at ``qpos0``: the geoms' bounding radii; subtree masses; the diagonal of the mass matrix
    M; for every dof, body and tendon the diagonal of J M^-1 J', which scales its constraints; tendon lengths;
    the acceleration per unit of actuator force; the second anchor of each ``connect``; and the pose of each
    ``weld`` for which the file has none. Not recomputed are fields that MJX has only for cameras and lights
    or never reads (``geom_aabb``), and fields that MuJoCo sets only when it compiles a model: statistics,
    ``tendon_lengthspring`` and damping given as a ratio.

    Args:
        model: unbatched, of MJX's JAX implementation. Bodies that move must have mass or armature; a singular
            M gives NaN.

    Returns:
        Leaves for ``model.tree_replace``, with the shapes and dtypes of the model's leaves; only fields
        that the model has (no tendon fields without tendons).

    Raises:
        ValueError: for a model of another implementation.

    Source: ``mj_setConst`` of MuJoCo 3.17 and 4.0; its inputs and outputs are listed in ``mjxmacro.h``.
    """
    if model.impl != mjx.Impl.JAX:
        raise ValueError(f"set_const needs a model of MJX's jax implementation, got {model.impl.value}")
    # by default, accelerators multiply matrices in reduced precision
    with jax.default_matmul_precision("highest"):
        data = mjx.com_pos(model, mjx.kinematics(model, _data_at_qpos0(model)))
        data = mjx.crb(model, mjx.tendon(model, data))
        rigid_diagonal = jnp.diagonal(mjx.full_m(model, data))
        data = mjx.transmission(model, mjx.tendon_armature(model, data))
        leaves = {
            "geom_rbound": _bounding_radii(model),
            "body_subtreemass": jnp.asarray(is_ancestor(model), model.body_mass.dtype).T @ model.body_mass,
            "dof_M0": rigid_diagonal,
            **_inverse_weights(model, data, mjx.full_m(model, data)),
        }
        if model.ntendon:
            leaves["tendon_length0"] = data.ten_length
        if model.neq:
            leaves["eq_data"] = _equality_data(model, data)
    return leaves


def _data_at_qpos0(model: mjx.Model) -> mjx.Data:
    """Blank data at qpos0. ``make_data`` is used for shapes only, since it places arrays on one device."""
    shapes = jax.eval_shape(lambda m: mjx.make_data(m, impl="jax"), model)
    data = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    data = data.replace(qpos=model.qpos0)
    if not model.nmocap:
        return data
    mocap_bodies = np.array([np.flatnonzero(model.body_mocapid == i)[0] for i in range(model.nmocap)])
    return data.replace(mocap_pos=model.body_pos[mocap_bodies], mocap_quat=model.body_quat[mocap_bodies])


def _bounding_radii(model: mjx.Model) -> Array:
    """(ngeom,) from the sizes of primitive geoms; those of planes, meshes and height fields do not change."""
    kinds = mujoco.mjtGeom
    first, second, _ = jnp.moveaxis(model.geom_size, -1, 0)
    primitives = {
        kinds.mjGEOM_SPHERE: first,
        kinds.mjGEOM_CAPSULE: first + second,
        kinds.mjGEOM_CYLINDER: jnp.hypot(first, second),
        kinds.mjGEOM_ELLIPSOID: model.geom_size.max(-1),
        kinds.mjGEOM_BOX: jnp.linalg.norm(model.geom_size, axis=-1),
    }
    radii = model.geom_rbound
    for kind, radius in primitives.items():
        radii = jnp.where(model.geom_type == kind, radius, radii)
    return radii


def is_ancestor(model: mjx.Model | mujoco.MjModel) -> np.ndarray:
    """(nbody, nbody) bool: whether body j is body i or one of its ancestors."""
    mask = np.eye(model.nbody, dtype=bool)
    for body in range(1, model.nbody):  # parents come before children
        mask[body] |= mask[model.body_parentid[body]]
    return mask


def _inverse_weights(model: mjx.Model, data: mjx.Data, mass_matrix: Array) -> dict[str, Array]:
    """All fields that need M^-1, from one factorisation M = L L'.

    The diagonal of J M^-1 J' is the sum of squares along each row of J L'^-1.
    """
    factor = jnp.linalg.cholesky(mass_matrix)
    inverse_factor = jax.scipy.linalg.solve_triangular(factor, jnp.eye(model.nv), lower=True)

    def inverse_inertia(jacobian: Array) -> Array:
        return jnp.square(jacobian @ inverse_factor.T).sum(-1)

    leaves = {
        "dof_invweight0": _dof_weights(model, jnp.square(inverse_factor).sum(0)),
        "body_invweight0": _body_weights(model, inverse_inertia(_com_jacobians(model, data))),
    }
    if model.ntendon:
        leaves["tendon_invweight0"] = inverse_inertia(data._impl.ten_J)
    if model.nu:
        accelerations = data._impl.actuator_moment @ inverse_factor.T @ inverse_factor
        leaves["actuator_acc0"] = jnp.linalg.norm(accelerations, axis=-1)
    return leaves


def _com_jacobians(model: mjx.Model, data: mjx.Data) -> Array:
    """(nbody, 6, nv): Jacobians of the linear and angular velocity of each body's centre of mass."""
    moves = is_ancestor(model)[:, model.dof_bodyid]
    angular, linear = data.cdof[:, :3], data.cdof[:, 3:]
    offset = data.xipos - data.subtree_com[model.body_rootid]
    linear_at_com = linear + jnp.cross(angular, offset[:, None])
    twist = jnp.concatenate([linear_at_com, jnp.broadcast_to(angular, linear_at_com.shape)], -1)
    return (twist * moves[..., None]).swapaxes(-1, -2)


def _body_weights(model: mjx.Model, diagonal: Array) -> Array:
    """(nbody, 2): means of (nbody, 6) over translations and over rotations; 0 for static bodies."""
    weights = diagonal.reshape(model.nbody, 2, 3).mean(-1)
    of_mass = jnp.stack([_inverse_mass(model), 0 * weights[:, 1]], -1)
    weights = jnp.where(_sliders(model)[:, None], of_mass, weights)
    return jnp.where((model.body_weldid == 0)[:, None], 0.0, weights)


def _dof_weights(model: mjx.Model, diagonal: Array) -> Array:
    """(nv,): the diagonal of M^-1, averaged over the three dofs of a rotation or a free translation."""
    joint = model.dof_jntid
    offset = np.arange(model.nv) - model.jnt_dofadr[joint]
    group = 2 * joint + (offset >= 3)
    same = group[:, None] == group
    mean = jnp.asarray(same / same.sum(1, keepdims=True), diagonal.dtype) @ diagonal
    return jnp.where(_sliders(model)[model.dof_bodyid], _inverse_mass(model)[model.dof_bodyid], mean)


def _sliders(model: mjx.Model) -> Array:
    """(nbody,) bool: bodies with slide joints only, whose joints still lie along their inertial axes."""
    upright = jnp.array([1.0, 0.0, 0.0, 0.0])
    in_place = (model.body_ipos == 0).all(-1) & (model.body_iquat == upright).all(-1)
    along_axes = (model.jnt_pos == 0).all(-1) & ((jnp.abs(model.jnt_axis) > mujoco.mjMINVAL).sum(-1) == 1)
    in_place = in_place.at[model.jnt_bodyid].min(along_axes)
    return (model.body_simple == _SLIDERS_ONLY) & in_place


def _inverse_mass(model: mjx.Model) -> Array:
    """(nbody,): MuJoCo's weights for bodies with slide joints only, which ignore the armature."""
    return 1 / jnp.maximum(mujoco.mjMINVAL, model.body_mass)


def _poses_bodies(model: mjx.Model, kind: mujoco.mjtEq) -> np.ndarray:
    """Indices of the equality constraints of a kind that are between bodies, not sites."""
    return np.flatnonzero((model.eq_type == kind) & (model.eq_objtype == mujoco.mjtObj.mjOBJ_BODY))


def _equality_data(model: mjx.Model, data: mjx.Data) -> Array:
    """``eq_data`` with the anchors and poses for which each ``connect`` and ``weld`` holds at ``qpos0``."""
    connects = _poses_bodies(model, mujoco.mjtEq.mjEQ_CONNECT)
    first, second = model.eq_obj1id[connects], model.eq_obj2id[connects]
    anchor = _in_body(data, second, _in_world(data, first, model.eq_data[connects, :3]))
    eq_data = model.eq_data.at[connects, 3:6].set(anchor)

    welds = _poses_bodies(model, mujoco.mjtEq.mjEQ_WELD)
    first, second = model.eq_obj1id[welds], model.eq_obj2id[welds]
    anchor = _in_body(data, first, _in_world(data, second, model.eq_data[welds, :3]))
    turn = jax.vmap(_relative_rotation)(data.xquat[first], data.xquat[second])
    pose = jnp.concatenate([anchor, turn], -1)
    from_qpos0 = model.eq_data[welds, 11:] != 0  # otherwise the file contains the pose
    return eq_data.at[welds, 3:10].set(jnp.where(from_qpos0, pose, model.eq_data[welds, 3:10]))


def _in_world(data: mjx.Data, bodies: np.ndarray, points: Array) -> Array:
    return data.xpos[bodies] + jnp.einsum("nij,nj->ni", data.xmat[bodies], points)


def _in_body(data: mjx.Data, bodies: np.ndarray, points: Array) -> Array:
    return jnp.einsum("nji,nj->ni", data.xmat[bodies], points - data.xpos[bodies])


def _relative_rotation(first: Array, second: Array) -> Array:
    """conj(first) * second, as quaternions (4,) with the real part first."""
    w, axis, v, other = first[0], -first[1:], second[0], second[1:]
    vector = w * other + v * axis + jnp.cross(axis, other)
    return jnp.concatenate([(w * v - axis @ other)[None], vector])
