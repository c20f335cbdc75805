"""Images of a MuJoCo model in motion, rendered with offscreen OpenGL."""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np

from roml_jax.envs.physics.base import ModelLeaves, write_field

SIZE = (480, 360)
"""Width and height of an image, in pixels."""
_AZIMUTH, _ELEVATION = 110.0, -16.0  # degrees, of the camera
_EXTENTS = 1.5  # distance of the camera, in extents of the model


def edited(model: mujoco.MjModel, leaves: ModelLeaves) -> mujoco.MjModel:
    """A copy of a compiled model with a task's edits."""
    copy = model.__copy__()
    for name, leaf in leaves.items():
        write_field(copy, name, np.asarray(leaf))
    return copy


def images(
    model: mujoco.MjModel, qpos: np.ndarray, distance: float | None = None, size: tuple[int, int] = SIZE
) -> Iterator[np.ndarray]:
    """Yields an image (height, width, 3), uint8, of each pose; the camera follows the robot.

    Args:
        model: with the task's edits.
        qpos: (T, nq).
        distance: of the camera from the robot, in metres; by default from the model's extent.
        size: width and height, in pixels.
    """
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.azimuth, camera.elevation = _AZIMUTH, _ELEVATION
    camera.distance = distance or _EXTENTS * float(model.stat.extent)
    width, height = size
    with mujoco.Renderer(model, height, width) as renderer:
        for pose in np.asarray(qpos):
            data.qpos[:] = pose
            mujoco.mj_forward(model, data)
            camera.lookat[:] = data.subtree_com[min(1, model.nbody - 1)]
            renderer.update_scene(data, camera)
            yield renderer.render()
