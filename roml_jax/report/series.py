"""Data for figures, over a method's seeds: learning curves, sampled tasks over time, returns by task."""

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

_POINTS = 120  # maximum number of points of a learning curve
_DRAWS = 512  # tasks drawn from a sampler's distribution at each point in time
_DISTRIBUTIONS = 40  # points in time at which a sampler's distribution is drawn
_RESAMPLES = 2000
SPREAD = (0.1, 0.9)  # quantiles of the drawn tasks that bound the bands


class Curve(NamedTuple):
    """A mean over seeds against frames: x (T,), interval (T,)."""

    x: np.ndarray
    y: Interval


class Draws(NamedTuple):
    """The tasks that a sampler draws over time, in the task's units, averaged over seeds.

    Attributes:
        x: (T,) frames.
        mean: (T, d) mean task.
        low: (T, d) lower quantile of ``SPREAD``; NaN if only the mean is known.
        high: (T, d) upper quantile; NaN if only the mean is known.
        by_seed: (seeds, T, d) mean task of each seed.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    by_seed: np.ndarray


def curve(method: Method, metric: str) -> Curve | None:
    """A metric against frames; at each point over the seeds that were trained that long.

    Returns:
        The curve, or None if no seed has at least two values of the metric.
    """
    series = [seed.series(metric) for seed in method.seeds]
    series = [(x, y) for x, y in series if len(x)]
    if not any(len(x) > 1 for x, _ in series):
        return None
    points = np.unique(np.concatenate([x for x, _ in series]))
    if len(points) > _POINTS:
        points = np.linspace(points[0], points[-1], _POINTS)
    values = np.array([np.interp(points, x, y, left=np.nan, right=np.nan) for x, y in series])
    mean, low, high = np.full((3, len(points)), np.nan)
    finite = np.isfinite(values)
    for pattern in np.unique(finite, axis=1).T:
        if pattern.any():
            at = (finite == pattern[:, None]).all(axis=0)
            interval = bootstrap(values[np.ix_(pattern, at)], resamples=_RESAMPLES)
            mean[at], low[at], high[at] = interval.mean, interval.low, interval.high
    return Curve(points, Interval(mean, low, high, len(series)))


def _tasks_at(family: TaskFamily, sampler: str, phi: np.ndarray) -> np.ndarray:
    """Mean, lower and upper quantile (3, ..., d) of the tasks that a sampler draws at phi (..., p)."""
    proposal = family.proposal
    if sampler not in ("cem", "cem_soft"):  # phi is then a mean task, not parameters of the family's proposal
        center = np.asarray(family.decode(jnp.asarray(phi)))
        return np.stack([center, *np.full((2, *center.shape), np.nan)])

    def drawn(phi: jax.Array) -> jax.Array:
        tasks = family.decode(proposal.sample(phi, jax.random.key(0), _DRAWS))
        return jnp.stack([tasks.mean(axis=0), *jnp.quantile(tasks, jnp.array(SPREAD), axis=0)])

    flat = jnp.asarray(phi.reshape(-1, phi.shape[-1]), jnp.float32)
    summaries = np.asarray(jax.jit(jax.vmap(drawn, out_axes=1))(flat))
    return summaries.reshape(3, *phi.shape[:-1], -1)


def draws(method: Method, family: TaskFamily) -> Draws | None:
    """The tasks that a method's sampler draws over time.

    None if it always draws from the prior, or if its phi has more numbers than the family's (``doraemon``,
    ``autodr``).
    """
    prior = np.asarray(family.proposal.phi0)
    if any(len(seed.series(f"sampler/phi_{prior.size}")[0]) for seed in method.seeds):
        return None
    names = [f"sampler/phi_{i}" for i in range(prior.size)]
    phi_by_seed = []
    for seed in method.seeds:
        columns = [seed.series(name) for name in names]
        if all(len(x) for x, _ in columns):
            x, phi = columns[0][0], np.stack([y for _, y in columns], axis=1)
            phi_by_seed.append((np.r_[0, x], np.concatenate([prior[None], phi])))
    moves = method.sampler in ("cem", "cem_soft") or prior.size == len(family.names)
    if not phi_by_seed or not moves or all(np.allclose(phi, prior) for _, phi in phi_by_seed):
        return None
    points = np.linspace(0, min(x[-1] for x, _ in phi_by_seed), _DISTRIBUTIONS)
    phi = np.stack([phi[np.searchsorted(x, points, side="right") - 1] for x, phi in phi_by_seed])  # (S, T, p)
    tasks = _tasks_at(family, method.sampler, phi)  # (3, S, T, d)
    return Draws(points, *tasks.mean(axis=1), tasks[0])


def by_task(method: Method, n: int) -> tuple[recorded.Records | None, str]:
    """Tests a method's last learners on n held-out tasks, the same for all methods.

    Returns:
        (records, ""), or (None, the reason) if a learner cannot be loaded.
    """
    records: list[recorded.Records] = []
    for folder in dict.fromkeys(seed.folder for seed in method.seeds):
        try:
            run = saved.load(folder)
        except ConfigError as error:
            return None, str(error)
        places = [seed.place for seed in method.seeds if seed.folder == folder]
        records.append(recorded.collect(run, n, seed=method.config.eval.seed, places=places))
    return recorded.pooled(records, method.alpha), ""


def environment(method: Method) -> envs.Env:
    """The environment that a method was trained on."""
    return envs.from_options(method.config.env, method.config.env_options)
