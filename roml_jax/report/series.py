"""A method's seeds on common axes: learning curves, what a sampler draws over time, returns by task."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import envs
from roml_jax.errors import ConfigError
from roml_jax.evaluate import records as recorded
from roml_jax.evaluate.intervals import Interval, bootstrap
from roml_jax.report.data import Method
from roml_jax.run import saved
from roml_jax.tasks import TaskFamily

_POINTS = 120  # of a curve
_DRAWS = 512  # of a sampler's distribution at each of them
_DISTRIBUTIONS = 40  # points in time at which it is drawn
_RESAMPLES = 2000
SPREAD = (0.1, 0.9)  # quantiles of the tasks that are shown


class Curve(NamedTuple):
    """A mean over seeds against frames: x (T,), interval (T,)."""

    x: np.ndarray
    y: Interval


class Draws(NamedTuple):
    """What a sampler draws over time, in the task's units, means over seeds.

    Attributes:
        x: (T,) frames.
        mean: (T, d).
        low: (T, d) the lower of ``SPREAD``; NaN where only the mean is known.
        high: (T, d) the upper.
        by_seed: (seeds, T, d) means.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    by_seed: np.ndarray


def curve(method: Method, metric: str) -> Curve | None:
    """A metric over the seeds that got so far at each point; None where no seed has it twice."""
    series = [seed.series(metric) for seed in method.seeds]
    series = [(x, y) for x, y in series if len(x)]
    if not any(len(x) > 1 for x, _ in series):
        return None
    points = np.unique(np.concatenate([x for x, _ in series]))
    if len(points) > _POINTS:
        points = np.linspace(points[0], points[-1], _POINTS)
    values = np.array([np.interp(points, x, y, left=np.nan, right=np.nan) for x, y in series])
    mean, low, high = np.full((3, len(points)), np.nan)
    known = np.isfinite(values)
    for pattern in np.unique(known, axis=1).T:
        if pattern.any():
            at = (known == pattern[:, None]).all(axis=0)
            made = bootstrap(values[np.ix_(pattern, at)], resamples=_RESAMPLES)
            mean[at], low[at], high[at] = made.mean, made.low, made.high
    return Curve(points, Interval(mean, low, high, len(series)))


def _tasks_at(family: TaskFamily, sampler: str, phi: np.ndarray) -> np.ndarray:
    """Mean, lower and upper quantile of the tasks that a sampler draws: (3, ..., d) at phi (..., p)."""
    proposal = family.proposal
    if sampler not in ("cem", "cem_soft"):  # where phi is a mean, not parameters of the family's proposal
        center = np.asarray(family.decode(jnp.asarray(phi)))
        return np.stack([center, *np.full((2, *center.shape), np.nan)])

    def drawn(phi: jax.Array) -> jax.Array:
        tasks = family.decode(proposal.sample(phi, jax.random.key(0), _DRAWS))
        return jnp.stack([tasks.mean(axis=0), *jnp.quantile(tasks, jnp.array(SPREAD), axis=0)])

    flat = jnp.asarray(phi.reshape(-1, phi.shape[-1]), jnp.float32)
    shown = np.asarray(jax.jit(jax.vmap(drawn, out_axes=1))(flat))
    return shown.reshape(3, *phi.shape[:-1], -1)


def draws(method: Method, family: TaskFamily) -> Draws | None:
    """What a method's sampler draws over time; None where it always draws from the prior."""
    prior = np.asarray(family.proposal.phi0)
    names = [f"sampler/phi_{i}" for i in range(prior.size)]
    found = []
    for seed in method.seeds:
        columns = [seed.series(name) for name in names]
        if all(len(x) for x, _ in columns):
            x, phi = columns[0][0], np.stack([y for _, y in columns], axis=1)
            found.append((np.r_[0, x], np.concatenate([prior[None], phi])))
    moves = method.sampler in ("cem", "cem_soft") or prior.size == len(family.names)
    if not found or not moves or all(np.allclose(phi, prior) for _, phi in found):
        return None
    points = np.linspace(0, min(x[-1] for x, _ in found), _DISTRIBUTIONS)
    phi = np.stack([phi[np.searchsorted(x, points, side="right") - 1] for x, phi in found])  # (S, T, p)
    shown = _tasks_at(family, method.sampler, phi)  # (3, S, T, d)
    return Draws(points, *shown.mean(axis=1), shown[0])


def by_task(method: Method, n: int) -> tuple[recorded.Records | None, str]:
    """Returns of a method's last learners on the same n tasks for all, or why there are none."""
    found: list[recorded.Records] = []
    for folder in dict.fromkeys(seed.folder for seed in method.seeds):
        try:
            run = saved.load(folder)
        except ConfigError as error:
            return None, str(error)
        places = [seed.place for seed in method.seeds if seed.folder == folder]
        found.append(recorded.collect(run, n, seed=method.config.eval.seed, places=places))
    returns = np.concatenate([made.returns for made in found])
    return found[0]._replace(returns=returns, terms={}), ""


def environment(method: Method) -> envs.Env:
    """The environment that a method was trained on."""
    return envs.from_options(method.config.env, method.config.env_options)
