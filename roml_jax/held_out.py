"""Evaluation on held-out tasks: fixed draws from the prior, greedy actions, mean and CVaR of returns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import quickly, risk
from roml_jax.agents.base import MetaLearner
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Metrics, Outcome

Purpose = Literal["validation", "test"]
_PURPOSES = get_args(Purpose)
_MOST = 1000  # tasks per batch: a default final test, which fits in memory
_BATCHES = 16  # most batches of a final test in the batches of the validation
_EVALUATIONS = 4  # the least that a run has
_OVERHEAD = 8  # tasks that take as long as a batch does besides its tasks, on a CPU
_CLOSE = 1.02  # of the lowest cost


class Batch(NamedTuple):
    """Held-out tasks that are tested at once: all of a test, or some of them. In the host's memory.

    Attributes:
        tasks: (M, d).
        key: numbers of the test's random key (``jax.random.key_data``), the same for all batches.
        index: (M,) int32, the tasks' places in the test. With the key they decide the environments'
            randomness, so that the returns do not depend on how a test is cut in batches, but for an agent
            that acts at random in tests.
    """

    tasks: np.ndarray
    key: np.ndarray
    index: np.ndarray


def draw(family: TaskFamily, n: int, seed: int, purpose: Purpose) -> tuple[Array, Array]:
    """Draws held-out tasks (n, d) from the prior, and the random key for the environments on them.

    Compiles a program of its own, and therefore cannot be called within ``jax.jit``.

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
    return quickly.jit(drawn)(jax.random.key(seed))


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
        with jax.ensure_compile_time_eval():
            return draw(family, n, seed, purpose)

    def evaluate(state: Any) -> Outcome:
        return learner.test(state, *drawn())

    return evaluate


def on_batch(learner: MetaLearner, state: Any, batch: Batch) -> Outcome:
    """The outcome of a learner's state, leaves (M, K), on a batch."""
    tasks, key, index = map(jnp.asarray, batch)
    return learner.test(state, tasks, jax.random.wrap_key_data(key), index)


def whole(tasks: Array | np.ndarray, key: Array) -> Batch:
    """A whole test as one batch: tasks (n, d), with the random key of their environments."""
    return Batch(
        np.asarray(tasks), np.asarray(jax.random.key_data(key)), np.arange(len(tasks), dtype=np.int32)
    )


def _even(n: int, batches: int, devices: int) -> int:
    """The size of so many batches of n tasks."""
    return -(-n // (batches * devices)) * devices


def sizes_for(validation: int | None, test: int, devices: int = 1) -> tuple[int, int]:
    """Tasks per batch of evaluations and of the final test: the same size, for one program, where that pays.

    Evaluations are done more often than the test, so that the size suits them. If the test would take too
    many of their batches, it has batches of its own.

    Args:
        validation: number of validation tasks; None for a run without evaluations, whose size is 0.
        test: number of tasks of the final test.
        devices: number of devices that a batch is divided among; it divides the sizes.
    """
    alone = _even(test, -(-test // _MOST), devices)
    if validation is None:
        return 0, alone

    def cost(size: int) -> int:
        return (_EVALUATIONS * -(-validation // size) + -(-test // size)) * (size + _OVERHEAD)

    fewest = -(-validation // _MOST)
    sizes = {_even(validation, batches, devices) for batches in range(fewest, fewest + 8)}
    lowest = min(map(cost, sizes))
    shared = max(size for size in sizes if cost(size) <= _CLOSE * lowest)
    if -(-test // shared) <= _BATCHES:
        return shared, shared
    return _even(validation, fewest, devices), alone


def cut(test: Batch, size: int) -> list[Batch]:
    """The tasks in batches of one size. The last one is filled up with the first tasks of the test."""
    n = len(test.tasks)
    places = np.arange(-(-n // size) * size, dtype=np.int32) % n
    return [
        test._replace(tasks=test.tasks[chosen], index=test.index[chosen])
        for chosen in places.reshape(-1, size)
    ]


def joined(pieces: Sequence[Outcome], n: int) -> Outcome:
    """The outcome (..., n, K) of n tasks, from those of their batches, (..., M, K).

    A diverged episode has the lowest return of its batch; here it gets that of all tasks, and NaN if the
    episode diverged on all of them: no sum of rewards up to that moment says how bad it is. What fills up the
    last batch are tasks of the others; if the agent acts at random, they can lower a diverged episode there.
    """

    def join(*leaves: np.ndarray) -> np.ndarray:
        return np.concatenate(leaves, axis=-2)[..., :n, :]

    outcome = jax.tree.map(join, *(jax.device_get(one) for one in pieces))
    lowest = outcome.returns.min(axis=-2, keepdims=True)
    lowest = np.where(outcome.diverged.all(axis=-2, keepdims=True), np.nan, lowest)
    return outcome._replace(returns=np.where(outcome.diverged, lowest, outcome.returns))


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
