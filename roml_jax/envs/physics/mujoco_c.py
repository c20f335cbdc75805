"""MuJoCo's C engine, called from compiled programs: the fast engine on a CPU, in double precision.

The compiled program calls the host once per control step for the whole batch, seeds included. MuJoCo's thread
pool (``mujoco.batch``) steps the rows of the batch, each with its own model fields.
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

# Fields that mj_setConst writes and the reference does not update. Collision boxes and subtree masses are not
# listed: if they were stale, the C engine would miss contacts and compute wrong centers of mass.
_STALE = (
    "body_invweight0", "dof_M0", "dof_invweight0", "dof_length", "tendon_length0", "tendon_invweight0",
    "actuator_length0", "actuator_acc0", "eq_data",
)  # fmt: skip
# The radii by which the engine skips pairs of geoms that are too far apart to touch.
_REFERENCE_CONTACTS = ("geom_rbound",)
# Initial value of the clock. MuJoCo sets the clock to 0 when it resets a diverged simulation, which is then
# detected even in the first physics step.
_STARTED = 1.0


def write_tasks(
    batch: Batch,
    base: mujoco.MjModel,
    leaves: Mapping[str, np.ndarray],
    rows: np.ndarray,
    derived: Derived,
    contacts: Contacts = "right",
) -> None:
    """Writes the model fields of tasks, and the fields that depend on them, into rows of a batch.

    Args:
        batch: simulations of ``base``.
        base: the unedited model.
        leaves: (n, ...) for all n rows of the batch.
        rows: indices of the rows to write.
        derived: "consistent" also updates inertia and the solver's constants; "stale" does not.
        contacts: "reference" keeps the ``geom_rbound`` of ``base``; boxes are always updated.

    Raises:
        SimulationError: from MuJoCo, for an invalid model.
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
    """A batch of n simulations and the tasks written into them, which are a cache."""

    def __init__(
        self, model: mujoco.MjModel, n: int, readings: tuple[str, ...], derived: Derived, contacts: Contacts
    ) -> None:
        self.batch = Batch(model, n)
        self.given = [self.batch.bind(name) for name in (*_STATE, "ctrl")]
        self.taken = [self.batch.bind(name) for name in (*_STATE, *readings)]
        self._model, self._derived, self._contacts = model, derived, contacts
        self._tasks: np.ndarray | None = None

    def set_tasks(self, names: tuple[str, ...], values: np.ndarray) -> None:
        """Writes the rows whose leaves, flattened and concatenated in (n, L), have changed."""
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
    """The host function of a reset or step.

    Its simulations are only a cache: results depend on the arguments of a call alone.
    """

    kind: Kind
    model: mujoco.MjModel
    frame_skip: int
    readings: tuple[str, ...]
    derived: Derived
    contacts: Contacts
    leaves: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name with a hash of everything that results depend on.

        Programs from the compile cache of an earlier process call the function by this name.
        """
        data = np.empty(mujoco.mj_sizeModel(self.model), np.uint8)
        mujoco.mj_saveModel(self.model, None, data)
        rest = repr((self.frame_skip, self.readings, self.derived, self.contacts, self.leaves))
        return f"roml_jax_{self.kind}_{hashlib.sha256(data.tobytes() + rest.encode()).hexdigest()}"

    def caller(self) -> host_call.HostFunction:
        """Makes the function that compiled programs call, with its own simulations."""
        lock = threading.Lock()  # two compiled programs may run at the same time

        @functools.lru_cache(maxsize=8)  # of batch sizes
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
        """Steps all rows, or runs a forward pass; qpos of rows that blow up is NaN."""
        if self.kind == "reset":
            batch.forward()
            return
        clock = batch.bind("time")
        clock[...] = _STARTED
        try:
            batch.step(nstep=self.frame_skip)
        except SimulationError as error:
            clock[error.ids] = np.nan
        # MuJoCo resets a simulation that has blown up to its initial state, with the clock at 0
        batch.bind("qpos")[~(clock >= _STARTED)] = np.nan


def _unpack(flat: np.ndarray, parts: list[np.ndarray]) -> None:
    """Copies the columns of ``flat`` (n, F) into ``parts``, one part after the other."""
    at = 0
    for part in parts:
        width = math.prod(part.shape[1:])
        part[...] = flat[:, at : at + width].reshape(part.shape)
        at += width


def _pack(parts: list[np.ndarray], flat: np.ndarray) -> None:
    """Copies ``parts`` into the columns of ``flat`` (n, F), one part after the other."""
    at = 0
    for part in parts:
        width = math.prod(part.shape[1:])
        flat[:, at : at + width] = part.reshape(len(part), width)
        at += width


def _shape_of_reading(data: mujoco.MjData, name: str) -> tuple[int, ...]:
    """A reading's shape in MJX, where rotation matrices are 3 x 3."""
    shape = getattr(data, name).shape
    return (*shape[:-1], 3, 3) if name.endswith("mat") and shape[-1:] == (9,) else shape


def make(
    model: mujoco.MjModel,
    frame_skip: int,
    readings: tuple[str, ...] = (),
    derived: Derived = "stale",
    contacts: Contacts = "right",
) -> Physics:
    """Makes a C engine for a compiled model.

    Args:
        model: with the solver settings to use.
        frame_skip: physics steps per control step.
        readings: fields of ``mujoco.MjData`` that observations or rewards read.
        derived: "consistent" recomputes the fields that depend on a task's edits; "stale" recomputes only
            collision boxes and subtree masses.
        contacts: "right", or "reference": bounding radii stay those of the unedited model, so some contacts
            of a geom that a task thickens are missed.
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
                raise ValueError(
                    f"{name} is shared by all simulations of a MuJoCo batch: a task cannot edit it"
                )
        return {name: leaf for name, leaf in leaves.items() if not is_inert(name)}

    return Physics("mujoco", model, frame_skip, prepare, reset, step)
