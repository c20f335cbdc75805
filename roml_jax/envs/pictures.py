"""Images of a MuJoCo model in motion, rendered with offscreen OpenGL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs.physics.base import ModelLeaves, write_field

SIZE = (480, 360)
"""Width and height of an image, in pixels."""
_AZIMUTH, _ELEVATION = 110.0, -16.0  # degrees, of the camera
_EXTENTS = 1.5  # distance of the camera, in extents of the model


def edited(model: mujoco.MjModel, leaves: ModelLeaves) -> mujoco.MjModel:
    """A copy of a compiled model with a task's edits, for kinematics.

    The compiler marks bodies, geoms and sites whose frames coincide, and MuJoCo then takes one for the other.
    An edit may move them apart.
    """
    copy = model.__copy__()
    for name, leaf in leaves.items():
        write_field(copy, name, np.asarray(leaf))
    for marks in (copy.body_sameframe[1:], copy.geom_sameframe, copy.site_sameframe):
        marks[:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
    return copy


def pose_of(state: Any) -> jax.Array:
    """What a picture needs of a simulation's state: qpos, then the poses of mocap bodies, (..., p).

    Args:
        state: of a model on MuJoCo: this package's, or data of MuJoCo XLA; leaves (..., nq) and so on.
    """
    carried = getattr(state, "carried", {})
    parts = [state.qpos]
    for name in ("mocap_pos", "mocap_quat"):
        part = carried.get(name, getattr(state, name, None))
        if part is not None and part.size:
            parts.append(part.reshape(*part.shape[:-2], -1))
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else state.qpos


def set_pose(model: mujoco.MjModel, data: mujoco.MjData, pose: np.ndarray) -> None:
    """Writes what ``pose_of`` gives into MuJoCo's data; mocap bodies stay as they are without a pose."""
    qpos, mocap = np.split(np.asarray(pose), [model.nq])
    data.qpos[:] = qpos
    if mocap.size:
        position, quaternion = np.split(mocap, [3 * model.nmocap])
        data.mocap_pos[:], data.mocap_quat[:] = position.reshape(-1, 3), quaternion.reshape(-1, 4)


def images(
    model: mujoco.MjModel, poses: np.ndarray, distance: float | None = None, size: tuple[int, int] = SIZE
) -> Iterator[np.ndarray]:
    """Yields an image (height, width, 3), uint8, of each pose; the camera follows the robot.

    Args:
        model: with the task's edits.
        poses: (T, p); see ``pose_of``.
        distance: of the camera from the robot, in metres; by default from the model's extent.
        size: width and height, in pixels.
    """
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.azimuth, camera.elevation = _AZIMUTH, _ELEVATION
    camera.distance = distance or _EXTENTS * float(model.stat.extent)
    width, height = size
    with mujoco.Renderer(model, height, width) as renderer:
        for pose in np.asarray(poses):
            set_pose(model, data, pose)
            mujoco.mj_forward(model, data)
            camera.lookat[:] = data.subtree_com[min(1, model.nbody - 1)]
            renderer.update_scene(data, camera)
            yield renderer.render()
