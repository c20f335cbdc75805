"""Parametric families of distributions over the unit parameter u of a task.

With the parameters ``phi0`` a proposal is the prior. The cross-entropy method updates phi; likelihood
ratios between phi0 and phi are taken over u.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from roml_jax.types import Array

if TYPE_CHECKING:
    import distrax

# Float32 Beta draws near 0 or 1 are rounded to 0 or 1, where the density is 0 or infinite.
_U_MARGIN = 1e-6
_EXACT_PHI_MARGIN = 1e-3
_MIN_STD = 1e-3  # least std of a fitted Gaussian, in units of the prior's std
_REACH = (
    1e3  # how far a fit may go from the prior, in units of the prior's mean (exponential) or std (normal)
)


class UnitBox(NamedTuple):
    """The map between u and v in the unit box, where the prior is uniform: a prior's quantiles.

    Attributes:
        to_u: v (n, d) -> u (n, d).
        from_u: u (n, d) -> v (n, d), the inverse.
    """

    to_u: Callable[[Array], Array]
    from_u: Callable[[Array], Array]


class Proposal(NamedTuple):
    """A parametric family of distributions over u.

    Attributes:
        phi0: (p,) the parameters at which the proposal is the prior.
        sample: (phi (p,), key, n) -> u (n, d); draws on a bounded interval exclude its ends.
        log_prob: (phi (p,), u (n, d)) -> (n,).
        fit: (u (n, d), weights (n,)) -> phi (p,), the weighted fit of the cross-entropy method. A draw
            with weight 0 has no effect; weights that sum to 0 give NaN.
        low: (p,) lower bounds of phi.
        high: (p,) upper bounds of phi.
        dims: d.
        uniform_prior: whether u is uniform on [0, 1]^d under the prior.
        unclipped: () -> the same family with its exact density; None if the density is already exact.
        box: the prior's quantiles, for samplers that need a bounded box; None for a finite set of tasks.
        is_index: (d,) whether each number of u is an index into a finite set, which has no neighbours.
    """

    phi0: Array
    sample: Callable[[Array, Array, int], Array]
    log_prob: Callable[[Array, Array], Array]
    fit: Callable[[Array, Array], Array]
    low: Array
    high: Array
    dims: int
    uniform_prior: bool = False
    unclipped: Callable[[], Proposal] | None = None
    box: UnitBox | None = None
    is_index: tuple[bool, ...] = ()

    @property
    def is_finite(self) -> bool:
        """Whether u is an index, or several, and nothing else, so that two draws may be the same task."""
        return bool(self.is_index) and all(self.is_index)


def exact(proposal: Proposal) -> Proposal:
    """The family with its exact density, which gives unbiased weights."""
    return proposal if proposal.unclipped is None else proposal.unclipped()


def _weighted_mean(x: Array, weights: Array) -> Array:
    return (weights[:, None] * x).sum(axis=0) / weights.sum()


def _within(u: Array, mean: np.ndarray, std: np.ndarray) -> Array:
    """Draws (n, d), clipped to the reach of a fit around a prior's mean (d,)."""
    return jnp.clip(
        u, jnp.asarray(mean - _REACH * std, u.dtype)[None], jnp.asarray(mean + _REACH * std, u.dtype)[None]
    )


def _beta_of_two(phi: Array, key: Array, n: int) -> Array:
    """Exact draws (n, d) from Beta(2 phi, 2 - 2 phi) by rejection.

    The parameters sum to 2, so the smaller, s, is at most 1 and the density y^(s - 1) (1 - y)^(1 - s)
    is at most its first factor: with v uniform, y = v^(1 / s) is accepted with probability
    (1 - y)^(1 - s). The acceptance rate is 1 at the prior, where s = 1, and at least pi / 4 elsewhere.
    The general Beta sampler would run two rejection loops with a random key for every element.
    """
    phi = phi[None]
    small = 2 * jnp.minimum(phi, 1 - phi)
    shape = (n, phi.shape[1])

    def try_again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        u, missing, key = carry
        key, key_y, key_accept = jax.random.split(key, 3)
        y = jax.random.uniform(key_y, shape, phi.dtype) ** (1 / small)
        accepted = jax.random.uniform(key_accept, shape, phi.dtype) < (1 - y) ** (1 - small)
        return jnp.where(missing & accepted, y, u), missing & ~accepted, key

    start = (jnp.zeros(shape, phi.dtype), jnp.ones(shape, bool), key)
    y, _, _ = jax.lax.while_loop(lambda carry: carry[1].any(), try_again, start)
    return jnp.where(phi < 0.5, y, 1 - y)


def _log_beta_of_two(a: Array) -> Array:
    """Log of the Beta function of a and 2 - a, for a in (0, 2).

    Euler's reflection makes it pi (1 - a) / sin(pi a), which is 1 at a = 1. The general formula's three
    log-gammas would be most of a density's code.
    """
    small = jnp.minimum(a, 2 - a)
    sine = jnp.sin(jnp.pi * small) / (jnp.pi * jnp.where(small < 0.5, 1 - small, 1.0))
    return -jnp.log(jnp.where(small < 0.5, sine, jnp.sinc(1 - small)))


def beta(dims: int, bound: float | None = 0.02) -> Proposal:
    """Independent Beta(2 phi, 2 - 2 phi) over [0, 1] in each dimension; uniform at phi = 0.5.

    Args:
        dims: d; phi has one mean per dimension.
        bound: densities are evaluated at u clipped to [bound, 1 - bound], and phi is clipped to the same
            interval (as in the reference). This bounds the weights, and biases them far from the prior.
            None gives the exact density, with phi clipped to [1e-3, 1 - 1e-3].
    """
    margin = _U_MARGIN if bound is None else bound
    phi_margin = _EXACT_PHI_MARGIN if bound is None else bound

    def sample(phi: Array, key: Array, n: int) -> Array:
        return jnp.clip(_beta_of_two(phi, key, n), _U_MARGIN, 1 - _U_MARGIN)

    def log_prob(phi: Array, u: Array) -> Array:
        u, a = jnp.clip(u, margin, 1 - margin), 2 * phi[None]
        return ((a - 1) * (jnp.log(u) - jnp.log1p(-u)) - _log_beta_of_two(a)).sum(axis=-1)

    low, high = jnp.full(dims, phi_margin), jnp.full(dims, 1 - phi_margin)

    def fit(u: Array, weights: Array) -> Array:
        return jnp.clip(_weighted_mean(u, weights), phi_margin, 1 - phi_margin)

    return Proposal(
        jnp.full(dims, 0.5), sample, log_prob, fit, low, high, dims,
        uniform_prior=True, unclipped=None if bound is None else lambda: beta(dims, None),
        box=UnitBox(lambda v: v, lambda u: u),
    )  # fmt: skip


def exponential(mean: float) -> Proposal:
    """Exponential with mean phi over u in (0, inf).

    The fit is the weighted mean, clipped to between a thousandth and a thousand times the prior's mean: where
    the hardest task lies at 0 or at infinity, a search for it (``optimise``) would end at 0 or overflow.
    """

    def sample(phi: Array, key: Array, n: int) -> Array:
        return phi[None] * jax.random.exponential(key, (n, 1), phi.dtype)

    def log_prob(phi: Array, u: Array) -> Array:
        return (-jnp.log(phi[None]) - u / phi[None]).sum(axis=-1)

    low, high = jnp.full(1, mean / _REACH), jnp.full(1, mean * _REACH)

    def fit(u: Array, weights: Array) -> Array:
        return jnp.clip(_weighted_mean(u, weights), low.astype(u.dtype), high.astype(u.dtype))

    box = UnitBox(lambda v: -mean * jnp.log1p(-v), lambda u: -jnp.expm1(-u / mean))
    return Proposal(jnp.full(1, mean), sample, log_prob, fit, low, high, 1, box=box)


def _normal_box(mean: np.ndarray, factor: np.ndarray) -> UnitBox:
    """The quantiles of a normal with this mean (d,) and Cholesky factor (d, d) of its covariance."""
    inverse = np.linalg.inv(factor)

    def to_u(v: Array) -> Array:
        return jnp.asarray(mean, v.dtype)[None] + ndtri(v) @ jnp.asarray(factor.T, v.dtype)

    def from_u(u: Array) -> Array:
        return ndtr((u - jnp.asarray(mean, u.dtype)[None]) @ jnp.asarray(inverse.T, u.dtype))

    return UnitBox(to_u, from_u)


def gaussian(mean: Sequence[float], std: Sequence[float]) -> Proposal:
    """Independent normals over unconstrained u; phi holds the means, then the log-stds.

    A fitted std is at least a thousandth of the prior's std. Draws further than a thousand of the prior's
    stds from its mean count as that far.
    """
    mean0, std0 = np.asarray(mean, float), np.asarray(std, float)
    dims, floor = mean0.size, np.log(_MIN_STD * std0)
    low = jnp.asarray(np.concatenate([mean0 - _REACH * std0, floor]))
    high = jnp.asarray(np.concatenate([mean0 + _REACH * std0, np.log(_REACH * std0)]))

    def distribution(phi: Array) -> distrax.Distribution:
        import distrax  # imported late: the import takes two seconds and only densities need it

        return distrax.MultivariateNormalDiag(phi[:dims], jnp.exp(phi[dims:]))

    def fit(u: Array, weights: Array) -> Array:
        u = _within(u, mean0, std0)
        center = _weighted_mean(u, weights)
        variance = _weighted_mean(jnp.square(u - center), weights)
        log_std = 0.5 * jnp.log(jnp.maximum(variance, jnp.exp(2 * floor).astype(u.dtype)))
        return jnp.concatenate([center, log_std])

    return Proposal(
        phi0=jnp.asarray(np.concatenate([mean0, np.log(std0)])),
        sample=lambda phi, key, n: distribution(phi).sample(seed=key, sample_shape=n),
        log_prob=lambda phi, u: cast(Array, distribution(phi).log_prob(u)),
        fit=fit,
        low=low,
        high=high,
        dims=dims,
        box=_normal_box(mean0, np.diag(std0)),
    )


def gaussian_full(mean: Sequence[float], covariance: Sequence[Sequence[float]]) -> Proposal:
    """A normal with full covariance over unconstrained u; phi holds the mean, then the Cholesky factor.

    The factor's lower triangle is stored row by row. A millionth of the prior's variances is added to the
    fitted covariance, so that a fit to few draws is positive definite. Draws further than a thousand of the
    prior's stds from its mean count as that far.
    """
    mean0, cov0 = np.asarray(mean, float), np.asarray(covariance, float)
    dims = mean0.size
    rows, columns = np.tril_indices(dims)
    ridge = np.diag(np.diag(cov0)) * _MIN_STD**2
    std0 = np.sqrt(np.diag(cov0))

    def factor(phi: Array) -> Array:
        return jnp.zeros((dims, dims), phi.dtype).at[rows, columns].set(phi[dims:])

    def distribution(phi: Array) -> distrax.Distribution:
        import distrax  # imported late: the import takes two seconds and only densities need it

        return distrax.MultivariateNormalTri(phi[:dims], factor(phi))

    def fit(u: Array, weights: Array) -> Array:
        u = _within(u, mean0, std0)
        center = _weighted_mean(u, weights)
        apart = u - center
        covariance = (weights[:, None] * apart).T @ apart / weights.sum()
        lower = jnp.linalg.cholesky(covariance + ridge.astype(u.dtype))
        return jnp.concatenate([center, lower[rows, columns]])

    triangle = np.linalg.cholesky(cov0)[rows, columns]
    on_diagonal = np.where(rows == columns, 0.0, -np.inf)
    return Proposal(
        phi0=jnp.asarray(np.concatenate([mean0, triangle])),
        sample=lambda phi, key, n: distribution(phi).sample(seed=key, sample_shape=n),
        log_prob=lambda phi, u: cast(Array, distribution(phi).log_prob(u)),
        fit=fit,
        low=jnp.asarray(np.concatenate([np.full(dims, -np.inf), on_diagonal])),
        high=jnp.full(dims + rows.size, jnp.inf),
        dims=dims,
        box=_normal_box(mean0, np.linalg.cholesky(cov0)),
    )


def categorical(probabilities: Sequence[float] | np.ndarray, floor: float = 1e-3) -> Proposal:
    """Categorical over a finite set of tasks; u is the index as a float, phi the probabilities.

    Args:
        probabilities: (m,) of the prior, positive.
        floor: least probability of any task after a fit, as a share of 1 / m.
    """
    prior = np.asarray(probabilities, float) / np.sum(probabilities)
    count, least = prior.size, floor / prior.size

    def sample(phi: Array, key: Array, n: int) -> Array:
        import distrax

        index = distrax.Categorical(probs=phi).sample(seed=key, sample_shape=n)
        return index[:, None].astype(phi.dtype)

    def log_prob(phi: Array, u: Array) -> Array:
        return jnp.log(phi[u[:, 0].astype(jnp.int32)])

    def fit(u: Array, weights: Array) -> Array:
        totals = jax.ops.segment_sum(weights, u[:, 0].astype(jnp.int32), count)
        return (1 - floor) * totals / weights.sum() + least

    low = jnp.asarray(np.minimum(prior, least))
    return Proposal(jnp.asarray(prior), sample, log_prob, fit, low, jnp.ones(count), 1, is_index=(True,))


def with_prior(proposal: Proposal, share: float | Array) -> Proposal:
    """A mixture that draws ``share`` of the tasks from the prior; no weight exceeds 1 / share.

    A share () that is an array may change between calls, and is not checked; 0 is the proposal itself.
    """
    log, log1p = (jnp.log, jnp.log1p) if isinstance(share, jax.Array) else (math.log, math.log1p)
    if not isinstance(share, jax.Array) and not 0 < share < 1:
        raise ValueError(f"the prior's share must be in (0, 1), got {share}")

    def sample(phi: Array, key: Array, n: int) -> Array:
        which, prior_key, phi_key = jax.random.split(key, 3)
        from_prior = jax.random.bernoulli(which, share, (n, 1))
        prior = proposal.sample(proposal.phi0.astype(phi.dtype), prior_key, n)
        return jnp.where(from_prior, prior, proposal.sample(phi, phi_key, n))

    def log_prob(phi: Array, u: Array) -> Array:
        return jnp.logaddexp(
            log(share) + proposal.log_prob(proposal.phi0.astype(phi.dtype), u),
            log1p(-share) + proposal.log_prob(phi, u),
        )

    clipped = proposal.unclipped is not None
    return proposal._replace(
        sample=sample,
        log_prob=log_prob,
        unclipped=(lambda: with_prior(exact(proposal), share)) if clipped else None,
    )


def product(parts: Sequence[Proposal]) -> Proposal:
    """The product of independent proposals; their u, phi and bounds are concatenated."""
    phi_ends = np.cumsum([part.phi0.size for part in parts])[:-1]
    u_ends = np.cumsum([part.dims for part in parts])[:-1]

    def sample(phi: Array, key: Array, n: int) -> Array:
        keys, phis = jax.random.split(key, len(parts)), jnp.split(phi, phi_ends)
        drawn = [part.sample(p, k, n) for part, p, k in zip(parts, phis, keys, strict=True)]
        return jnp.concatenate(drawn, axis=-1)

    def log_prob(phi: Array, u: Array) -> Array:
        phis, us = jnp.split(phi, phi_ends), jnp.split(u, u_ends, axis=-1)
        terms = [part.log_prob(p, x) for part, p, x in zip(parts, phis, us, strict=True)]
        return jnp.stack(terms).sum(axis=0)

    def fit(u: Array, weights: Array) -> Array:
        us = jnp.split(u, u_ends, axis=-1)
        return jnp.concatenate([part.fit(x, weights) for part, x in zip(parts, us, strict=True)])

    def joined(name: str) -> Array:
        return jnp.concatenate([getattr(part, name) for part in parts])

    def apart(x: Array, function: str) -> Array:
        pieces = jnp.split(x, u_ends, axis=-1)
        mapped = [getattr(part.box, function)(piece) for part, piece in zip(parts, pieces, strict=True)]
        return jnp.concatenate(mapped, axis=-1)

    return Proposal(
        joined("phi0"), sample, log_prob, fit, joined("low"), joined("high"),
        dims=sum(part.dims for part in parts), uniform_prior=all(part.uniform_prior for part in parts),
        unclipped=(lambda: product([exact(part) for part in parts]))
        if any(part.unclipped is not None for part in parts) else None,
        box=UnitBox(lambda v: apart(v, "to_u"), lambda u: apart(u, "from_u"))
        if all(part.box is not None for part in parts) else None,
        is_index=tuple(one for part in parts for one in part.is_index or (False,) * part.dims),
    )  # fmt: skip
