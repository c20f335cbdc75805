"""MuJoCo XLA (MJX): the engines that run inside the compiled program.

There are two implementations of the same physics: "jax" runs on every accelerator; "warp" (MuJoCo Warp) has
kernels for NVIDIA GPUs, which also run on a CPU, slowly.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco

from roml_jax.envs.physics import carried, compiled_flags, fields, mjx_data, mjx_limits
from roml_jax.envs.physics import derived as derived_fields
from roml_jax.envs.physics.base import (
    Derived,
    Given,
    ModelLeaves,
    Physics,
    PhysicsState,
    is_inert,
    is_unedited,
)
from roml_jax.envs.physics.mjx_data import INSTEAD
from roml_jax.envs.physics.mjx_limits import Implementation
from roml_jax.quiet import mjx, quiet_warp
from roml_jax.types import Array

_KINEMATIC = {"xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "site_xpos"}
# Warp culls contacts by the geoms' bounding spheres, which must therefore be updated after an edit.
_NEVER_STALE = {"jax": (), "warp": ("geom_rbound", "body_subtreemass")}
_HUGE = 1e3  # metres
_WORLDS = 4096  # number of environments that Warp reserves memory for contacts for


def _put_model(model: mujoco.MjModel, impl: Implementation) -> mjx.Model:
    """The model on the device. For Warp, the boxes around the geoms are made so large that they cull nothing.

    Warp culls contacts first by bounding spheres, which are updated after a task's edits, then by boxes,
    which are not. With the original boxes, thickened bodies would pass through each other.
    """
    if impl == "warp":
        model = copy.copy(model)
        model.geom_aabb[:, 3:] = _HUGE
    # by default MJX uses the first device, which may belong to another process
    return mjx.put_model(model, device=jax.local_devices()[0], impl=impl)


def _make_data(model: mujoco.MjModel | mjx.Model, impl: Implementation) -> mjx.Data:
    """Blank data. Warp's has memory for as many contacts as MJX's, in each of ``_WORLDS`` environments."""
    device = jax.local_devices()[0]
    blank = mjx.make_data(model, device=device, impl="jax")
    if impl == "jax":
        return blank
    contacts, constraints = blank._impl.contact.dist.shape[0], blank._impl.efc_D.shape[0]
    room = {"naconmax": max(1, contacts) * _WORLDS, "njmax": max(1, constraints)}
    return mjx.make_data(model, device=device, impl="warp", **room)


def is_traced(model: mjx.Model, field: str) -> bool:
    """Whether a field of MJX's model may differ between tasks; missing and constant fields may not."""
    value: Any = model
    for part in field.split("."):
        value = getattr(value, part, None)
    return isinstance(value, jax.Array)


def _start_warp() -> None:
    if importlib.util.find_spec("warp") is None:
        raise ValueError("physics=warp needs NVIDIA Warp: run pip install 'roml-jax[warp]'")
    quiet_warp()


class _OnDevice(NamedTuple):
    """An engine's model and data on the device.

    Attributes:
        model: the unedited model, of the engine's implementation.
        blank: blank data, whose state fields are replaced at each step.
        original: the unedited model of MJX's JAX implementation, from which derived constants are computed.
    """

    model: mjx.Model
    blank: mjx.Data
    original: mjx.Model


def _put(
    model: mujoco.MjModel, impl: Implementation, readings: tuple[str, ...], switched: frozenset[str]
) -> _OnDevice:
    """The model and data for tasks that edit the ``switched`` fields (see ``mjx_limits``)."""
    roomy = mjx_limits.with_room(model, switched)
    # the first call may be inside a trace, and the arrays are used after it
    with jax.ensure_compile_time_eval():
        try:
            original = mjx_limits.with_full_inertia(_put_model(model, "jax"), switched)
            on_device = original if impl == "jax" and roomy is model else _put_model(roomy, impl)
            on_device = mjx_limits.with_values(on_device, original, switched)
            blank = _make_data(on_device if impl == "jax" else roomy, impl)
            parts = _OnDevice(on_device, blank, original)
        except NotImplementedError as error:
            raise ValueError(f"MJX cannot simulate this model ({error}); {INSTEAD}") from None
    mjx_data.check(model, parts.blank, impl, readings)
    if impl == "jax":
        mjx_limits.refuse_readings(model, parts.blank, readings)
    return parts


def _putter(
    model: mujoco.MjModel, impl: Implementation, readings: tuple[str, ...]
) -> Callable[[ModelLeaves], _OnDevice]:
    """The function (leaves) -> the model and data on the device, which depend on the leaves' names only.

    Raises:
        ValueError: for a model with a feature or state that MJX lacks; one line.
    """
    mjx_data.check_state(model)
    mjx_limits.refuse_model(model, impl)
    put = functools.cache(functools.partial(_put, model, impl, readings))
    return lambda leaves: put(mjx_limits.switches(model, leaves, impl))


class _Preparer(NamedTuple):
    """The function ``prepare`` of an engine; its attributes are those of ``make``."""

    model: mujoco.MjModel
    on_device: Callable[[ModelLeaves], _OnDevice]
    derived: Derived
    impl: Implementation
    readings: tuple[str, ...]

    def __call__(self, leaves: ModelLeaves) -> ModelLeaves:
        """The edits that have an effect, and the fields that depend on them."""
        named = {name: leaf for name, leaf in leaves.items() if not is_inert(name, self.readings)}
        edited = {name: leaf for name, leaf in named.items() if not is_unedited(self.model, name, leaf)}
        original = self.on_device(edited).original
        for name in named:
            if not is_traced(original, name):
                raise ValueError(f"{name} is constant or missing in MJX: a task cannot edit it; {INSTEAD}")
        compiled_flags.refuse_edits(self.model, edited, self.derived)
        mjx_limits.refuse_edits(self.model, edited, self.impl, self.readings)
        if self.impl == "jax":
            edited = mjx_limits.above_zero(edited)
        if not edited or (self.derived == "stale" and not _NEVER_STALE[self.impl]):
            return edited
        consistent = derived_fields.consistent(original, edited)
        if self.derived == "consistent":
            return consistent
        return {**edited, **{name: consistent[name] for name in _NEVER_STALE[self.impl]}}


def make(
    model: mujoco.MjModel,
    frame_skip: int,
    readings: tuple[str, ...] = (),
    derived: Derived = "stale",
    impl: Implementation = "jax",
) -> Physics:
    """Makes an MJX engine for a compiled model.

    Args:
        model: with the solver settings to use.
        frame_skip: physics steps per control step.
        readings: fields of ``mjx.Data`` that observations or rewards read.
        derived: "consistent" recomputes the fields that depend on a task's edits; "stale" does not.
        impl: "jax" or "warp".

    Raises:
        ValueError: if Warp is requested and not installed, or for a feature or state that MJX lacks; at the
            first use, for further such features and for edits that MJX ignores. One line.
    """
    if impl == "warp":
        _start_warp()
    on_device = _putter(model, impl, readings)
    kept = carried.names(model, readings)
    state_of = functools.partial(mjx_data.state_of, readings=readings, kept=kept)

    def edit(leaves: ModelLeaves) -> mjx.Model:
        return on_device(leaves).model.tree_replace(dict(leaves))

    def reset(qpos: Array, qvel: Array, leaves: ModelLeaves, given: Given = None) -> PhysicsState:
        start = mjx_data.start_parts(model, leaves, kept, given)
        data = on_device(leaves).blank.replace(qpos=qpos, qvel=qvel, **start)
        if readings:
            kinematics_do = impl == "jax" and set(readings) <= _KINEMATIC
            seen = (mjx.kinematics if kinematics_do else mjx.forward)(edit(leaves), data)
            data = mjx_data.on_request(edit(leaves), data, seen, readings)
        return state_of(data)._replace(qacc_warmstart=jnp.zeros_like(qvel))

    def step(
        state: PhysicsState, ctrl: Array, leaves: ModelLeaves, _: Array | bool = False, given: Given = None
    ) -> PhysicsState:
        edited, held = edit(leaves), {"ctrl": ctrl, **(given or {})}

        # the scan carries only the small state; whole Data would include every intermediate array
        def substep(small: PhysicsState, _: None) -> tuple[PhysicsState, None]:
            before = mjx_data.of_state(on_device(leaves).blank, small).replace(**held)
            return state_of(mjx_data.on_request(edited, before, mjx.step(edited, before), readings)), None

        return jax.lax.scan(substep, state, None, length=frame_skip)[0]

    return Physics(
        name="mjx" if impl == "jax" else "warp",
        model=model,
        frame_skip=frame_skip,
        prepare=_Preparer(model, on_device, derived, impl, readings),
        reset=reset,
        step=step,
        field=functools.partial(fields.on_device, model, derived),
    )


make_warp = functools.partial(make, impl="warp")
