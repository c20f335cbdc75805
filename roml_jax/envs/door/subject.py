"""What is checked: an environment's model, its tasks at their ends, and the values that its edits give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs import edits
from roml_jax.envs.door import programs
from roml_jax.envs.door.rules import Change
from roml_jax.envs.physics.base import Contacts, Derived, field_of
from roml_jax.tasks import TaskFamily

_CORNERS = 4  # tasks at corners of the range, besides the ends of each dimension


class Subject(NamedTuple):
    """The model of an environment and its tasks.

    Attributes:
        model: unedited; None for an environment without one.
        apply_task: (task (d,)) -> the model fields that the task replaces.
        family: of tasks.
        dimensions: the dimensions as the user wrote them, or none where only ``apply_task`` is known.
        derived: as the engine has it.
        contacts: as the engine has it.
        frame_skip: physics steps per control step.
        readings: fields of MuJoCo's data that the environment reads.
    """

    model: mujoco.MjModel | None
    apply_task: Callable[[Any], Mapping[str, Any]]
    family: TaskFamily
    dimensions: tuple[edits.TaskDimension, ...]
    derived: Derived
    contacts: Contacts
    frame_skip: int
    readings: tuple[str, ...]

    @property
    def compiled(self) -> mujoco.MjModel:
        """The model, of an environment that has one."""
        assert self.model is not None
        return self.model


def of(env: Any) -> Subject:
    """The subject of an environment."""
    dimensions = tuple(getattr(env, "dimensions", ()))
    physics, apply_task = getattr(env, "physics", None), getattr(env, "apply_task", None)
    if apply_task is None or (physics is None and getattr(env, "mj_model", None) is None):
        return Subject(None, lambda task: {}, env.family, (), "stale", "right", 1, ())
    if physics is None:  # of another library
        model = env.mj_model
        return Subject(model, apply_task, env.family, dimensions, env.derived, "right", 1, ())
    task = jax.ShapeDtypeStruct((len(env.family.names),), jnp.float32)
    readings = tuple(jax.eval_shape(env.reset, jax.random.key(0), task).physics.readings)
    return Subject(
        physics.model, apply_task, env.family, dimensions, physics.derived, physics.contacts,
        physics.frame_skip, readings,
    )  # fmt: skip


def ends(family: TaskFamily) -> np.ndarray:
    """(d, 2) the ends of each dimension's range; the farthest of 4096 tasks stands for an infinite end."""
    bounds = np.array(family.ranges, float)
    if np.isfinite(bounds).all():
        return bounds
    drawn = programs.run(lambda: family.sample_prior(jax.random.key(0), 4096))
    far = np.stack([drawn.min(axis=0), drawn.max(axis=0)], axis=1)
    return np.where(np.isfinite(bounds), bounds, far)


class Variant(NamedTuple):
    """A task at which the environment is tried.

    Attributes:
        dimension: its name; empty for the unedited model, the middle of the range and its corners.
        end: "low", "high", or what else it is.
        task: (d,).
        leaves: the model fields of the task.
    """

    dimension: str
    end: str
    task: np.ndarray
    leaves: dict[str, np.ndarray]


def variants(subject: Subject) -> list[Variant]:
    """The unedited model, the middle of the range, both ends of every dimension, and corners of the range.

    At the ends of a dimension, all that it does not edit is as in the unedited model, so that a difference is
    that of its own fields.
    """
    names, family = subject.family.names, subject.family
    middle = programs.run(lambda: family.decode(jnp.full(family.proposal.dims, 0.5))).astype(np.float32)
    bounds = ends(family)
    listed = [("", "middle", middle)]
    for i, name in enumerate(names):
        for j, end in enumerate(("low", "high")):
            task = middle.copy()
            task[i] = bounds[i, j]
            listed.append((name, end, task))
    which = corners(len(names))
    listed += [("", "corner", np.float32(np.where(row, bounds[:, 1], bounds[:, 0]))) for row in which]
    found = fields(subject, np.stack([task for _, _, task in listed]))
    tried = [
        Variant(name, end, task, {field: leaf[i] for field, leaf in found.items()})
        for i, (name, end, task) in enumerate(listed)
    ]
    originals = {field: field_of(subject.compiled, field).astype(np.float32) for field in found}
    for i, (_, end, _) in enumerate(listed):
        if end == "low":
            tried[i : i + 2] = _alone_at_the_ends(tried[i], tried[i + 1], originals)
    return [Variant("", "unedited", middle, originals), *tried]


def _alone_at_the_ends(low: Variant, high: Variant, originals: Mapping[str, np.ndarray]) -> list[Variant]:
    """Both ends of a dimension; what it does not edit is as in the unedited model."""
    edited = {field: low.leaves[field] != high.leaves[field] for field in originals}
    return [
        end._replace(leaves={f: np.where(edited[f], end.leaves[f], originals[f]) for f in originals})
        for end in (low, high)
    ]


def corners(d: int, count: int = _CORNERS) -> np.ndarray:
    """(n, d) bool: which dimensions are at their high end; all low and all high among ``count``."""
    both = np.array([[False] * d, [True] * d])
    if d == 1:
        return both[:0]  # the ends are the corners
    random = np.random.default_rng(0).integers(0, 2, (count - 2, d)).astype(bool)
    return np.concatenate([both, random])


def fields(subject: Subject, tasks: np.ndarray) -> dict[str, np.ndarray]:
    """The model fields of tasks (n, d), each (n, ...)."""
    return programs.run(jax.vmap(lambda task: dict(subject.apply_task(task))), np.float32(tasks))


def changes(subject: Subject, tried: Sequence[Variant]) -> list[Change]:
    """The environment's edits; where only ``apply_task`` is known, one per dimension and field."""
    found, known = [], len(subject.dimensions) == len(subject.family.names)
    alone = _alone(subject) if known else {}
    for i, name in enumerate(subject.family.names):
        low, high = (next(v for v in tried if (v.dimension, v.end) == (name, end)) for end in ("low", "high"))
        if known:
            dimension = subject.dimensions[i]
            for j, edit in enumerate(dimension.edits):
                mask = np.not_equal(*alone[f"{i} {j}"])
                base = field_of(subject.compiled, edit.field).astype(np.float32)
                values = (np.where(mask, v.leaves[edit.field], base) for v in (low, high))
                found.append(Change(name, edit.field, mask, *values, edit.rows is not None, dimension.inert))
            continue
        for field in low.leaves:
            mask = low.leaves[field] != high.leaves[field]
            if mask.any():
                values = low.leaves[field], high.leaves[field]
                found.append(Change(name, field, mask, *values, listed=True, inert=False))
    return found


def _alone(subject: Subject) -> dict[str, list[np.ndarray]]:
    """The field of every edit at both ends of its dimension, as this edit alone changes it.

    The edits of a direction's numbers are taken together.
    """

    def both(dimension: edits.TaskDimension, edit: edits.Edit) -> list[Any]:
        of = dimension.edits if edit.field in edits.DIRECTIONS else (edit,)
        alone = edits.make_apply_task(subject.compiled, [replace(dimension, edits=of)])
        return [alone(jnp.asarray([end], jnp.float32))[edit.field] for end in (dimension.low, dimension.high)]

    return programs.run(
        lambda: {
            f"{i} {j}": both(dimension, edit)
            for i, dimension in enumerate(subject.dimensions)
            for j, edit in enumerate(dimension.edits)
        }
    )


def widest_controls(model: mujoco.MjModel, tried: Sequence[Variant]) -> np.ndarray:
    """(nu, 2) the widest control range of any variant."""
    ranges = [v.leaves.get("actuator_ctrlrange", model.actuator_ctrlrange) for v in tried]
    return np.stack([np.min(ranges, axis=0)[:, 0], np.max(ranges, axis=0)[:, 1]], axis=1)
