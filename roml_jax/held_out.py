"""Evaluation on held-out tasks: fixed draws from the prior, greedy actions, mean and CVaR of returns."""

from __future__ import annotations

import functools
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
    """Draws held-out tasks (n, d) from the prior, and the random key for the environments on them.

    Args:
        family: the task family; tasks are drawn from its prior.
        n: number of tasks.
        seed: seed of the evaluation, independent of the training seed.
        purpose: "validation" (during training) or "test" (after training); the two share no task.

    Returns:
        (tasks (n, d), random key of the environments).
    """

    def drawn(key: Array) -> tuple[Array, Array]:
        task_key, run_key = jax.random.split(jax.random.fold_in(key, _PURPOSES.index(purpose)))
        return family.sample_prior(task_key, n), run_key

    # as one program: its thirty operations would be compiled one by one
    return jax.jit(drawn)(jax.random.key(seed))


def make_evaluate(
    learner: MetaLearner, family: TaskFamily, n: int, seed: int, purpose: Purpose
) -> Callable[[Any], Outcome]:
    """Returns a function from the learner's state to its outcome, leaves (n, K), on n held-out tasks.

    ``seed`` and ``purpose`` alone determine the tasks and the environments' randomness. Both are therefore
    the same for every method, and differences between methods are not caused by different draws.

    Args:
        learner: the learner whose ``test`` is called.
        family: the task family; tasks are drawn from its prior.
        n: number of tasks.
        seed: seed of the evaluation, independent of the training seed.
        purpose: "validation" (during training) or "test" (after training); the two share no task.
    """

    @functools.cache
    def drawn() -> tuple[Array, Array]:
        with jax.ensure_compile_time_eval():  # a small program that the first metrics need not wait for
            return draw(family, n, seed, purpose)

    def evaluate(state: Any) -> Outcome:
        return learner.test(state, *drawn())

    return evaluate


@jax.jit  # as one program: its forty operations would be compiled one by one
def summarise(returns: Array, alpha: Array | float) -> Metrics:
    """Mean and CVaR_alpha of the tasks' returns. A task's return is the mean over its K episodes.

    Args:
        returns: (M, K), M tasks and K episodes.
        alpha: risk level.

    Returns:
        ``return_mean`` and ``cvar``, and for each episode k ``return_episode_k`` and ``cvar_episode_k``.
    """
    by_task = returns.mean(axis=1)
    summary = {"return_mean": by_task.mean(), "cvar": risk.cvar(by_task, alpha)}
    by_episode = risk.cvar(returns, alpha)
    for k in range(returns.shape[1]):
        summary[f"return_episode_{k}"] = returns[:, k].mean()
        summary[f"cvar_episode_{k}"] = by_episode[k]
    return summary
