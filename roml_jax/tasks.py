"""Task families: what may vary between tasks, and the distributions tasks are drawn from.

A family ties a parametric ``Proposal`` over a unit parameter ``u`` to the task that the
environment gets. The proposal at ``phi0`` is the prior. Likelihood ratios are taken over ``u``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp

from roml_jax.types import Array

# Float32 Beta draws near an end round to 0 or 1, where densities are 0 or infinite.
_U_MARGIN = 1e-6


class Proposal(NamedTuple):
    """A parametric family of distributions over u.

    Attributes:
        phi0: (p,) the parameters at which the proposal is the prior.
        sample: (phi (p,), key, n) -> u (n, d), kept off the ends of the interval.
        log_prob: (phi (p,), u (n, d)) -> (n,).
        fit: (u (n, d), weights (n,)) -> phi (p,), the weighted maximum-likelihood-like update of
            the cross-entropy method; weights of 0 leave a draw out.
    """

    phi0: Array
    sample: Callable[[Array, Array, int], Array]
    log_prob: Callable[[Array, Array], Array]
    fit: Callable[[Array, Array], Array]


class TaskFamily(NamedTuple):
    """The tasks of an environment.

    Attributes:
        names: one name per task dimension.
        ranges: (low, high) of each dimension in the environment's units; high may be inf.
        proposal: distributions over u, the prior among them.
        decode: u (..., d) -> task (..., d).
        encode: task (..., d) -> u (..., d), for plots and users; training never inverts a task.
    """

    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    proposal: Proposal
    decode: Callable[[Array], Array]
    encode: Callable[[Array], Array]

    def sample_prior(self, key: Array, n: int) -> Array:
        """Draws n tasks from the prior, (n, d)."""
        return self.decode(self.proposal.sample(self.proposal.phi0, key, n))


def _weighted_mean(u: Array, weights: Array) -> Array:
    return (weights[:, None] * u).sum(axis=0) / weights.sum()


def beta_proposal(dims: int, bound: float | None = 0.02) -> Proposal:
    """Independent Beta(2 phi, 2 - 2 phi) over [0, 1] in each dimension; uniform at phi = 0.5.

    Args:
        dims: d; phi has one mean per dimension.
        bound: the reference evaluates densities at u clipped to [bound, 1 - bound] and keeps phi
            inside the same interval. This bounds the weights and biases them far from the prior.
            None gives the exact density, with phi kept inside [1e-3, 1 - 1e-3].
    """
    phi_margin = 1e-3 if bound is None else bound

    def distribution(phi: Array) -> distrax.Distribution:
        return distrax.Independent(distrax.Beta(2 * phi, 2 - 2 * phi), reinterpreted_batch_ndims=1)

    def sample(phi: Array, key: Array, n: int) -> Array:
        u = distribution(phi).sample(seed=key, sample_shape=n)
        return jnp.clip(u, _U_MARGIN, 1 - _U_MARGIN)

    def log_prob(phi: Array, u: Array) -> Array:
        margin = _U_MARGIN if bound is None else bound
        return distribution(phi).log_prob(jnp.clip(u, margin, 1 - margin))

    def fit(u: Array, weights: Array) -> Array:
        return jnp.clip(_weighted_mean(u, weights), phi_margin, 1 - phi_margin)

    return Proposal(jnp.full(dims, 0.5), sample, log_prob, fit)


def exponential_proposal(mean: float) -> Proposal:
    """Exponential with mean phi over u in (0, inf); u is the task itself."""

    def sample(phi: Array, key: Array, n: int) -> Array:
        return phi * jax.random.exponential(key, (n, phi.shape[0]), phi.dtype)

    def log_prob(phi: Array, u: Array) -> Array:
        return (-jnp.log(phi) - u / phi).sum(axis=-1)

    return Proposal(jnp.full(1, mean), sample, log_prob, _weighted_mean)


def _one_name_each(names: Sequence[str], what: str) -> tuple[str, ...]:
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{what} needs one distinct name per task dimension, got {list(names)}")
    return tuple(names)


def beta(name: str, low: float, high: float, *, bound: float | None = 0.02) -> TaskFamily:
    """A task uniform on [low, high] under the prior (e.g. a target velocity)."""
    return TaskFamily(
        names=(name,),
        ranges=((low, high),),
        proposal=beta_proposal(1, bound),
        decode=lambda u: low + (high - low) * u,
        encode=lambda task: (task - low) / (high - low),
    )


def log_beta(
    names: Sequence[str], low: float = -1.0, high: float = 1.0, *, bound: float | None = 0.02
) -> TaskFamily:
    """Factors 2^x with x uniform on [low, high] under the prior, independent in each dimension."""
    names = _one_name_each(names, "log_beta")
    return TaskFamily(
        names=names,
        ranges=((2.0**low, 2.0**high),) * len(names),
        proposal=beta_proposal(len(names), bound),
        decode=lambda u: 2.0 ** (low + (high - low) * u),
        encode=lambda task: (jnp.log2(task) - low) / (high - low),
    )


def exponential(name: str, mean: float) -> TaskFamily:
    """A non-negative task, exponential with the given mean under the prior (a noise level)."""
    return TaskFamily(
        names=(name,),
        ranges=((0.0, float("inf")),),
        proposal=exponential_proposal(mean),
        decode=lambda u: u,
        encode=lambda task: task,
    )
