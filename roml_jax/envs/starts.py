"""The states in which episodes start."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs.physics import ModelLeaves
from roml_jax.errors import suggestion
from roml_jax.types import Array


class TaskModel(NamedTuple):
    """A model as a task has it.

    Attributes:
        task: (d,).
        leaves: the model fields that the task replaced.
        base: the unedited model.
        field: (name) -> the value of a model field under this task.
    """

    task: Array
    leaves: ModelLeaves
    base: mujoco.MjModel
    field: Callable[[str], Array]


class Beginning(NamedTuple):
    """The state in which an episode starts.

    Attributes:
        qpos: (nq,) positions.
        qvel: (nv,) velocities.
        others: other parts of MuJoCo's state and the controls, by their names in MuJoCo's data; what is left
            out is as MuJoCo's reset leaves it.
    """

    qpos: Array
    qvel: Array
    others: Mapping[str, Array]


Start = str | Callable[..., tuple[Array, ...]]
"""A keyframe's name, or a function (key) or (key, ``TaskModel``) -> (qpos, qvel) or (qpos, qvel, act)."""


def noisy_start(
    model: mujoco.MjModel, position: float, velocity: float, *, normal_velocity: bool = True
) -> Start:
    """Initial states near ``qpos0``, which is the task's where tasks edit it.

    Args:
        model: the model.
        position: qpos is uniform within +-position of qpos0; quaternions are normalised afterwards.
        velocity: std of qvel; with ``normal_velocity=False``, its bound.
        normal_velocity: whether qvel is normal; otherwise uniform.
    """
    offsets = {int(mujoco.mjtJoint.mjJNT_FREE): 3, int(mujoco.mjtJoint.mjJNT_BALL): 0}
    quaternions = [
        slice(address + offsets[kind], address + offsets[kind] + 4)
        for address, kind in zip(model.jnt_qposadr.tolist(), model.jnt_type.tolist(), strict=True)
        if kind in offsets
    ]
    original = np.array(model.qpos0)

    def start(key: Array, robot: TaskModel) -> tuple[Array, Array]:
        position_key, velocity_key = jax.random.split(key)
        qpos0 = robot.leaves.get("qpos0", original)
        noise = jax.random.uniform(position_key, qpos0.shape, minval=-position, maxval=position)
        qpos = cast(Array, qpos0 + noise)  # NumPy's types say that NumPy + JAX is NumPy
        for part in quaternions:
            qpos = qpos.at[part].divide(jnp.linalg.norm(qpos[part]))
        draw = jax.random.normal(velocity_key, (model.nv,))
        if not normal_velocity:
            draw = jax.random.uniform(velocity_key, (model.nv,), minval=-1.0)
        return qpos, velocity * draw

    return start


def named(model: mujoco.MjModel, kind: mujoco.mjtObj, name: str) -> int:
    """The index of a keyframe, a body, ...

    Raises:
        ValueError: for a name that the model does not have; one line with the valid ones.
    """
    index = mujoco.mj_name2id(model, kind, name)
    if index < 0:
        what, count = {
            mujoco.mjtObj.mjOBJ_KEY: ("keyframe", model.nkey),
            mujoco.mjtObj.mjOBJ_BODY: ("body", model.nbody),
        }[kind]
        names = (mujoco.mj_id2name(model, kind, i) for i in range(count))
        valid = [name for name in names if name]
        has = ", ".join(valid) or "none with a name"
        raise ValueError(f"the model has no {what} named {name!r}{suggestion(name, valid)} (it has {has})")
    return index


def _keyframe(model: mujoco.MjModel, name: str) -> Beginning:
    """The state of a keyframe.

    Raises:
        ValueError: for a name that the model does not have; one line with the valid ones.
    """
    index = named(model, mujoco.mjtObj.mjOBJ_KEY, name)
    others = {
        "act": model.key_act, "ctrl": model.key_ctrl, "time": model.key_time,
        "plastic": model.key_plastic,  # ty: ignore[missing-attribute]  # the stubs are of MuJoCo 3.17
        "mocap_pos": model.key_mpos.reshape(model.nkey, -1, 3),
        "mocap_quat": model.key_mquat.reshape(model.nkey, -1, 4),
    }  # fmt: skip
    return Beginning(
        jnp.asarray(model.key_qpos[index], float),
        jnp.asarray(model.key_qvel[index], float),
        {part: jnp.asarray(values[index], float) for part, values in others.items()},
    )


def _takes_model(start: Callable[..., Any]) -> bool:
    """Whether a start function has a second argument; arguments with a default are the function's own.

    Raises:
        ValueError: for a function with no argument or more than two; one line.
    """
    try:
        parameters = inspect.signature(start).parameters.values()
    except ValueError:  # of a compiled function
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.default is p.empty and p.kind in positional for p in parameters)
    if needed > 2 or not any(p.kind in (*positional, inspect.Parameter.VAR_POSITIONAL) for p in parameters):
        raise ValueError(f"start must take (key) or (key, model), but it takes {inspect.signature(start)}")
    return needed == 2


def begin(start: Start, key: Array, robot: TaskModel) -> Beginning:
    """The state in which an episode starts.

    Raises:
        ValueError: for a name that is no keyframe's, or a function of another kind or whose results do not
            have the sizes of the model; one line.
    """
    model = robot.base
    if isinstance(start, str):
        return _keyframe(model, start)
    parts = start(key, robot) if _takes_model(start) else start(key)
    sizes = {"qpos": model.nq, "qvel": model.nv, "act": model.na}
    wanted = ", ".join(f"{name} ({size},)" for name, size in sizes.items())
    if not isinstance(parts, tuple | list) or len(parts) not in (2, 3):
        raise ValueError(f"start must return qpos and qvel, or {wanted}; got {type(parts).__name__}")
    # integers would make the simulation's state one of integers
    given = {name: jnp.asarray(part, float) for name, part in zip(sizes, parts, strict=False)}
    for name, part in given.items():
        if part.shape != (sizes[name],):
            raise ValueError(f"start must return {wanted}; got {name} of shape {part.shape}")
    return Beginning(given.pop("qpos"), given.pop("qvel"), given)
