"""A MuJoCo model and its motion as data for the viewer: shapes, and their poses in each frame."""

from __future__ import annotations

import base64
from typing import Any

import mujoco
import numpy as np

from roml_jax.envs import pictures
from roml_jax.render.robots import Robot
from roml_jax.render.rollouts import Played

_SHAPES = {
    int(mujoco.mjtGeom.mjGEOM_SPHERE): "sphere",
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): "capsule",
    int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): "ellipsoid",
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): "cylinder",
    int(mujoco.mjtGeom.mjGEOM_BOX): "box",
    int(mujoco.mjtGeom.mjGEOM_MESH): "mesh",
    int(mujoco.mjtGeom.mjGEOM_HFIELD): "mesh",
}
_SHOWN_GROUPS = 3  # groups 0 to 2, as in MuJoCo's viewer
_SAMPLED = 16  # frames from which the radius is taken
_LEVEL = 0.99  # a plane is a floor if the upward part of its normal is at least this
_HFIELD = 64  # maximum number of points along each side of a height field


def drawn_geoms(model: mujoco.MjModel) -> list[int]:
    """Indices of the geoms to draw: those that are visible and have a solid shape.

    A model whose moving geoms are all in the hidden groups 3 to 5 is drawn whole.
    """
    solid = [i for i in range(model.ngeom) if int(model.geom_type[i]) in _SHAPES and _rgba(model, i)[3] > 0]
    shown, moving = [i for i in solid if model.geom_group[i] < _SHOWN_GROUPS], _moving_bodies(model)
    return shown if moving[model.geom_bodyid[shown]].any() else solid


def _moving_bodies(model: mujoco.MjModel) -> np.ndarray:
    """(nbody,) bool, which bodies can move; all but the world if none can."""
    moving = model.body_weldid != 0
    return moving if moving.any() else np.arange(model.nbody) > 0


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
    if int(model.geom_type[geom]) == mujoco.mjtGeom.mjGEOM_HFIELD:
        vertices, triangles = _height_field(model, model.geom_dataid[geom])
        shape["vertices"], shape["faces"] = _packed(vertices, np.float32), _packed(triangles, np.uint32)
    elif kind == "mesh":
        mesh = model.geom_dataid[geom]
        first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        face, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        shape["vertices"] = _packed(model.mesh_vert[first : first + count], np.float32)
        shape["faces"] = _packed(model.mesh_face[face : face + faces], np.uint32)
    return shape


def _height_field(model: mujoco.MjModel, field: int) -> tuple[np.ndarray, np.ndarray]:
    """The surface of a height field as vertices (v, 3) and triangles (t, 3), at most 64 points a side."""
    rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
    first, (x, y, top, _) = model.hfield_adr[field], model.hfield_size[field]
    heights = model.hfield_data[first : first + rows * columns].reshape(rows, columns)
    i, j = (np.linspace(0, n - 1, min(n, _HFIELD)).astype(int) for n in (rows, columns))
    at_y, at_x = np.meshgrid(y * (2 * i / (rows - 1) - 1), x * (2 * j / (columns - 1) - 1), indexing="ij")
    vertices = np.stack([at_x, at_y, top * heights[np.ix_(i, j)]], axis=-1).reshape(-1, 3)
    corner = (np.arange(len(i) - 1)[:, None] * len(j) + np.arange(len(j) - 1)).ravel()
    right, up = corner + 1, corner + len(j)
    lower, upper = np.stack([corner, right, up + 1], axis=1), np.stack([corner, up + 1, up], axis=1)
    return vertices, np.concatenate([lower, upper])


def _packed(values: np.ndarray, dtype: Any) -> str:
    """Encodes an array as base64, little-endian."""
    return base64.b64encode(
        np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()
    ).decode()


def frames(model: mujoco.MjModel, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses of the drawn geoms, and positions of the centre of mass of everything that can move.

    Args:
        model: the model with the task's edits.
        poses: (F, p) of each frame; see ``pictures.pose_of``.

    Returns:
        (positions and quaternions (F, g, 7), centre of mass (F, 3)).
    """
    data, geoms = mujoco.MjData(model), drawn_geoms(model)
    poses_of_geoms, root = np.zeros((len(poses), len(geoms), 7)), np.zeros((len(poses), 3))
    quaternion, mass = np.zeros(4), np.where(_moving_bodies(model), np.maximum(model.body_mass, 1e-9), 0)
    for f, pose in enumerate(poses):
        pictures.set_pose(model, data, pose)
        mujoco.mj_kinematics(model, data)
        root[f] = mass @ data.xipos / max(mass.sum(), 1e-9)
        for g, geom in enumerate(geoms):
            mujoco.mju_mat2Quat(quaternion, data.geom_xmat[geom])
            same = f == 0 or quaternion @ poses_of_geoms[f - 1, g, 3:] >= 0
            poses_of_geoms[f, g] = [*data.geom_xpos[geom], *(quaternion if same else -quaternion)]
    return poses_of_geoms, root


def _floor(model: mujoco.MjModel, poses: np.ndarray) -> float:
    """Height of the floor: of the first level plane that cannot move, or the lowest point of the motion.

    Args:
        model: the model with the task's edits.
        poses: (F, g, 7) poses of the drawn geoms.
    """
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    fixed = model.body_weldid[model.geom_bodyid] == 0
    level = np.flatnonzero(planes & fixed & (data.geom_xmat[:, 8] >= _LEVEL))
    if level.size:
        return float(data.geom_xpos[level[0], 2])
    _, x, y, z = np.moveaxis(poses[..., 3:], -1, 0)
    w = poses[..., 3]
    upward = np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=-1)
    box = model.geom_aabb[drawn_geoms(model)]  # centre and half sizes, in the geom's frame
    lowest = poses[..., 2] + (upward * box[:, :3]).sum(-1) - (np.abs(upward) * box[:, 3:]).sum(-1)
    return float(lowest.min(initial=np.inf)) if lowest.size else 0.0


def radius(model: mujoco.MjModel, poses: np.ndarray) -> float:
    """Radius of a ball around everything that can move, centred at its centre of mass.

    Args:
        model: the model with the task's edits.
        poses: (F, p) of each frame; the median over some frames is returned.
    """
    sampled = poses[np.linspace(0, len(poses) - 1, min(len(poses), _SAMPLED)).astype(int)]
    poses_of_geoms, root = frames(model, sampled)
    geoms = np.array(drawn_geoms(model), int)
    moving = _moving_bodies(model)[model.geom_bodyid[geoms]]
    which = moving if moving.any() else np.ones_like(moving)
    distance = np.linalg.norm(poses_of_geoms[:, which, :3] - root[:, None], axis=-1)
    reach = distance + model.geom_rbound[geoms[which]]
    return max(float(np.median(reach.max(axis=1, initial=0.0))), 0.01)


def scene(robot: Robot, played: Played) -> dict[str, Any]:
    """Data of a robot's episodes for the viewer; can be serialised as JSON."""
    model = robot.edited(played.task)
    k, steps = played.reward.shape[:2]
    poses = played.poses[:, :, 0].reshape(k * (steps + 1), -1)
    poses_of_geoms, root = frames(model, poses)
    return {
        "label": played.label,
        "shapes": [_shape(model, geom) for geom in drawn_geoms(model)],
        "frames": _packed(poses_of_geoms, np.float32),
        "root": _packed(root, np.float32),
        "reward": _packed(played.reward[:, :, 0], np.float32),
        "lengths": played.lengths[:, 0].tolist(),
        "floor": _floor(model, poses_of_geoms),
        "radius": radius(model, poses),
    }
