"""Data for figures, over a method's seeds: learning curves, sampled tasks over time, returns by task."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from roml_jax import envs, experiment, samplers
from roml_jax.errors import ConfigError
from roml_jax.evaluate import records as recorded
from roml_jax.evaluate.intervals import Interval, bootstrap
from roml_jax.report.data import Method
from roml_jax.run import saved
from roml_jax.samplers import drawn
from roml_jax.tasks import TaskFamily

_POINTS = 120  # maximum number of points of a learning curve
_DISTRIBUTIONS = 40  # points in time at which a sampler's distribution is drawn
_RESAMPLES = 2000


class Curve(NamedTuple):
    """A mean over seeds against frames: x (T,), interval (T,)."""

    x: np.ndarray
    y: Interval


class Draws(NamedTuple):
    """The tasks that a sampler draws over time, in the task's units, averaged over seeds.

    Attributes:
        x: (T,) frames.
        mean: (T, d) mean task.
        low: (T, d) lower quantile of ``drawn.QUANTILES``; NaN if only the mean is known.
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


def draws(method: Method, family: TaskFamily) -> Draws | None:
    """The tasks that a method's sampler draws over time.

    None for a sampler that always draws from the prior, or whose phi says nothing of its tasks.
    """
    config = method.config
    sampler = samplers.make(config.sampler, family, config.alpha, config.sampler_options)
    drawing = drawn.of(sampler, family)
    if drawing is None or drawing.phi.size == 0:
        return None
    names = [f"sampler/phi_{i}" for i in range(drawing.phi.size)]
    phi_by_seed = []
    for seed in method.seeds:
        columns = [seed.series(name) for name in names]
        if all(len(x) for x, _ in columns):
            x, phi = columns[0][0], np.stack([y for _, y in columns], axis=1)
            phi_by_seed.append((np.r_[0, x], np.concatenate([drawing.phi[None], phi])))
    prior = np.asarray(family.proposal.phi0)
    moved = [phi.shape[1:] != prior.shape or not np.allclose(phi, prior) for _, phi in phi_by_seed]
    if not any(moved):
        return None
    points = np.linspace(0, min(x[-1] for x, _ in phi_by_seed), _DISTRIBUTIONS)
    phi = np.stack([phi[np.searchsorted(x, points, side="right") - 1] for x, phi in phi_by_seed])  # (S, T, p)
    found = drawing.spread(phi.reshape(-1, phi.shape[-1]))
    mean, low, high = (tasks.reshape(*phi.shape[:2], -1) for tasks in found)  # (S, T, d)
    return Draws(points, mean.mean(axis=0), low.mean(axis=0), high.mean(axis=0), mean)


def by_task(method: Method, n: int, seed: int) -> tuple[recorded.Records | None, str]:
    """Tests a method's last learners on n held-out tasks.

    Args:
        method: the method.
        n: number of tasks.
        seed: of the tasks.

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
        records.append(recorded.collect(run, n, seed=seed, places=places))
    return recorded.pooled(records, method.alpha), ""


def environment(method: Method) -> envs.Env:
    """The environment that a method was trained on."""
    return envs.from_options(method.config.env, method.config.env_options)


class Tested(NamedTuple):
    """What a method's returns on a held-out task are.

    Attributes:
        numbers: episodes from 0, or the numbers of inner steps that returns are computed after.
        steps: of an episode; 0 for a learner that does not act.
    """

    numbers: tuple[int, ...]
    steps: int

    @property
    def text(self) -> str:
        """In words."""
        if self.steps:
            return f"{len(self.numbers)} episode(s) of {self.steps} steps"
        return f"returns after {', '.join(map(str, self.numbers))} inner steps"


def tested(method: Method, env: envs.Env) -> Tested:
    """What a method's returns on a held-out task are."""
    _, learner = experiment.make_learner(method.config, env)
    if learner.inner_steps:
        return Tested(learner.inner_steps, 0)
    protocol = method.config.protocol
    return Tested(tuple(range(protocol.tested(env.spec))), protocol.agent_spec(env.spec).horizon)
