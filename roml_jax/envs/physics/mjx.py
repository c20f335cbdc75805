"""MuJoCo XLA (MJX): the engines that run inside the compiled program.

There are two implementations of the same physics: "jax" runs on every accelerator; "warp" (MuJoCo Warp) has
kernels for NVIDIA GPUs, which also run on a CPU, slowly.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import mujoco

from roml_jax.envs.physics import carried, fields, mjx_data
from roml_jax.envs.physics import derived as derived_fields
from roml_jax.envs.physics.base import Derived, Given, ModelLeaves, Physics, PhysicsState, is_inert
from roml_jax.quiet import mjx, quiet_warp
from roml_jax.types import Array

Implementation = Literal["jax", "warp"]

_KINEMATIC = {"xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "site_xpos"}
# Warp culls contacts by the geoms' bounding spheres, which must therefore be updated after an edit.
_NEVER_STALE = {"jax": (), "warp": ("geom_rbound", "body_subtreemass")}
_HUGE = 1e3  # metres
_INSTEAD = mjx_data.INSTEAD
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


def _make_data(model: mujoco.MjModel, impl: Implementation) -> mjx.Data:
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


def _put(model: mujoco.MjModel, impl: Implementation, readings: tuple[str, ...]) -> _OnDevice:
    # the first call may be inside a trace, and the arrays are used after it
    with jax.ensure_compile_time_eval():
        try:
            original = _put_model(model, "jax")
            on_device = original if impl == "jax" else _put_model(model, impl)
            parts = _OnDevice(on_device, _make_data(model, impl), original)
        except NotImplementedError as error:
            raise ValueError(f"MJX cannot simulate this model ({error}); {_INSTEAD}") from None
    mjx_data.check(model, parts.blank, impl, readings)
    return parts


def _prepare(
    kept: _OnDevice, leaves: ModelLeaves, derived: Derived, impl: Implementation, readings: tuple[str, ...]
) -> ModelLeaves:
    """The edits that have an effect, and the fields that depend on them."""
    edited = {name: leaf for name, leaf in leaves.items() if not is_inert(name, readings)}
    for name in edited:
        if not is_traced(kept.original, name):
            raise ValueError(f"{name} is constant or missing in MJX: a task cannot edit it; {_INSTEAD}")
    if not edited or (derived == "stale" and not _NEVER_STALE[impl]):
        return edited
    consistent = derived_fields.consistent(kept.original, edited)
    if derived == "consistent":
        return consistent
    return edited | {name: consistent[name] for name in _NEVER_STALE[impl]}


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
        ValueError: if Warp is requested and not installed, or for state that MJX lacks; at the first use, for
            a model feature that MJX lacks or an edit of a field that is constant in MJX. One line.
    """
    if impl == "warp":
        _start_warp()
    mjx_data.check_state(model)
    on_device = functools.cache(lambda: _put(model, impl, readings))
    kept = carried.names(model, readings)
    state_of = functools.partial(mjx_data.state_of, readings=readings, kept=kept)

    def edit(leaves: ModelLeaves) -> mjx.Model:
        return on_device().model.tree_replace(dict(leaves)) if leaves else on_device().model

    def reset(qpos: Array, qvel: Array, leaves: ModelLeaves, given: Given = None) -> PhysicsState:
        start = mjx_data.start_parts(model, leaves, kept, given)
        data = on_device().blank.replace(qpos=qpos, qvel=qvel, **start)
        if readings:
            kinematics_do = impl == "jax" and set(readings) <= _KINEMATIC
            seen = (mjx.kinematics if kinematics_do else mjx.forward)(edit(leaves), data)
            data = mjx_data.on_request(edit(leaves), data, seen, readings)
        return state_of(data)._replace(qacc_warmstart=jnp.zeros_like(qvel))

    def step(state: PhysicsState, ctrl: Array, leaves: ModelLeaves, _: Array | bool = False) -> PhysicsState:
        edited = edit(leaves)

        # the scan carries only the small state; whole Data would include every intermediate array
        def substep(small: PhysicsState, _: None) -> tuple[PhysicsState, None]:
            before = mjx_data.of_state(on_device().blank, small).replace(ctrl=ctrl)
            return state_of(mjx_data.on_request(edited, before, mjx.step(edited, before), readings)), None

        return jax.lax.scan(substep, state, None, length=frame_skip)[0]

    return Physics(
        name="mjx" if impl == "jax" else "warp",
        model=model,
        frame_skip=frame_skip,
        prepare=lambda leaves: _prepare(on_device(), leaves, derived, impl, readings),
        reset=reset,
        step=step,
        field=functools.partial(fields.on_device, model, derived),
    )


make_warp = functools.partial(make, impl="warp")
