"""What an episode of a ``TaskEnv`` carries from step to step besides the simulation, and what it may move.

    TaskEnv.from_mjcf(
        ...,
        carry={"steps": Carry(lambda key, view: 0, lambda key, steps, motion: steps + 1)},
        reward=lambda motion: {"early": -motion.before.carry["steps"]},
    )

Every entry has its own randomness; the last action is carried besides (``View.action``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import users_code
from roml_jax.envs.view import Motion, View
from roml_jax.errors import suggestion
from roml_jax.types import Array

FORCES = ("xfrc_applied", "qfrc_applied")
POSES = ("mocap_pos", "mocap_quat")


class Carry(NamedTuple):
    """A value that an episode carries, with its own randomness. Every function is pure and unbatched.

    Attributes:
        start: (key, ``View`` at the start of the episode) -> the value, a pytree of arrays.
        step: (key, value, ``Motion``) -> the value after a control step, of the same shapes. The motion's
            views have the values of before the step.
        apply: (value, ``View`` before a step, the value's numbers of the action (size,)) -> what is applied
            during the control step, by its name in MuJoCo's data: ``xfrc_applied`` (nbody, 6), force and
            torque on each body in world coordinates; ``qfrc_applied`` (nv,); ``mocap_pos`` (nmocap, 3);
            ``mocap_quat`` (nmocap, 4). Forces of several values are added. None for nothing.
        size: numbers of the policy's action that go to ``apply``; they follow those of the actuators.
        at_start: whether the poses of ``apply``, with an action of 0, hold at the start of an episode, too,
            where the policy sees the bodies first. Otherwise they are where the model has them.
    """

    start: Callable[..., Any]
    step: Callable[..., Any]
    apply: Callable[..., Mapping[str, Array]] | None = None
    size: int = 0
    at_start: bool = False


class Carried(NamedTuple):
    """What ``EnvState.carry`` holds of a ``TaskEnv``.

    Attributes:
        action: (A,) the policy's last action.
        ctrl: (nu,) the last control, before MuJoCo's clamp.
        values: of the environment's ``carry``, by name.
    """

    action: Array
    ctrl: Array
    values: Mapping[str, Any]


Entries = Mapping[str, Carry]


def check(entries: Entries) -> Entries:
    """The entries, if each is a ``Carry``.

    Raises:
        ValueError: otherwise; one line.
    """
    if not isinstance(entries, Mapping):
        raise ValueError(f"carry must be a dict of Carry by name, got {users_code.told(entries)}")
    for name, entry in entries.items():
        if not isinstance(entry, Carry):
            raise ValueError(f"carry {name!r} must be a Carry, got {users_code.told(entry)}")
        if entry.size < 0:
            raise ValueError(f"carry {name!r}: size must be at least 0, got {entry.size}")
    return entries


def size(entries: Entries | None) -> int:
    """Numbers of an action that go to the entries."""
    return sum(entry.size for entry in (entries or {}).values())


def start(entries: Entries, key: Array, view: View) -> dict[str, Any]:
    """The values at the start of an episode; each sees those before it in ``view.carry``."""
    values: dict[str, Any] = {}
    for i, (name, entry) in enumerate(entries.items()):
        seen = view._replace(carry=dict(values))
        value = users_code.call(
            f"start of carry {name!r}", entry.start, jax.random.fold_in(key, i), seen, takes="(key, view)"
        )
        values[name] = jax.tree.map(_array, value)
    return values


def _array(x: Any) -> Array:
    """An array whose type does not depend on what it is added to."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.astype(x.dtype)


def step(entries: Entries, key: Array, motion: Motion) -> dict[str, Any]:
    """The values after a control step.

    Raises:
        ValueError: for a value whose shapes or types differ from those at the start; one line.
    """
    values = {}
    for i, (name, entry) in enumerate(entries.items()):
        old = motion.before.carry[name]
        new = users_code.call(
            f"step of carry {name!r}", entry.step, jax.random.fold_in(key, i), old, motion,
            takes="(key, value, motion)",
        )  # fmt: skip
        values[name] = _same(name, old, new)
    return values


def _same(name: str, old: Any, new: Any) -> Any:
    new = jax.tree.map(_array, new)
    kinds = [jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree) for tree in (old, new)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"step of carry {name!r} must return what start returns: {kinds[0]}, got {kinds[1]}")
    return new


def applied(entries: Entries, view: View, action: Array) -> dict[str, Array]:
    """What the entries apply during a control step, by its name in MuJoCo's data.

    Args:
        entries: by name.
        view: before the step.
        action: (size,) the numbers of the policy's action that are theirs.

    Raises:
        ValueError: for something else than forces and poses, or of another shape; one line.
    """
    given: dict[str, Array] = {}
    at = 0
    for name, entry in entries.items():
        own, at = action[at : at + entry.size], at + entry.size
        if entry.apply is None:
            continue
        new = users_code.call(
            f"apply of carry {name!r}", entry.apply, view.carry[name], view, own,
            takes="(value, view, action)",
        )  # fmt: skip
        for field, value in _checked(name, new, view).items():
            given[field] = given[field] + value if field in FORCES and field in given else value
        # a second mover of mocap bodies starts from where the first one puts them
        poses = {field: value for field, value in given.items() if field in POSES}
        view = view._replace(state=view.state._replace(carried={**view.state.carried, **poses}))
    return given


def poses(entries: Entries, view: View) -> dict[str, Array]:
    """Where entries put mocap bodies at the start of an episode, by their names in MuJoCo's data.

    Args:
        entries: by name; those that are not ``at_start`` are left out.
        view: at the start.
    """
    chosen = {name: entry for name, entry in entries.items() if entry.at_start}
    given = applied(chosen, view, jnp.zeros(size(chosen)))
    return {field: value for field, value in given.items() if field in POSES}


def _checked(name: str, given: Any, view: View) -> dict[str, Array]:
    if not isinstance(given, Mapping):
        raise ValueError(f"apply of carry {name!r} must return a dict, got {users_code.told(given)}")
    model = view.base
    shapes = {
        "xfrc_applied": (model.nbody, 6), "qfrc_applied": (model.nv,),
        "mocap_pos": (model.nmocap, 3), "mocap_quat": (model.nmocap, 4),
    }  # fmt: skip
    for field, value in given.items():
        if field not in shapes:
            near, has = suggestion(str(field), shapes), ", ".join(shapes)
            raise ValueError(f"apply of carry {name!r} cannot set {field!r}{near} (it can set {has})")
        if field in POSES and not model.nmocap:
            raise ValueError(f"apply of carry {name!r} sets {field}, but the model has no mocap body")
        if jnp.shape(value) != shapes[field]:
            raise ValueError(
                f"apply of carry {name!r}: {field} must be of shape {shapes[field]}, got {jnp.shape(value)}"
            )
    return {field: jnp.asarray(value, view.qpos.dtype) for field, value in given.items()}
