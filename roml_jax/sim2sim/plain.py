"""Plain MuJoCo behind the interface of the engines: a model and data for each robot, and ``mj_step``.

It shares no step with the package's engines. Every robot keeps its own ``MjData`` for a whole episode, in
double precision, as a program on a robot's computer would, while the engines pass states in single precision.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs import physics
from roml_jax.envs.door import oracle
from roml_jax.envs.physics import ModelLeaves, Physics, PhysicsState, carried, warned
from roml_jax.envs.physics import readings as reading
from roml_jax.envs.physics.base import Given
from roml_jax.types import Array

_BAD = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
_STATE = ("qpos", "qvel", "act", "qacc_warmstart")


class _Robot(NamedTuple):
    """A simulation: its model, with the task's edits, and its data."""

    model: mujoco.MjModel
    data: mujoco.MjData


class _Host:
    """The robots of a batch, which callbacks start and step."""

    def __init__(self, engine: Physics, readings: tuple[str, ...]) -> None:
        self._engine, self._readings = engine, readings
        self._base = reading.with_energy(engine.model, readings)
        self._carried = carried.names(engine.model, readings)
        self._example, self._robots = mujoco.MjData(engine.model), []
        self._begun: list[dict[str, Any]] = []

    def shapes(self, dtype: Any) -> PhysicsState:
        """The state of one robot, as shapes."""

        def like(name: str, *front: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((*front, *np.shape(getattr(self._example, name))), dtype)

        seen = {}
        for name in self._readings:
            value = reading.like(self._example, name)
            seen[name] = jax.ShapeDtypeStruct(value.shape, dtype if value.dtype.kind == "f" else value.dtype)
        kept = {name: like(name, *(2,) * (name in carried.EXACT)) for name in self._carried}
        return PhysicsState._make((*map(like, _STATE), seen, kept))

    def start(self, begun: Mapping[str, Any], leaves: Mapping[str, Any]) -> PhysicsState:
        """Starts an episode of every robot; arguments (n, ...) or, for one robot, (...)."""
        with warned.quiet():
            return self._start(begun, leaves)

    def _start(self, begun: Mapping[str, Any], leaves: Mapping[str, Any]) -> PhysicsState:
        front, (begun, leaves) = _rows((begun, leaves), np.ndim(begun["qpos"]) - 1)
        self._robots, self._begun = [], []
        for i in range(len(begun["qpos"])):
            model = self._edited({name: leaf[i] for name, leaf in leaves.items()})
            self._robots.append(_Robot(model, mujoco.MjData(model)))
            self._begun.append({name: np.array(value[i]) for name, value in begun.items()})
            _begin(self._robots[i], self._begun[i])
        return self._gathered(
            [self._state(r, self._requested(r)) for r in self._robots], front, begun["qpos"].dtype
        )

    def step(self, qpos: Any, qvel: Any, frozen: Any, given: Mapping[str, Any]) -> PhysicsState:
        """One control step of every robot that is not frozen; NaN for one that blows up.

        ``given`` has the controls, and what else holds during the step. The compiler calls ``start`` once for
        all episodes if they begin in the same state, so a robot in that state begins again.
        """
        front, (qpos, qvel, frozen, given) = _rows((qpos, qvel, frozen, given), np.ndim(qpos) - 1)
        states = []
        for i, robot in enumerate(self._robots):
            if frozen[i]:
                states.append(self._state(robot, self._requested(robot)))
                continue
            if not _is_in(robot, qpos[i], qvel[i]):
                _begin(robot, self._begun[i])
                if not _is_in(robot, qpos[i], qvel[i]):
                    raise RuntimeError("plain MuJoCo was stepped from another state than it returned last")
            _write(robot.data, {name: value[i] for name, value in given.items()})
            with warned.quiet():  # a robot that blows up is NaN, and MuJoCo would write a log file
                states.append(self._stepped(robot))
        return self._gathered(states, front, qpos.dtype)

    def _edited(self, leaves: Mapping[str, np.ndarray]) -> mujoco.MjModel:
        for name in carried.DELAYS & set(leaves):
            leaves = {**leaves, name: carried.in_steps(leaves[name], self._base.opt.timestep)}
        return oracle.edited(self._base, leaves, self._engine.derived, self._engine.contacts)

    def _requested(self, robot: _Robot) -> dict[str, np.ndarray]:
        """Readings that MuJoCo's step does not compute, in the present state."""
        functions = {reading.ON_REQUEST[name] for name in self._readings if name in reading.ON_REQUEST}
        if functions:
            mujoco.mj_forward(*robot)
        for function in functions:
            function(*robot)
        return {n: getattr(robot.data, n).copy() for n in self._readings if n in reading.ON_REQUEST}

    def _stepped(self, robot: _Robot) -> dict[str, Any]:
        for _ in range(self._engine.frame_skip - 1):
            mujoco.mj_step(*robot)
        requested = self._requested(robot)  # as of the last physics step's start, as all readings are
        mujoco.mj_step(*robot)
        state = self._state(robot, requested)
        if any(robot.data.warning[kind].number for kind in _BAD):
            return {name: np.full(np.shape(value), np.nan) for name, value in state.items()}
        return state

    def _state(self, robot: _Robot, requested: Mapping[str, np.ndarray]) -> dict[str, Any]:
        names = (*_STATE, *self._readings, *self._carried)
        return {**{name: np.array(getattr(robot.data, name)) for name in names}, **requested}

    def _gathered(
        self, states: Sequence[Mapping[str, Any]], front: tuple[int, ...], dtype: Any
    ) -> PhysicsState:
        def part(name: str, like: Array, exact: bool = False) -> np.ndarray:
            values = np.stack([state[name] for state in states])
            if exact:
                first = values.astype(np.float32)
                values = np.stack([first, values - first], axis=1)
            return values.astype(like.dtype).reshape(*front, *like.shape)

        shapes = self.shapes(dtype)
        seen = {name: part(name, like) for name, like in shapes.readings.items()}
        kept = {name: part(name, like, name in carried.EXACT) for name, like in shapes.carried.items()}
        return PhysicsState._make((*(part(name, getattr(shapes, name)) for name in _STATE), seen, kept))


def _begin(robot: _Robot, begun: Mapping[str, np.ndarray]) -> None:
    """The state at the start of an episode."""
    mujoco.mj_resetData(*robot)
    _write(robot.data, begun)
    mujoco.mj_forward(*robot)
    robot.data.qacc_warmstart[:] = 0


def _is_in(robot: _Robot, qpos: np.ndarray, qvel: np.ndarray) -> bool:
    """Whether a robot is in this state, to the precision of the program that asks."""
    data = robot.data
    return np.array_equal(data.qpos.astype(qpos.dtype), qpos) and np.array_equal(
        data.qvel.astype(qvel.dtype), qvel
    )


def _rows(tree: Any, batched: int) -> tuple[tuple[int, ...], Any]:
    """The batch's axes, and the tree with them as one, (n, ...)."""
    tree = jax.tree.map(np.asarray, tree)
    front = jax.tree.leaves(tree)[0].shape[:batched]
    return front, jax.tree.map(lambda x: x.reshape(math.prod(front), *x.shape[batched:]), tree)


def _write(data: mujoco.MjData, values: Mapping[str, np.ndarray]) -> None:
    for name, value in values.items():
        if np.ndim(getattr(data, name)):
            getattr(data, name)[...] = np.reshape(value, np.shape(getattr(data, name)))
        else:
            setattr(data, name, float(value))


def make(engine: Physics, readings: tuple[str, ...]) -> Physics:
    """Plain MuJoCo for the model and the tasks of an engine.

    One episode of one batch runs at a time: a step continues the episodes that the last reset began.

    Args:
        engine: any.
        readings: fields of MuJoCo's data that the environment reads.
    """
    on_c = physics.make("mujoco", engine.model, engine.frame_skip, readings, engine.derived, engine.contacts)
    host = _Host(engine, readings)

    def reset(qpos: Array, qvel: Array, leaves: ModelLeaves, given: Given = None) -> PhysicsState:
        begun = {**(given or {}), "qpos": qpos, "qvel": qvel}
        return _call(host.start, host.shapes(qpos.dtype), begun, dict(leaves))

    def step(
        state: PhysicsState, ctrl: Array, leaves: ModelLeaves, frozen: Array | bool = False,
        given: Given = None,
    ) -> PhysicsState:  # fmt: skip
        del leaves  # the robots have them since the reset
        held = {**(given or {}), "ctrl": ctrl}
        return _call(
            host.step, host.shapes(state.qpos.dtype), state.qpos, state.qvel, jnp.asarray(frozen), held
        )

    return on_c._replace(name="plain", reset=reset, step=step)


_call = functools.partial(jax.pure_callback, vmap_method="broadcast_all")
