"""Task families: the named dimensions of a task, their units and their prior.

A family combines a ``Proposal`` over a unit parameter u with the map from u to the task that the
environment gets. ``product`` composes families, so a task space needs no class of its own:

    tasks.product({"mass": tasks.log_beta(("mass",)), "speed": tasks.beta("speed", 0.0, 7.0)})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import proposals
from roml_jax.proposals import Proposal
from roml_jax.types import Array

_FAR = 5.0  # standard deviations
_INFINITE = (-math.inf, math.inf)


class TaskFamily(NamedTuple):
    """The tasks of an environment.

    Attributes:
        names: one name per task dimension.
        ranges: (low, high) of each dimension in the environment's units; may be infinite.
        proposal: distributions over u; the prior is the one with parameters ``phi0``.
        decode: u (..., du) -> task (..., d).
        encode: task (..., d) -> u (..., du), for plots and users; training never inverts a task.
        priors: description of each dimension's prior, for listings; empty if there is none.
        hardest: 'top' if tasks are known to get harder toward the top of a one-dimensional range, which
            the oracle sampler requires; None if this is not known.
    """

    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    proposal: Proposal
    decode: Callable[[Array], Array]
    encode: Callable[[Array], Array]
    priors: tuple[str, ...] = ()
    hardest: Literal["top"] | None = None

    def sample_prior(self, key: Array, n: int) -> Array:
        """Draws n tasks from the prior, (n, d)."""
        return self.decode(self.proposal.sample(self.proposal.phi0, key, n))


def far_off(family: TaskFamily, tasks: np.ndarray, drawn: np.ndarray | None = None) -> str | None:
    """One line about the task that is farthest from the prior, if it is far off; else None.

    A task is far off if one of its dimensions is more than five standard deviations from the prior's mean
    and beyond all of 10,000 draws. Training hardly sees such tasks.

    Args:
        family: the task family.
        tasks: (m, d).
        drawn: 10,000 draws (10000, d) from the prior; None to make them here.
    """
    drawn = np.asarray(family.sample_prior(jax.random.key(0), 10_000) if drawn is None else drawn, float)
    mean, std = drawn.mean(axis=0), np.maximum(drawn.std(axis=0), np.finfo(float).tiny)
    deviations = np.abs(np.asarray(tasks, float) - mean) / std
    beyond = (tasks < drawn.min(axis=0)) | (tasks > drawn.max(axis=0))
    deviations = np.where(beyond & (deviations > _FAR), deviations, 0)
    count = int(deviations.any(axis=1).sum())
    if not count:
        return None
    row, i = np.unravel_index(deviations.argmax(), deviations.shape)
    others = f" (the farthest of {count})" if count > 1 else ""
    return (
        f"{family.names[i]}={tasks[row][i]:.3g} is {deviations[row, i]:.0f} standard deviations from the "
        f"prior's mean, {mean[i]:.3g}: training hardly saw such tasks{others}"
    )


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a family needs one distinct name per task dimension, got {list(names)}")
    return tuple(names)


def beta(
    name: str,
    low: float,
    high: float,
    *,
    bound: float | None = 0.02,
    hardest: Literal["top"] | None = None,
) -> TaskFamily:
    """A one-dimensional task, uniform on [low, high] under the prior (e.g. a target velocity)."""
    return TaskFamily(
        names=(name,),
        ranges=((low, high),),
        proposal=proposals.beta(1, bound),
        decode=lambda u: low + (high - low) * u,
        encode=lambda task: (task - low) / (high - low),
        priors=("uniform",),
        hardest=hardest,
    )


def log_beta(
    names: Sequence[str],
    low: float = -1.0,
    high: float = 1.0,
    *,
    bound: float | None = 0.02,
    hardest: Literal["top"] | None = None,
) -> TaskFamily:
    """Independent factors 2^x, with x uniform on [low, high] under the prior."""
    names = _distinct(names)
    return TaskFamily(
        names=names,
        ranges=((2.0**low, 2.0**high),) * len(names),
        proposal=proposals.beta(len(names), bound),
        decode=lambda u: 2.0 ** (low + (high - low) * u),
        encode=lambda task: (jnp.log2(task) - low) / (high - low),
        priors=(f"2^U({low:g}, {high:g})",) * len(names),
        hardest=hardest,
    )


def exponential(name: str, mean: float, *, hardest: Literal["top"] | None = None) -> TaskFamily:
    """A non-negative task, exponential with this mean under the prior (e.g. a noise level)."""
    identity = lambda x: x  # noqa: E731
    return TaskFamily(
        (name,), ((0.0, math.inf),), proposals.exponential(mean), identity, identity,
        priors=(f"exponential, mean {mean:g}",), hardest=hardest,
    )  # fmt: skip


def disk(names: Sequence[str], radius: float, *, bound: float | None = 0.02) -> TaskFamily:
    """A point uniform on a disk under the prior (e.g. a goal); u is (r^2 / radius^2, angle / 2 pi).

    The reference's inverse of the angle is wrong by half a turn, so its updates move the distribution
    toward the opposite side. Here ``encode`` is the exact inverse of ``decode``.
    """
    names = _distinct(names)
    if len(names) != 2:
        raise ValueError(f"a disk needs two names, got {list(names)}")

    def decode(u: Array) -> Array:
        r, angle = radius * jnp.sqrt(u[..., 0]), 2 * jnp.pi * u[..., 1]
        return jnp.stack([r * jnp.cos(angle), r * jnp.sin(angle)], axis=-1)

    def encode(task: Array) -> Array:
        turn = jnp.arctan2(task[..., 1], task[..., 0]) / (2 * jnp.pi)
        return jnp.stack([jnp.square(task / radius).sum(axis=-1), turn % 1.0], axis=-1)

    return TaskFamily(
        names, ((-radius, radius),) * 2, proposals.beta(2, bound), decode, encode,
        priors=(f"uniform on a disk of radius {radius:g}",) * 2,
    )  # fmt: skip


def gaussian(names: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> TaskFamily:
    """Unconstrained tasks, independent and normal under the prior."""
    names = _distinct(names)
    identity = lambda x: x  # noqa: E731
    return TaskFamily(
        names, (_INFINITE,) * len(names), proposals.gaussian(mean, std), identity, identity,
        priors=tuple(f"normal, mean {m:g}, deviation {s:g}" for m, s in zip(mean, std, strict=True)),
    )  # fmt: skip


def gaussian_full(
    names: Sequence[str], mean: Sequence[float], covariance: Sequence[Sequence[float]]
) -> TaskFamily:
    """Unconstrained tasks, jointly normal under the prior.

    The proposal has a full covariance, so it can follow hard combinations of dimensions.
    """
    names = _distinct(names)
    proposal, identity = proposals.gaussian_full(mean, covariance), lambda x: x
    std = np.sqrt(np.diagonal(np.asarray(covariance, float)))
    return TaskFamily(
        names, (_INFINITE,) * len(names), proposal, identity, identity,
        priors=tuple(
            f"jointly normal, mean {m:g}, deviation {s:g}" for m, s in zip(mean, std, strict=True)
        ),
    )  # fmt: skip


def categorical(
    names: Sequence[str], options: Sequence[Sequence[float]], probabilities: Sequence[float] | None = None
) -> TaskFamily:
    """A finite set of tasks.

    Args:
        names: one per task dimension.
        options: (m, d) the tasks.
        probabilities: (m,) of the prior, positive; uniform if None.

    Raises:
        ValueError: for arguments of other shapes, or a probability that is not positive.
    """
    names, table = _distinct(names), np.asarray(options, float)
    if table.ndim != 2 or table.shape[1] != len(names):
        raise ValueError(f"options must have shape (tasks, {len(names)}), got {table.shape}")
    prior = np.full(len(table), 1 / len(table)) if probabilities is None else np.asarray(probabilities, float)
    if prior.shape != (len(table),) or not (prior > 0).all():
        raise ValueError(f"probabilities must be {len(table)} positive numbers, got {probabilities}")

    def encode(task: Array) -> Array:
        distance = jnp.square(task[..., None, :] - jnp.asarray(table)).sum(axis=-1)
        return distance.argmin(axis=-1)[..., None].astype(task.dtype)

    return TaskFamily(
        names=names,
        ranges=tuple(zip(table.min(axis=0).tolist(), table.max(axis=0).tolist(), strict=True)),
        proposal=proposals.categorical(prior),
        decode=lambda u: jnp.asarray(table, u.dtype)[u[..., 0].astype(jnp.int32)],
        encode=encode,
        priors=(f"one of {len(table)}{'' if probabilities is None else ', weighted'}",) * len(names),
    )


def with_prior(family: TaskFamily, share: float) -> TaskFamily:
    """The same tasks, but ``share`` of the draws come from the prior; no weight exceeds 1 / share."""
    return family._replace(proposal=proposals.with_prior(family.proposal, share))


def product(families: Mapping[str, TaskFamily]) -> TaskFamily:
    """The product of independent families.

    A family of one dimension is named by its key; one of several dimensions gets names ``key.name``.
    """
    parts = list(families.values())
    task_ends = np.cumsum([len(part.names) for part in parts])[:-1]
    u_ends = np.cumsum([part.proposal.dims for part in parts])[:-1]
    names = [
        key if len(part.names) == 1 else f"{key}.{name}"
        for key, part in families.items()
        for name in part.names
    ]

    def apart(x: Array, ends: np.ndarray, function: str) -> Array:
        pieces = jnp.split(x, ends, axis=-1)
        mapped = [getattr(part, function)(piece) for part, piece in zip(parts, pieces, strict=True)]
        return jnp.concatenate(mapped, axis=-1)

    return TaskFamily(
        names=_distinct(names),
        ranges=tuple(bounds for part in parts for bounds in part.ranges),
        proposal=proposals.product([part.proposal for part in parts]),
        decode=lambda u: apart(u, u_ends, "decode"),
        encode=lambda task: apart(task, task_ends, "encode"),
        # a family without descriptions gets empty ones
        priors=tuple(text for part in parts for text in part.priors or ("",) * len(part.names)),
    )
