"""MuJoCo's own C engine behind a callback: the fast engine on a CPU, in double precision.

The compiled program calls the host once per control step for the whole batch, seeds included, and
MuJoCo's thread pool (``mujoco.batch``) steps its rows, each with its own model fields.
"""

from __future__ import annotations

import functools
import hashlib
import math
import threading
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError

from roml_jax.envs.physics import host_call
from roml_jax.envs.physics.base import (
    Contacts,
    Derived,
    ModelLeaves,
    Physics,
    PhysicsState,
    field_of,
    is_inert,
)
from roml_jax.types import Array

Kind = Literal["reset", "step"]

# What mj_setConst writes and the reference leaves as it was. Collision boxes and subtree masses are not
# among them: were they stale, C would lose contacts and misplace centers of mass.
_STALE = (
    "body_invweight0", "dof_M0", "dof_invweight0", "dof_length", "tendon_length0", "tendon_invweight0",
    "actuator_length0", "actuator_acc0", "eq_data",
)  # fmt: skip
# The radius by which the engine skips pairs of geoms that are too far apart to touch.
_REFERENCE_CONTACTS = ("geom_rbound",)
# Where the clock starts: a restart puts it to zero, also one in the very first physics step.
_STARTED = 1.0


def write_tasks(
    batch: Batch,
    base: mujoco.MjModel,
    leaves: Mapping[str, np.ndarray],
    rows: np.ndarray,
    derived: Derived,
    contacts: Contacts = "right",
) -> None:
    """Gives some simulations of a batch their tasks' model fields, and what follows from them.

    Args:
        batch: whose model is ``base``.
        base: the unedited model.
        leaves: (n, ...) for all rows.
        rows: which of them to write.
        derived: whether inertia and the solver's constants follow too.
        contacts: "reference" leaves ``geom_rbound`` as it is in ``base``; boxes follow the geometry.

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
    stale = (
        *(_STALE if derived == "stale" else ()),
        *(_REFERENCE_CONTACTS if contacts == "reference" else ()),
    )
    for name in stale:
        if name not in leaves and batch.expanded(name) is not None:
            batch.expand(name)[rows] = getattr(base, name)


_STATE = ("qpos", "qvel", "act", "qacc_warmstart")


class _Rows:
    """A batch of n simulations and the tasks that they hold: a cache by value."""

    def __init__(
        self, model: mujoco.MjModel, n: int, readings: tuple[str, ...], derived: Derived, contacts: Contacts
    ) -> None:
        self.batch = Batch(model, n)
        self.given = [self.batch.bind(name) for name in (*_STATE, "ctrl")]
        self.taken = [self.batch.bind(name) for name in (*_STATE, *readings)]
        self._model, self._derived, self._contacts = model, derived, contacts
        self._tasks: np.ndarray | None = None

    def set_tasks(self, names: tuple[str, ...], values: np.ndarray) -> None:
        """Writes the rows whose leaves, flat side by side in (n, L), have changed."""
        changed = np.ones(len(values), bool) if self._tasks is None else (self._tasks != values).any(axis=1)
        if not changed.any():
            return
        rows, leaves, at = np.flatnonzero(changed).astype(np.int32), {}, 0
        for name in names:
            field = field_of(self._model, name)
            leaves[name] = values[:, at : at + field.size].reshape(-1, *field.shape)
            at += field.size
        write_tasks(self.batch, self._model, leaves, rows, self._derived, self._contacts)
        self._tasks = values.copy()


class _Host(NamedTuple):
    """What the host calculates; its simulations are a cache, results depend on a call's arguments alone."""

    kind: Kind
    model: mujoco.MjModel
    frame_skip: int
    readings: tuple[str, ...]
    derived: Derived
    contacts: Contacts
    leaves: tuple[str, ...]

    @property
    def name(self) -> str:
        """Says all that results depend on, for programs that a later process finds in the compile cache."""
        data = np.empty(mujoco.mj_sizeModel(self.model), np.uint8)
        mujoco.mj_saveModel(self.model, None, data)
        rest = repr((self.frame_skip, self.readings, self.derived, self.contacts, self.leaves))
        return f"roml_jax_{self.kind}_{hashlib.sha256(data.tobytes() + rest.encode()).hexdigest()}"

    def caller(self) -> host_call.HostFunction:
        """The function that compiled programs call, with simulations of its own."""
        lock = threading.Lock()  # two compiled programs may run at once

        @functools.lru_cache(maxsize=8)  # batch sizes
        def rows_of(n: int) -> _Rows:
            return _Rows(self.model, n, self.readings, self.derived, self.contacts)

        def run(out: np.ndarray, state: np.ndarray, leaves: np.ndarray | None = None) -> None:
            n = math.prod(state.shape[:-1])
            with lock:
                rows = rows_of(n)
                if leaves is not None:
                    rows.set_tasks(self.leaves, leaves.reshape(n, -1))
                _unpack(state.reshape(n, -1), rows.given)
                self.run(rows.batch)
                _pack(rows.taken, out.reshape(n, -1))

        return run

    def run(self, batch: Batch) -> None:
        """Steps or forwards all rows; those that blow up come back as NaN."""
        if self.kind == "reset":
            batch.forward()
            return
        clock = batch.bind("time")
        clock[...] = _STARTED
        try:
            batch.step(nstep=self.frame_skip)
        except SimulationError as error:
            clock[error.ids] = np.nan
        # a state that has blown up makes MuJoCo start again from the initial one, its clock at zero
        batch.bind("qpos")[~(clock >= _STARTED)] = np.nan


def _unpack(flat: np.ndarray, parts: list[np.ndarray]) -> None:
    """Columns of (n, F), one part after the other, into the simulations."""
    at = 0
    for part in parts:
        width = math.prod(part.shape[1:])
        part[...] = flat[:, at : at + width].reshape(part.shape)
        at += width


def _pack(parts: list[np.ndarray], flat: np.ndarray) -> None:
    """The other way."""
    at = 0
    for part in parts:
        width = math.prod(part.shape[1:])
        flat[:, at : at + width] = part.reshape(len(part), width)
        at += width


def _shape_of_reading(data: mujoco.MjData, name: str) -> tuple[int, ...]:
    """As MJX shapes it: rotation matrices are 3 x 3."""
    shape = getattr(data, name).shape
    return (*shape[:-1], 3, 3) if name.endswith("mat") and shape[-1:] == (9,) else shape


def make(
    model: mujoco.MjModel,
    frame_skip: int,
    readings: tuple[str, ...] = (),
    derived: Derived = "stale",
    contacts: Contacts = "right",
) -> Physics:
    """A C engine for a compiled model.

    Args:
        model: with its solver settings as they are to be used.
        frame_skip: physics steps per control step.
        readings: fields of ``mujoco.MjData`` that observations or rewards need.
        derived: whether to recompute what follows from the fields that a task edits. Collision boxes
            and subtree masses always are.
        contacts: "right", or "reference": bounding radii stay the unedited model's, so a geom that a task
            thickens misses contacts.
    """
    example = mujoco.MjData(model)
    shapes = [getattr(example, name).shape for name in _STATE]
    shapes += [_shape_of_reading(example, name) for name in readings]
    ends = [sum(math.prod(shape) for shape in shapes[: i + 1]) for i in range(len(shapes))]

    def call(kind: Kind, state: PhysicsState, ctrl: Array, leaves: ModelLeaves) -> PhysicsState:
        names, dtype = tuple(sorted(leaves)), state.qpos.dtype
        host = _Host(kind, model, frame_skip, readings, derived, contacts, names)
        args = [jnp.concatenate([*state[:4], ctrl])]
        if names:
            args.append(jnp.concatenate([jnp.ravel(leaves[name]).astype(dtype) for name in names]))
        flat = host_call.call(host.name, host.caller, jax.ShapeDtypeStruct((ends[-1],), dtype), *args)
        parts = [x.reshape(shape) for x, shape in zip(jnp.split(flat, ends[:-1]), shapes, strict=True)]
        return PhysicsState(*parts[:4], dict(zip(readings, parts[4:], strict=True)))

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
