"""Held-out tasks: fixed draws from the prior, greedy behaviour, mean and CVaR of the returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from roml_jax import risk
from roml_jax.meta import MetaLearner
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Metrics


def held_out_tasks(family: TaskFamily, seed: int, n: int) -> Array:
    """n tasks (n, d) from the prior, decided by ``seed`` alone: the same for every method."""
    return family.sample_prior(jax.random.key(seed), n)


def make_evaluate(learner: MetaLearner, tasks: Array, seed: int) -> Callable[[Any], Array]:
    """A function of the learner's state to returns (M, K) on fixed tasks (M, d).

    The environments' randomness is fixed by ``seed`` too, so that differences between learners are
    not differences between draws.
    """
    key = jax.random.fold_in(jax.random.key(seed), 1)

    def evaluate(state: Any) -> Array:
        return learner.test(state, tasks, key)

    return evaluate


def summarise(returns: Array, alpha: float) -> Metrics:
    """Mean and CVaR_alpha of a task's return, which is the mean over its K episodes.

    Args:
        returns: (M, K).
        alpha: risk level.

    Returns:
        return_mean, cvar, and both for each episode by itself.
    """
    by_task = returns.mean(axis=1)
    summary = {"return_mean": by_task.mean(), "cvar": risk.cvar(by_task, alpha)}
    by_episode = risk.cvar(returns, alpha)
    for k in range(returns.shape[1]):
        summary[f"return_episode_{k}"] = returns[:, k].mean()
        summary[f"cvar_episode_{k}"] = by_episode[k]
    return summary
