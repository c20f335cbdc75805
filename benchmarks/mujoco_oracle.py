"""An independent implementation of the MuJoCo environments, in NumPy and MuJoCo's C engine.

It does not use roml_jax. Models are edited by hand, collision boxes are so large that they cull nothing, and
the solver runs to convergence in double precision.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from importlib import resources

import mujoco
import numpy as np

RADIUS = 0.046
SUBSTEPS = {"hopper": 4, "walker2d": 4}  # of a control step; 5 for the others
State = tuple[np.ndarray, np.ndarray, np.ndarray]  # qpos, qvel, warm start
MULTI = {
    "a": ("actuator_gear", "body_inertia", "geom_solmix", "geom_solref", "jnt_margin", "jnt_stiffness"),
    "b": ("dof_frictionloss", "dof_solref", "geom_friction", "geom_gap", "geom_solimp"),
    "c": ("body_ipos", "body_mass", "body_pos", "geom_gap", "geom_margin", "jnt_range", "jnt_solref",
          "jnt_stiffness"),
}  # fmt: skip
MULTI_INDEX = {  # their indices among the task's ten dimensions
    "a": (0, 2, 4, 5, 6, 7),
    "b": (2, 3, 4, 5, 7),
    "c": (0, 1, 2, 3, 4, 5, 6, 7),
}


@functools.cache
def base_model(robot: str) -> mujoco.MjModel:
    """The MJCF file with Newton's solver run to convergence."""
    name = {"cheetah": "half_cheetah", "walker2d": "walker2d_v5"}.get(robot, robot)
    spec = mujoco.MjSpec.from_file(str(resources.files("gymnasium") / f"envs/mujoco/assets/{name}.xml"))
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    spec.option.iterations, spec.option.ls_iterations = 100, 50
    spec.compiler.settotalmass = -1
    model = spec.compile()
    if robot == "cheetah":
        mujoco.mj_setTotalmass(model, 14.0)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    if robot not in SUBSTEPS:
        model.geom_margin[:] /= 2  # this engine adds two geoms' margins, the reference's uses the larger
    return model


def task_model(name: str, task: np.ndarray, option: str | None = None) -> mujoco.MjModel:
    """The model of a task, edited after compilation as in the reference.

    Quantities that MuJoCo derived at compilation are not updated, including the marks of geoms in inertial
    frames; those of Hopper and Walker2d are. ``option`` is cheetah_multi's set of arrays.
    """
    robot, kind = name.split("_")
    model = copy.copy(base_model(robot))
    if kind == "dynamics":
        model.body_mass[:] *= task[0]
        model.body_inertia[:] *= task[0]
        model.geom_friction[:, 0] *= task[1]
        model.actuator_gear[:, 0] *= task[2]
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model
    mass = task[0] if kind in ("mass", "body") else 1.0
    model.body_mass[:] *= mass
    if kind in ("mass", "body") and robot == "cheetah":
        model.geom_size[1:, 0] = RADIUS * mass
    if kind in ("mass", "body") and robot == "humanoid":
        for geom in range(1, model.ngeom):
            if kind == "mass" or geom != 2:
                model.geom_size[geom, 0] *= mass
    if kind == "body":
        model.dof_damping[:] *= task[1]
        columns = slice(None) if robot == "humanoid" else 1
        model.geom_size[2, columns] *= task[2]
    if kind == "multi":
        for field, index in zip(MULTI[option], MULTI_INDEX[option], strict=True):
            getattr(model, field)[:] *= task[index]
    subtree = model.body_mass.copy()
    for body in range(model.nbody - 1, 0, -1):
        subtree[model.body_parentid[body]] += subtree[body]
    model.body_subtreemass[:] = subtree
    open_boxes(model)
    return model


def open_boxes(model: mujoco.MjModel) -> None:
    """Makes the collision boxes so large that they cull no contact."""
    model.geom_rbound[1:] = 10.0
    model.geom_aabb[1:, 3:] = 10.0
    model.bvh_aabb[:] = 10.0 * np.array([0, 0, 0, 1, 1, 1])


def observe(name: str, data: mujoco.MjData) -> np.ndarray:
    """The observation without the end flag."""
    robot, kind = name.split("_")
    if kind == "dynamics":
        return np.concatenate([data.qpos[1:], np.clip(data.qvel, -10, 10)])
    if robot == "cheetah":
        return np.concatenate([data.qpos[1:], data.qvel, data.xpos[1]])
    if robot == "humanoid":
        parts = [data.qpos[2:], data.qvel, data.cinert.ravel(), data.cvel.ravel(), data.qfrc_actuator]
        return np.concatenate([*parts, np.zeros(84)])
    if kind == "goal":
        return np.concatenate([data.qpos, data.qvel, np.zeros(84)])
    return np.concatenate([data.qpos[2:], data.qvel])


def center(model: mujoco.MjModel, data: mujoco.MjData) -> float:
    """The x of the center of mass."""
    return (model.body_mass[:, None] * data.xipos).sum(axis=0)[0] / model.body_mass.sum()


def reward(
    name: str,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    task: np.ndarray,
    action: np.ndarray,
    before: Mapping[str, float],
) -> float:
    """The reward of a step; ``before`` has the x of root, torso and center of mass before the step."""
    robot, kind = name.split("_")
    if kind == "dynamics":
        speed = (data.qpos[0] - before["root"]) / 0.008
        return speed + 1.0 * has_not_fallen(robot, data) - 1e-3 * np.square(action).sum()
    if robot == "cheetah":
        speed = (data.qpos[0] - before["root"]) / 0.05
        cost = 0.05 * np.square(action).sum()
        return -abs(speed - task[0]) - cost if kind == "vel" else speed - cost + data.qpos[1]
    if robot == "humanoid":
        speed = (center(model, data) - before["center"]) / 0.015
        alive = 5.0 * (1.0 <= data.qpos[2] <= 2.0) - 0.1 * np.square(np.clip(action, -0.4, 0.4)).sum()
        return alive - 1.25 * abs(speed - task[0]) if kind == "vel" else alive + 1.25 * speed
    if kind == "goal":
        return -abs(data.xpos[1, :2] - task).sum() - 0.1 * np.square(action).sum()
    speed = (data.xpos[1, 0] - before["torso"]) / 0.05
    alive = 1.0 * (0.2 <= data.qpos[2] <= 1.0) - 0.5 * np.square(action).sum()
    return alive - 1.25 * abs(speed - task[0]) if kind == "vel" else alive + speed


def has_not_fallen(robot: str, data: mujoco.MjData) -> bool:
    """Whether a hopper or a walker is healthy, as gymnasium defines it."""
    height, angle = data.qpos[1:3]
    if robot == "walker2d":
        return 0.8 < height < 2.0 and -1.0 < angle < 1.0
    rest = np.concatenate([data.qpos[2:], data.qvel])
    return height > 0.7 and -0.2 < angle < 0.2 and (abs(rest) < 100).all()


def step(name: str, model: mujoco.MjModel, data: mujoco.MjData, state: State, action: np.ndarray) -> None:
    """One control step from an environment's state (qpos, qvel, warm start)."""
    mujoco.mj_resetData(model, data)
    data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = state
    data.ctrl[:] = action
    for _ in range(SUBSTEPS.get(name.split("_")[0], 5)):
        mujoco.mj_step(model, data)
