"""MuJoCo's C engine, called from compiled programs: the fast engine on a CPU, in double precision.

The compiled program calls the host once per control step for the whole batch, seeds included. MuJoCo's thread
pool (``mujoco.batch``) steps the rows of the batch, each with its own model fields.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError

from roml_jax.envs.physics import carried, compiled_flags, fields, host_call, untimed, warned
from roml_jax.envs.physics import readings as reading
from roml_jax.envs.physics.base import (
    Contacts,
    Derived,
    Given,
    ModelLeaves,
    Physics,
    PhysicsState,
    field_of,
    is_inert,
    is_unedited,
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
        ValueError: for an edit that the compiled model has no room for; one line.
    """
    for name, leaf in leaves.items():
        batch.expand(name)[rows] = leaf[rows]
    simple = compiled_flags.write_simple(batch, base, leaves, rows)
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
        expanded = batch.expanded(name)  # ty: ignore[not-callable]  # the stubs are of MuJoCo 3.17
        if expanded is None:
            continue
        values = leaves[name][rows] if name in leaves else getattr(base, name)
        if name == "dof_M0":  # the mass matrix itself where it is diagonal
            values = np.where(simple, expanded[rows], values)
        batch.expand(name)[rows] = values


_STATE = ("qpos", "qvel", "act", "qacc_warmstart")
_IDLE = 8  # batches that a host function keeps when nobody uses them


def _threads() -> int:
    """Threads of a batch: all cores, or a device's share where a program runs on several host devices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sharing = jax.local_device_count() if jax.default_backend() == "cpu" else 1
    return max(1, cores // sharing)


class _Rows:
    """A batch of n simulations and the tasks written into them, which are a cache."""

    def __init__(self, host: _Host, n: int) -> None:
        self.batch = Batch(reading.with_energy(host.model, host.readings), n, nthread=_threads())
        self._on_request = reading.OnRequest(self.batch, host.readings)
        self._halves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._given = [self._part(name) for name in (*_STATE, *host.given, "ctrl")]
        self._taken = [self._part(name) for name in (*_STATE, *host.carried)]
        on_request = self._on_request.values
        self._taken += [
            on_request[name] if name in on_request else self.batch.bind(name) for name in host.readings
        ]
        self._host, self._model, self._derived, self._contacts = host, host.model, host.derived, host.contacts
        self.tasks: np.ndarray | None = None

    def holds(self, tasks: np.ndarray | None) -> bool:
        """Whether these tasks (n, L) are written into the batch; True if they are not known."""
        return tasks is None or (self.tasks is not None and bool((self.tasks == tasks).all()))

    def _part(self, name: str) -> np.ndarray:
        """A part of the state; for one that is carried exactly, its two halves (n, 2, ...)."""
        values = self.batch.bind(name)
        if name not in carried.EXACT:
            return values
        if name not in self._halves:
            self._halves[name] = values, np.zeros((len(values), 2, *values.shape[1:]))
        return self._halves[name][1]

    def read(self, flat: np.ndarray) -> None:
        """Sets the simulations' states from a program's arguments (n, F)."""
        _unpack(flat, self._given)
        for name, (values, halves) in self._halves.items():
            if name in self._host.given:
                values[...] = halves.sum(axis=1)

    def write(self, flat: np.ndarray) -> None:
        """Writes states and readings into a program's results (n, F)."""
        for values, halves in self._halves.values():
            halves[:, 0] = values.astype(np.float32)
            halves[:, 1] = values - halves[:, 0]
        _pack(self._taken, flat)

    def start(self, flat: np.ndarray) -> np.ndarray:
        """Starts episodes: MuJoCo's reset, then the given states. Returns which ones failed, (n,) bool."""
        if self._host.carried:
            self.batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.read(flat)
        failed = self._failed(lambda: self.batch.forward())
        self._on_request.compute(range(len(flat)))
        return failed

    def step(self, live: np.ndarray | None, count: int) -> np.ndarray:
        """Steps simulations, all for ``live=None``. Returns which ones blew up or failed, (n,) bool."""
        self.batch.warning[...] = 0
        failed = np.zeros(self.batch.nsim, bool)
        last = 0
        if self._on_request.values:  # as of the last substep, before it moves
            last = 1
            if count > 1:
                failed |= self._failed(lambda: self.batch.step(live, nstep=count - 1))
            self._on_request.compute(range(self.batch.nsim) if live is None else live)
        failed |= self._failed(lambda: self.batch.step(live, nstep=last or count))
        warnings = self.batch.warning
        if warnings.any():  # nearly never
            warned.say(warnings, self._host.said)
            failed |= warned.blown_up(warnings)
        return failed

    def _failed(self, call: Callable[[], None]) -> np.ndarray:
        failed = np.zeros(self.batch.nsim, bool)
        try:
            call()
        except SimulationError as error:
            failed[error.ids] = True
        return failed

    def set_tasks(self, names: tuple[str, ...], values: np.ndarray) -> None:
        """Writes the rows whose leaves, flattened and concatenated in (n, L), have changed."""
        changed = np.ones(len(values), bool) if self.tasks is None else (self.tasks != values).any(axis=1)
        rows, leaves, at = np.flatnonzero(changed).astype(np.int32), {}, 0
        for name in names:
            field = field_of(self._model, name)
            leaves[name] = values[:, at : at + field.size].reshape(-1, *field.shape)
            if name in carried.DELAYS:
                leaves[name] = carried.in_steps(leaves[name], self._model.opt.timestep)
            at += field.size
        write_tasks(self.batch, self._model, leaves, rows, self._derived, self._contacts)
        self.tasks = values.copy()


class _Host(NamedTuple):
    """The host function of a reset or step.

    Its simulations are only a cache: results depend on the arguments of a call alone.

    Attributes:
        kind: what it does.
        model, frame_skip, readings, derived, contacts: as in ``make``.
        leaves: names of the model fields that tasks replace.
        given: parts of the state that a call sets, besides ``_STATE``.
        carried: parts of the state that a call returns, besides ``_STATE``.
        said: kinds of MuJoCo's warnings that were already logged.
    """

    kind: Kind
    model: mujoco.MjModel
    frame_skip: int
    readings: tuple[str, ...]
    derived: Derived
    contacts: Contacts
    leaves: tuple[str, ...]
    given: tuple[str, ...]
    carried: tuple[str, ...]
    said: set[int]

    @property
    def name(self) -> str:
        """A name with a hash of everything that results depend on.

        Programs from the compile cache of an earlier process call the function by this name.
        """
        data = np.empty(mujoco.mj_sizeModel(self.model), np.uint8)
        mujoco.mj_saveModel(self.model, None, data)
        rest = repr(
            (
                self.frame_skip,
                self.readings,
                self.derived,
                self.contacts,
                self.leaves,
                self.given,
                self.carried,
            )
        )
        return f"roml_jax_{self.kind}_{hashlib.sha256(data.tobytes() + rest.encode()).hexdigest()}"

    def caller(self) -> host_call.HostFunction:
        """Makes the function that compiled programs call, with its own simulations."""
        lock = threading.Lock()
        idle: list[_Rows] = []  # the latest last
        made: Counter[int] = Counter()  # batches, by size

        def take(n: int, tasks: np.ndarray | None) -> tuple[_Rows, bool]:
            """(a batch of n for this call alone, whether it holds its tasks already: if possible, it does).

            Devices call at the same time, and each has tasks of its own: so there may be a batch per device.
            """
            with lock:
                fits = [rows for rows in idle if rows.batch.nsim == n]
                same = [rows for rows in fits if rows.holds(tasks)]
                if not fits or (not same and made[n] < jax.local_device_count()):
                    made[n] += 1
                    return _Rows(self, n), tasks is None
                rows = same[-1] if same else fits[0]
                idle.remove(rows)
                return rows, bool(same)

        def run(out: np.ndarray, state: np.ndarray, leaves: np.ndarray | None = None) -> None:
            n = math.prod(state.shape[:-1])
            tasks = None if leaves is None else leaves.reshape(n, -1)
            rows, holds = take(n, tasks)
            with warned.quiet(), untimed.untimed():
                if tasks is not None and not holds:
                    rows.set_tasks(self.leaves, tasks)
                self.run(rows, state.reshape(n, -1), out.reshape(n, -1))
            with lock:
                idle.append(rows)
                made.subtract(rows.batch.nsim for rows in idle[:-_IDLE])
                del idle[:-_IDLE]

        return run

    def run(self, rows: _Rows, state: np.ndarray, out: np.ndarray) -> None:
        """Starts or steps all rows; the results of rows that blow up, or are not to be stepped, are NaN."""
        if self.kind == "reset":
            lost = rows.start(state)
        else:
            frozen = state[:, -1] > 0
            rows.read(state)
            live = np.flatnonzero(~frozen).astype(np.int32) if frozen.any() else None
            lost = rows.step(live, self.frame_skip) | frozen
        rows.write(out)
        out[lost] = np.nan


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


def _call(
    host: _Host, example: mujoco.MjData, state: PhysicsState, ctrl: Array, leaves: ModelLeaves, *flags: Array
) -> PhysicsState:
    """Calls a host function for the fields that the leaves and the given parts of the state name."""
    dtype = state.qpos.dtype
    host = host._replace(leaves=tuple(sorted(leaves)), given=tuple(state.carried))
    args = [jnp.concatenate([*state[:4], *map(jnp.ravel, state.carried.values()), ctrl, *flags])]
    if leaves:
        args.append(jnp.concatenate([jnp.ravel(leaves[name]).astype(dtype) for name in host.leaves]))
    likes = {name: reading.like(example, name) for name in host.readings}
    shapes = [
        (2,) * (name in carried.EXACT) + np.shape(getattr(example, name)) for name in (*_STATE, *host.carried)
    ]
    shapes += [like.shape for like in likes.values()]
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    flat = host_call.call(host.name, host.caller, jax.ShapeDtypeStruct((ends[-1],), dtype), *args)
    parts = [x.reshape(shape) for x, shape in zip(jnp.split(flat, ends[:-1]), shapes, strict=True)]
    seen = {
        name: part if like.dtype.kind == "f" else part.astype(like.dtype)
        for (name, like), part in zip(likes.items(), parts[4 + len(host.carried) :], strict=True)
    }
    return PhysicsState(*parts[:4], seen, dict(zip(host.carried, parts[4:], strict=False)))


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
    example, kept = mujoco.MjData(model), carried.names(model, readings)
    step_host = _Host("step", model, frame_skip, readings, derived, contacts, (), (), kept, set())
    reset_host = step_host._replace(kind="reset")

    def reset(qpos: Array, qvel: Array, leaves: ModelLeaves, given: Given = None) -> PhysicsState:
        given = given or {}
        blank = {"act": jnp.zeros(model.na, qpos.dtype), "ctrl": jnp.zeros(model.nu, qpos.dtype), **given}
        parts = carried.given_parts(kept, given)
        state = PhysicsState(qpos, qvel, blank["act"], jnp.zeros_like(qvel), {}, parts)
        if not readings and not kept:
            return state
        seen = _call(reset_host, example, state, blank["ctrl"], leaves)
        return state._replace(readings=seen.readings, carried=seen.carried)

    def step(
        state: PhysicsState, ctrl: Array, leaves: ModelLeaves, frozen: Array | bool = False,
        given: Given = None,
    ) -> PhysicsState:  # fmt: skip
        flag = jnp.asarray(frozen, state.qpos.dtype)[None]
        if given:
            state = state._replace(carried={**state.carried, **given})
        return _call(step_host, example, state, ctrl, leaves, flag)

    def prepare(leaves: ModelLeaves) -> ModelLeaves:
        for name in leaves:
            if name not in MODEL_FIELDS:
                raise ValueError(
                    f"{name} is shared by all simulations of a MuJoCo batch: a task cannot edit it"
                )
        edited = {name: leaf for name, leaf in leaves.items() if not is_inert(name, readings)}
        changed = [name for name, leaf in edited.items() if not is_unedited(model, name, leaf)]
        compiled_flags.refuse_edits(model, changed, derived)
        return edited

    stale = (*_STALE, *(_REFERENCE_CONTACTS if contacts == "reference" else ()))
    field = functools.partial(fields.on_host, model, derived, stale)
    return Physics("mujoco", model, frame_skip, prepare, reset, step, field)
