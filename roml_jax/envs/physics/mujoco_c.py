"""MuJoCo's own C engine behind a callback: the fast engine on a CPU, in double precision.

The compiled program calls the host once per control step for the whole batch, seeds included, and a
few threads share the rows. A thread owns one model and one scratch state; it copies a row's edited
fields and state into them, so memory grows with the batch by no more than those.
"""

from __future__ import annotations

import copy
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from roml_jax.envs.physics.base import Derived, ModelLeaves, Physics, PhysicsState, is_inert
from roml_jax.envs.physics.task_rows import TaskRows, assign
from roml_jax.types import Array

Kind = Literal["reset", "step"]

_PARTS = ("TIME", "QPOS", "QVEL", "ACT", "WARMSTART", "CTRL")  # in the order of their bits
_BITS = {part: int(mujoco.mjtState.__members__[f"mjSTATE_{part}"]) for part in _PARTS}
_SIGNATURE = sum(_BITS.values())


def _state_columns(model: mujoco.MjModel) -> dict[str, slice]:
    """Where each part stands in the vector that mj_setState reads."""
    ends = list(itertools.accumulate(mujoco.mj_stateSize(model, bit) for bit in _BITS.values()))
    return {part: slice(start, end) for part, start, end in zip(_PARTS, [0, *ends], ends, strict=False)}


class _Worker:
    """One thread's model and scratch state."""

    def __init__(self, model: mujoco.MjModel, frame_skip: int, readings: tuple[str, ...]) -> None:
        self._model, self._frame_skip = copy.copy(model), frame_skip
        self._data = mujoco.MjData(self._model)
        self._readings = [getattr(self._data, name) for name in readings]

    def run(
        self,
        rows: Iterator[int],
        kind: Kind,
        tasks: TaskRows | None,
        state: np.ndarray,
        read: list[np.ndarray],
    ) -> None:
        """Steps or resets the rows that it takes from the shared iterator; overwrites state and read."""
        model, data = self._model, self._data
        fields = [] if tasks is None else list(zip(tasks.names, tasks.values, strict=True))
        for row in rows:
            for name, values in fields:
                assign(model, name, values[row])
            mujoco.mj_setState(model, data, state[row], _SIGNATURE)
            if kind == "step":
                mujoco.mj_step(model, data, self._frame_skip)
                mujoco.mj_getState(model, data, state[row], _SIGNATURE)
            else:
                mujoco.mj_forward(model, data)
            for source, target in zip(self._readings, read, strict=True):
                target[row] = source


class _Host:
    """What lives on the host: threads, their models, and the fields of the rows' tasks.

    All of it is a cache; results depend on the arguments of a call alone.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        frame_skip: int,
        readings: tuple[str, ...],
        derived: Derived,
        threads: int,
    ) -> None:
        self._model, self._derived, self._readings = model, derived, readings
        self._duration = frame_skip * model.opt.timestep
        self._columns = _state_columns(model)
        self._workers = [_Worker(model, frame_skip, readings) for _ in range(threads)]
        self._orders: list[queue.SimpleQueue] = []
        self._done: queue.SimpleQueue = queue.SimpleQueue()
        self._rows: dict[tuple[str, ...], TaskRows] = {}
        self._lock = threading.Lock()  # two compiled programs may run at once

    def _start_threads(self) -> None:
        def serve(worker: _Worker, orders: queue.SimpleQueue) -> None:
            while True:
                try:
                    worker.run(*orders.get())
                    self._done.put(None)
                except Exception as error:  # the caller raises it
                    self._done.put(error)

        for worker in self._workers[1:]:
            self._orders.append(queue.SimpleQueue())
            thread = threading.Thread(target=serve, args=(worker, self._orders[-1]), daemon=True)
            thread.start()

    def _tasks(self, leaves: Mapping[str, np.ndarray]) -> TaskRows | None:
        if not leaves:
            return None
        names = tuple(leaves)
        if names not in self._rows:
            self._rows[names] = TaskRows(self._model, leaves, self._derived)
        self._rows[names].update(leaves)
        return self._rows[names]

    def __call__(
        self, kind: Kind, outputs: PhysicsState, inputs: PhysicsState, ctrl: Any, leaves: ModelLeaves
    ) -> None:
        """Runs a batch with any leading axes; writes the next state into the outputs."""
        outputs, inputs, ctrl, leaves = jax.tree.map(np.asarray, (outputs, inputs, ctrl, leaves))
        lead = inputs.qpos.shape[:-1]
        n = int(np.prod(lead))
        leaves = {name: leaf.reshape(n, *leaf.shape[len(lead) :]) for name, leaf in leaves.items()}
        parts = {
            "QPOS": inputs.qpos, "QVEL": inputs.qvel, "ACT": inputs.act,
            "WARMSTART": inputs.qacc_warmstart, "CTRL": ctrl,
        }  # fmt: skip
        state = np.zeros((n, self._columns["CTRL"].stop))
        for part, values in parts.items():
            state[:, self._columns[part]] = values.reshape(n, -1)
        with self._lock:
            read = [np.empty((n, *getattr(self._workers[0]._data, name).shape)) for name in self._readings]
            self._share(n, kind, self._tasks(leaves), state, read)
        if kind == "step":
            # A state that has blown up makes MuJoCo start again from the initial one, its clock at zero.
            restarted = abs(state[:, self._columns["TIME"]][:, 0] - self._duration) > 1e-9
            state[restarted] = np.nan
        targets = (outputs.qpos, outputs.qvel, outputs.act, outputs.qacc_warmstart)
        for target, part in zip(targets, ("QPOS", "QVEL", "ACT", "WARMSTART"), strict=True):
            target[...] = state[:, self._columns[part]].reshape(target.shape)
        for name, values in zip(self._readings, read, strict=True):
            outputs.readings[name][...] = values.reshape(outputs.readings[name].shape)

    def _share(self, n: int, *order: Any) -> None:
        """Lets the workers take rows one by one until there are none; this thread works too."""
        if not self._orders and len(self._workers) > 1:
            self._start_threads()
        rows = iter(range(n))  # next() on it is atomic
        helpers = self._orders[: max(0, n - 1)]
        for orders in helpers:
            orders.put((rows, *order))
        errors = []
        try:
            self._workers[0].run(rows, *order)
        except Exception as error:
            errors.append(error)
        errors += [error for error in (self._done.get() for _ in helpers) if error]
        if errors:
            raise errors[0]


def _shape_of_reading(data: mujoco.MjData, name: str) -> tuple[int, ...]:
    """As MJX shapes it: rotation matrices are 3 x 3."""
    shape = getattr(data, name).shape
    return (*shape[:-1], 3, 3) if name.endswith("mat") and shape[-1:] == (9,) else shape


def make(
    model: mujoco.MjModel,
    frame_skip: int,
    readings: tuple[str, ...] = (),
    derived: Derived = "stale",
    threads: int | None = None,
) -> Physics:
    """A C engine for a compiled model.

    Args:
        model: with its solver settings as they are to be used.
        frame_skip: physics steps per control step.
        readings: fields of ``mujoco.MjData`` that observations or rewards need.
        derived: whether to recompute what follows from the fields that a task edits. Collision boxes
            and subtree masses always are.
        threads: that share a batch; None for as many as there are cores.
    """
    threads = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    host = _Host(model, frame_skip, readings, derived, threads)
    example = mujoco.MjData(model)

    def outputs(dtype: Any) -> PhysicsState:
        def like(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype)

        read = {name: like(*_shape_of_reading(example, name)) for name in readings}
        return PhysicsState(like(model.nq), like(model.nv), like(model.na), like(model.nv), read)

    def call(kind: Kind, state: PhysicsState, ctrl: Array, leaves: ModelLeaves) -> PhysicsState:
        return _callback(
            lambda out, *args: host(kind, out, *args),
            outputs(state.qpos.dtype),
            state._replace(readings={}),
            ctrl,
            dict(leaves),
        )

    def reset(qpos: Array, qvel: Array, leaves: ModelLeaves) -> PhysicsState:
        zero = jnp.zeros_like(qvel)
        state = PhysicsState(qpos, qvel, jnp.zeros(model.na, qpos.dtype), zero, {})
        if not readings:
            return state
        return state._replace(readings=call("reset", state, jnp.zeros(model.nu, qpos.dtype), leaves).readings)

    def step(state: PhysicsState, ctrl: Array, leaves: ModelLeaves) -> PhysicsState:
        return call("step", state, ctrl, leaves)

    def prepare(leaves: ModelLeaves) -> ModelLeaves:
        return {name: leaf for name, leaf in leaves.items() if not is_inert(name)}

    return Physics("mujoco", model, frame_skip, prepare, reset, step)


def _callback(host: Callable[..., None], outputs: Any, *args: Any) -> Any:
    """Calls a function that fills its outputs in place, for a whole batch at once.

    On a CPU the host sees the program's own memory: 10 microseconds a call, where ``pure_callback``,
    which other backends need, takes 190.
    """
    if jax.default_backend() == "cpu":
        return buffer_callback(lambda _, out, *args: host(out, *args), outputs, vmap_method="broadcast_all")(
            *args
        )

    def returning(*args: Any) -> Any:
        lead = np.shape(args[0].qpos)[:-1]
        out = jax.tree.map(lambda x: np.empty((*lead, *x.shape), x.dtype), outputs)
        host(out, *args)
        return out

    return jax.pure_callback(returning, outputs, *args, vmap_method="broadcast_all")
