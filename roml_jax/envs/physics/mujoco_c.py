"""MuJoCo's own C engine behind a callback: the fast engine on a CPU, in double precision.

The compiled program calls the host once per control step for the whole batch, seeds included, and
MuJoCo's thread pool (``mujoco.batch``) steps its rows, each with its own model fields.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError

from roml_jax.envs.physics.base import Derived, ModelLeaves, Physics, PhysicsState, is_inert
from roml_jax.types import Array

Kind = Literal["reset", "step"]

# What mj_setConst writes and the reference leaves as it was. Collision boxes and subtree masses are not
# among them: were they stale, C would lose contacts and misplace centers of mass.
_STALE = (
    "body_invweight0", "dof_M0", "dof_invweight0", "dof_length", "tendon_length0", "tendon_invweight0",
    "actuator_length0", "actuator_acc0", "eq_data",
)  # fmt: skip
# Where the clock starts: a restart puts it to zero, also one in the very first physics step.
_STARTED = 1.0


def write_tasks(
    batch: Batch, base: mujoco.MjModel, leaves: Mapping[str, np.ndarray], rows: np.ndarray, derived: Derived
) -> None:
    """Gives some simulations of a batch their tasks' model fields, and what follows from them.

    Args:
        batch: whose model is ``base``.
        base: the unedited model.
        leaves: (n, ...) for all rows.
        rows: which of them to write.
        derived: whether inertia and the solver's constants follow too.

    Raises:
        SimulationError: from MuJoCo, for a model that cannot be.
    """
    for name, leaf in leaves.items():
        batch.expand(name)[rows] = leaf[rows]
    if derived == "consistent" and "body_mass" in leaves and "body_inertia" not in leaves:
        massive = base.body_mass > 0
        ratio = np.where(massive, leaves["body_mass"][rows] / np.where(massive, base.body_mass, 1), 1)
        batch.expand("body_inertia")[rows] = base.body_inertia * ratio[..., None]
    batch.set_const(rows)
    if derived == "stale":
        for name in _STALE:
            if name not in leaves and batch.expanded(name) is not None:
                batch.expand(name)[rows] = getattr(base, name)


class _Rows:
    """A batch of n simulations and the tasks that they hold: a cache by value."""

    def __init__(self, model: mujoco.MjModel, n: int, readings: tuple[str, ...], derived: Derived) -> None:
        self.batch = Batch(model, n)
        self.parts = {
            name: self.batch.bind(name) for name in ("qpos", "qvel", "act", "qacc_warmstart", "ctrl")
        }
        self.readings = {name: self.batch.bind(name) for name in readings}
        self._model, self._derived = model, derived
        self._tasks: np.ndarray | None = None

    def set_tasks(self, leaves: Mapping[str, np.ndarray]) -> None:
        """Writes the rows whose leaves (n, ...) have changed."""
        if not leaves:
            return
        now = np.concatenate([leaf.reshape(self.batch.nsim, -1) for leaf in leaves.values()], axis=1)
        changed = np.ones(len(now), bool) if self._tasks is None else (self._tasks != now).any(axis=1)
        if changed.any():
            rows = np.flatnonzero(changed).astype(np.int32)
            write_tasks(self.batch, self._model, leaves, rows, self._derived)
            self._tasks = now


class _Host:
    """What lives on the host; all of it is a cache, results depend on the arguments of a call alone."""

    def __init__(
        self, model: mujoco.MjModel, frame_skip: int, readings: tuple[str, ...], derived: Derived
    ) -> None:
        self._model, self._frame_skip, self._readings, self._derived = model, frame_skip, readings, derived
        self._rows: dict[int, _Rows] = {}
        self._lock = threading.Lock()  # two compiled programs may run at once

    def __call__(
        self, kind: Kind, out: PhysicsState, state: PhysicsState, ctrl: Any, leaves: ModelLeaves
    ) -> None:
        """Runs a batch with any leading axes; writes the next state into ``out``."""
        out, state, ctrl, leaves = jax.tree.map(np.asarray, (out, state, ctrl, leaves))
        lead = state.qpos.shape[:-1]
        n = int(np.prod(lead))
        with self._lock:
            if n not in self._rows:
                self._rows[n] = _Rows(self._model, n, self._readings, self._derived)
            rows = self._rows[n]
            rows.set_tasks({name: leaf.reshape(n, *leaf.shape[len(lead) :]) for name, leaf in leaves.items()})
            for name, part in rows.parts.items():
                part[...] = (ctrl if name == "ctrl" else getattr(state, name)).reshape(part.shape)
            self._run(kind, rows.batch)
            for name in ("qpos", "qvel", "act", "qacc_warmstart"):
                target = getattr(out, name)
                target[...] = rows.parts[name].reshape(target.shape)
            for name, values in rows.readings.items():
                out.readings[name][...] = values.reshape(out.readings[name].shape)

    def _run(self, kind: Kind, batch: Batch) -> None:
        """Steps or forwards all rows; those that blow up come back as NaN."""
        if kind == "reset":
            batch.forward()
            return
        clock = batch.bind("time")
        clock[...] = _STARTED
        try:
            batch.step(nstep=self._frame_skip)
        except SimulationError as error:
            clock[error.ids] = np.nan
        # a state that has blown up makes MuJoCo start again from the initial one, its clock at zero
        batch.bind("qpos")[~(clock >= _STARTED)] = np.nan


def _shape_of_reading(data: mujoco.MjData, name: str) -> tuple[int, ...]:
    """As MJX shapes it: rotation matrices are 3 x 3."""
    shape = getattr(data, name).shape
    return (*shape[:-1], 3, 3) if name.endswith("mat") and shape[-1:] == (9,) else shape


def make(
    model: mujoco.MjModel, frame_skip: int, readings: tuple[str, ...] = (), derived: Derived = "stale"
) -> Physics:
    """A C engine for a compiled model.

    Args:
        model: with its solver settings as they are to be used.
        frame_skip: physics steps per control step.
        readings: fields of ``mujoco.MjData`` that observations or rewards need.
        derived: whether to recompute what follows from the fields that a task edits. Collision boxes
            and subtree masses always are.
    """
    host = _Host(model, frame_skip, readings, derived)
    example = mujoco.MjData(model)

    def outputs(dtype: Any) -> PhysicsState:
        def like(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype)

        read = {name: like(*_shape_of_reading(example, name)) for name in readings}
        return PhysicsState(like(model.nq), like(model.nv), like(model.na), like(model.nv), read)

    def call(kind: Kind, state: PhysicsState, ctrl: Array, leaves: ModelLeaves) -> PhysicsState:
        args = (state._replace(readings={}), ctrl, dict(leaves))
        return _callback(lambda out, *args: host(kind, out, *args), outputs(state.qpos.dtype), *args)

    def reset(qpos: Array, qvel: Array, leaves: ModelLeaves) -> PhysicsState:
        state = PhysicsState(qpos, qvel, jnp.zeros(model.na, qpos.dtype), jnp.zeros_like(qvel), {})
        if not readings:
            return state
        seen = call("reset", state, jnp.zeros(model.nu, qpos.dtype), leaves)
        return state._replace(readings=seen.readings)

    def step(state: PhysicsState, ctrl: Array, leaves: ModelLeaves) -> PhysicsState:
        return call("step", state, ctrl, leaves)

    def prepare(leaves: ModelLeaves) -> ModelLeaves:
        for name in leaves:
            if name not in MODEL_FIELDS:
                raise ValueError(f"MuJoCo's batches of simulations share {name}: a task cannot edit it")
        return {name: leaf for name, leaf in leaves.items() if not is_inert(name)}

    return Physics("mujoco", model, frame_skip, prepare, reset, step)


def _callback(host: Callable[..., None], outputs: Any, *args: Any) -> Any:
    """Calls a function that fills its outputs in place, for a whole batch at once.

    On a CPU the host sees the program's own memory: 10 microseconds a call, where ``pure_callback``,
    which other backends need, takes 190.
    """
    if jax.default_backend() == "cpu":

        def in_place(_: Any, out: Any, *args: Any) -> None:
            host(out, *args)

        return buffer_callback(in_place, outputs, vmap_method="broadcast_all")(*args)

    def returning(*args: Any) -> Any:
        lead = np.shape(args[0].qpos)[:-1]
        out = jax.tree.map(lambda x: np.empty((*lead, *x.shape), x.dtype), outputs)
        host(out, *args)
        return out

    return jax.pure_callback(returning, outputs, *args, vmap_method="broadcast_all")
