"""A MuJoCo model and its motion as data for the viewer: shapes, and their poses in each frame."""

from __future__ import annotations

import base64
from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs import TaskEnv, pictures
from roml_jax.render.rollouts import Played

_SHAPES = {
    int(mujoco.mjtGeom.mjGEOM_SPHERE): "sphere",
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): "capsule",
    int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): "ellipsoid",
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): "cylinder",
    int(mujoco.mjtGeom.mjGEOM_BOX): "box",
    int(mujoco.mjtGeom.mjGEOM_MESH): "mesh",
}
_SHOWN_GROUPS = 3  # groups 0 to 2, as in MuJoCo's viewer


def task_model(env: TaskEnv, task: np.ndarray) -> mujoco.MjModel:
    """A copy of the environment's compiled model with a task's edits."""
    return pictures.edited(env.physics.model, env.apply_task(jnp.asarray(task, jnp.float32)))


def drawn_geoms(model: mujoco.MjModel) -> list[int]:
    """Indices of the geoms to draw: those that are visible and have a solid shape."""
    return [
        i
        for i in range(model.ngeom)
        if int(model.geom_type[i]) in _SHAPES
        and model.geom_group[i] < _SHOWN_GROUPS
        and _rgba(model, i)[3] > 0
    ]


def _rgba(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """A geom's colour (RGBA): its own or, if that is MuJoCo's default, its material's."""
    material, colour = model.geom_matid[geom], model.geom_rgba[geom]
    is_default = np.allclose(colour, [0.5, 0.5, 0.5, 1.0])
    return model.mat_rgba[material] if material >= 0 and is_default else colour


def _shape(model: mujoco.MjModel, geom: int) -> dict[str, Any]:
    kind = _SHAPES[int(model.geom_type[geom])]
    shape: dict[str, Any] = {
        "type": kind,
        "size": [round(float(x), 5) for x in model.geom_size[geom]],
        "rgb": [round(float(x), 3) for x in _rgba(model, geom)[:3]],
    }
    if kind == "mesh":
        mesh = model.geom_dataid[geom]
        first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        face, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        shape["vertices"] = _packed(model.mesh_vert[first : first + count], np.float32)
        shape["faces"] = _packed(model.mesh_face[face : face + faces], np.uint32)
    return shape


def _packed(values: np.ndarray, dtype: Any) -> str:
    """Encodes an array as base64, little-endian."""
    return base64.b64encode(
        np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()
    ).decode()


def frames(model: mujoco.MjModel, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses of the drawn geoms, and positions of the robot's centre of mass.

    Args:
        model: the model with the task's edits.
        poses: (F, nq) qpos of each frame.

    Returns:
        (positions and quaternions (F, g, 7), centre of mass (F, 3)).
    """
    data, geoms = mujoco.MjData(model), drawn_geoms(model)
    poses_of_geoms, root = np.zeros((len(poses), len(geoms), 7)), np.zeros((len(poses), 3))
    quaternion = np.zeros(4)
    for f, qpos in enumerate(poses):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        root[f] = data.subtree_com[min(1, model.nbody - 1)]
        for g, geom in enumerate(geoms):
            mujoco.mju_mat2Quat(quaternion, data.geom_xmat[geom])
            same = f == 0 or quaternion @ poses_of_geoms[f - 1, g, 3:] >= 0
            poses_of_geoms[f, g] = [*data.geom_xpos[geom], *(quaternion if same else -quaternion)]
    return poses_of_geoms, root


def _floor(model: mujoco.MjModel) -> float | None:
    """Height of the first plane, or None if there is no plane."""
    planes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
    return float(model.geom_pos[planes[0], 2]) if planes.size else None


def radius(model: mujoco.MjModel, qpos: np.ndarray) -> float:
    """Radius of a ball around the robot at ``qpos`` (nq,), centred at its centre of mass."""
    poses_of_geoms, root = frames(model, qpos[None])
    reach = np.linalg.norm(poses_of_geoms[0, :, :3] - root[0], axis=1) + model.geom_rbound[drawn_geoms(model)]
    return float(reach.max(initial=0.1))


def scene(env: TaskEnv, played: Played) -> dict[str, Any]:
    """Data of a robot's episodes for the viewer; can be serialised as JSON."""
    model = task_model(env, played.task)
    k, steps = played.reward.shape[:2]
    poses_of_geoms, root = frames(model, played.poses[:, :, 0].reshape(k * (steps + 1), -1))
    return {
        "label": played.label,
        "shapes": [_shape(model, geom) for geom in drawn_geoms(model)],
        "frames": _packed(poses_of_geoms, np.float32),
        "root": _packed(root, np.float32),
        "reward": _packed(played.reward[:, :, 0], np.float32),
        "floor": _floor(model),
        "radius": radius(model, played.poses[0, 0, 0]),
    }
