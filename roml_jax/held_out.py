"""Held-out tasks: fixed draws from the prior, greedy behaviour, mean and CVaR of the returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax

from roml_jax import risk
from roml_jax.agents.base import MetaLearner
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Metrics, Outcome

Purpose = Literal["validation", "test"]
_PURPOSES = get_args(Purpose)


def draw(family: TaskFamily, n: int, seed: int, purpose: Purpose) -> tuple[Array, Array]:
    """Held-out tasks (n, d) from the prior, and the key of the environments' randomness on them.

    Args:
        family: tasks come from its prior.
        n: how many tasks.
        seed: of the evaluation, not of the training.
        purpose: "validation" during training and "test" afterwards have no task in common.
    """
    key = jax.random.fold_in(jax.random.key(seed), _PURPOSES.index(purpose))
    task_key, run_key = jax.random.split(key)
    return family.sample_prior(task_key, n), run_key


def make_evaluate(
    learner: MetaLearner, family: TaskFamily, n: int, seed: int, purpose: Purpose
) -> Callable[[Any], Outcome]:
    """A function of the learner's state to its outcome, leaves (n, K), on n held-out tasks.

    The tasks and the environments' randomness are decided by ``seed`` and ``purpose`` alone: the same
    for every method, so that differences between learners are not differences between draws.

    Args:
        learner: whose ``test`` is run.
        family: tasks come from its prior.
        n: how many tasks.
        seed: of the evaluation, not of the training.
        purpose: "validation" during training and "test" afterwards have no task in common.
    """
    tasks, run_key = draw(family, n, seed, purpose)

    def evaluate(state: Any) -> Outcome:
        return learner.test(state, tasks, run_key)

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
