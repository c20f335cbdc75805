"""The tasks that a sampler draws, as mean and spread in the task's units, for the console and for figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.samplers.base import Drawn, TaskSampler, drawn_from
from roml_jax.tasks import TaskFamily

_DRAWS = 16384  # tasks for each phi
QUANTILES = (0.1, 0.9)


class Spread(NamedTuple):
    """Tasks of T distributions, each (T, d).

    Attributes:
        mean: mean task.
        low: lower quantile of ``QUANTILES``; NaN where only a mean is known.
        high: upper quantile; NaN where only a mean is known.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Drawing(NamedTuple):
    """How the parameters phi of a sampler are read.

    Attributes:
        phi: (p,) at the start of a run.
        spread: (phi (T, p)) -> Spread. The draws of all phis share a random key, so that a distribution that
            is the prior has exactly the prior's spread.
        mean: (phi (S, p)) -> (d,) mean task over S distributions, in a time that does not depend on S.
    """

    phi: np.ndarray
    spread: Callable[[np.ndarray], Spread]
    mean: Callable[[np.ndarray], np.ndarray]


def _drawing(drawn: Drawn, phi: np.ndarray) -> Drawing:
    """How parameters are read that start at phi (p,) and that ``drawn`` draws tasks with."""
    draw = jax.jit(drawn, static_argnums=2)

    def tasks(phi: np.ndarray, seed: int, n: int) -> np.ndarray:
        return np.asarray(draw(jnp.asarray(phi), jax.random.key(seed), n), float)

    def spread(phis: np.ndarray) -> Spread:
        different, back = np.unique(np.asarray(phis, phi.dtype), axis=0, return_inverse=True)
        found = [tasks(one, 0, _DRAWS) for one in different]
        summary = [[one.mean(axis=0), *np.quantile(one, QUANTILES, axis=0)] for one in found]
        return Spread(*np.moveaxis(np.array(summary), 1, 0)[:, back.ravel()])

    def mean(phis: np.ndarray) -> np.ndarray:
        n = max(_DRAWS // len(phis), 1)
        found = [tasks(one, seed, n) for seed, one in enumerate(np.asarray(phis, phi.dtype))]
        return np.mean([one.mean(axis=0) for one in found], axis=0)

    return Drawing(phi, spread, mean)


def prior(family: TaskFamily) -> Drawing:
    """The proposal of a family, which starts at the prior."""
    return _drawing(drawn_from(family, family.proposal), np.asarray(family.proposal.phi0))


def of(sampler: TaskSampler, family: TaskFamily) -> Drawing | None:
    """How the parameters phi of a sampler are read; None for a sampler whose phi says nothing of its tasks.

    A sampler without ``drawn`` whose phi is a mean of u has no known spread. Its mean task is estimated by
    that of the family's proposal with the same phi, which is exact at the prior.
    """
    if sampler.drawn is not None:
        first = jax.jit(lambda key: sampler.phi(sampler.init(key)))(jax.random.key(0))
        return _drawing(sampler.drawn, np.asarray(first))
    known = prior(family)
    shape = jax.eval_shape(lambda key: sampler.phi(sampler.init(key)), jax.random.key(0)).shape
    if shape != known.phi.shape or known.phi.size != len(family.names):
        return None

    def only_mean(phis: np.ndarray) -> Spread:
        found = known.spread(phis).mean
        return Spread(found, np.full_like(found, np.nan), np.full_like(found, np.nan))

    return known._replace(spread=only_mean)
