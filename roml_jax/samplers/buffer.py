"""A buffer of scored tasks and the distribution that they are replayed from, for PLR and ACCEL.

Tasks are replayed with probability P = (1 - staleness) P_S + staleness P_C. P_S is proportional to
rank^(-1 / temperature), where rank 1 is the highest score; P_C is proportional to the number of updates since
a task was last visited. Source: Jiang et al. 2021 (Prioritized Level Replay). P is computed once per
iteration, for all of its tasks; the reference recomputes it after every task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.proposals import Proposal
from roml_jax.samplers.base import by_origin
from roml_jax.types import Array, Feedback, Metrics, TaskDraw

Score = Literal["negative_return", "regret", "value_loss"]


@dataclass(frozen=True)
class ReplayConfig:
    """Options of the buffer and of replay; the defaults are those published for BipedalWalker."""

    buffer: int = 1000
    """Number of tasks that the buffer holds."""
    replay: float = 0.5
    """Probability that a task is replayed from the buffer rather than drawn from the prior."""
    filled: float = 0.5
    """Tasks that must be scored before any is replayed, as a share of the buffer."""
    staleness: float = 0.5
    """Share of the replay distribution that goes to tasks in proportion to how long ago they were visited."""
    temperature: float = 0.1
    """Temperature of the ranks of scores; towards 0 only the task of the highest score is replayed."""
    score: Score = "value_loss"
    """What makes a task worth replaying: 'negative_return', a low return; 'regret', the best return seen on
    the task minus the latest; 'value_loss', the mean over steps of max(advantage, 0), which needs an agent
    with a critic."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 1, "buffer")
        checks.share(self, "sampler", "replay", "filled", "staleness")
        checks.positive(self, "sampler", "temperature")
        checks.one_of(self, "sampler", "score", ("negative_return", "regret", "value_loss"))

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of ``Feedback`` that the score cannot do without."""
        return ("value_score",) if self.score == "value_loss" else ()


class Buffer(NamedTuple):
    """C places for tasks.

    Attributes:
        u: (C, d) tasks; draws from the prior in places that are empty.
        score: (C,) finite; -inf in places that are empty.
        best: (C,) the best return seen on each task; -inf in places that are empty.
        visited: (C,) number of updates done after the task's last visit.
        updates: () number of updates done.
        scored: () number of tasks scored, at most C. It exceeds the tasks that are held where the environment
            has fewer than C different ones.
    """

    u: Array
    score: Array
    best: Array
    visited: Array
    updates: Array
    scored: Array

    @property
    def held(self) -> Array:
        """Which places hold a task, (C,) bool."""
        return self.score > -jnp.inf


def empty(config: ReplayConfig, proposal: Proposal, key: Array) -> Buffer:
    """A buffer without tasks."""
    u = proposal.sample(proposal.phi0, key, config.buffer)
    nothing, zero = jnp.full(config.buffer, -jnp.inf, u.dtype), jnp.zeros((), jnp.int32)
    return Buffer(u, nothing, nothing, jnp.zeros(config.buffer, jnp.int32), zero, zero)


def probabilities(config: ReplayConfig, buffer: Buffer) -> Array:
    """The replay distribution P (C,); 0 in places that are empty.

    If no task has waited since its last visit, P_C is uniform.
    """
    held, dtype = buffer.held, buffer.score.dtype
    places = jnp.arange(1, held.size + 1, dtype=dtype)
    rank = jnp.zeros_like(places).at[risk.order(-buffer.score)].set(places, unique_indices=True)
    by_score = jnp.where(held, rank ** (-1 / config.temperature), 0.0)
    waited = jnp.where(held, buffer.updates - buffer.visited, 0).astype(dtype)
    by_staleness = jnp.where(waited.any(), waited, held.astype(dtype))

    def normalised(weights: Array) -> Array:
        total = weights.sum()
        return weights / jnp.where(total > 0, total, 1.0)

    return (1 - config.staleness) * normalised(by_score) + config.staleness * normalised(by_staleness)


def is_ready(config: ReplayConfig, buffer: Buffer) -> Array:
    """Whether enough tasks are scored for replay, () bool."""
    return buffer.scored >= max(config.filled * config.buffer, 1)


def replayed(config: ReplayConfig, buffer: Buffer, key: Array, n: int) -> Array:
    """Places (n,) of tasks drawn from the replay distribution, with replacement."""
    chances = probabilities(config, buffer)
    total = jnp.cumsum(chances)
    at = jax.random.uniform(key, (n,), total.dtype) * total[-1]
    place = jnp.searchsorted(total, at, side="right")
    # a product that is rounded up to the total lies beyond the last task
    return jnp.minimum(place, jnp.max(jnp.where(chances > 0, jnp.arange(chances.size), 0)))


def _scores(config: ReplayConfig, feedback: Feedback, best: Array) -> Array:
    """Scores (n,) of tasks whose best returns, the latest included, are ``best`` (n,)."""
    if config.score == "negative_return":
        return risk.finite(-feedback.returns)
    if config.score == "regret":
        return risk.finite(best) - risk.finite(feedback.returns)
    if feedback.value_score is None:
        raise ValueError("sampler.score=value_loss needs feedback with a value_score")
    return risk.finite(feedback.value_score)


def _repeats(u: Array, valid: Array) -> Array:
    """Whether each task of u (n, d) equals another one, which is valid (n,) if any of them is; (n,) bool."""
    order = jnp.lexsort((~valid, *u.T))
    same = (u[order[1:]] == u[order[:-1]]).all(axis=-1)
    return jnp.zeros(u.shape[0], bool).at[order[1:]].set(same, unique_indices=True)


def _revisit(buffer: Buffer, same: Array, valid: Array, score: Array, returns: Array) -> Buffer:
    """Overwrites the scores and best returns of tasks that were visited again.

    Args:
        buffer: before.
        same: (n, C) bool, the place of each visited task that is held; at most one in a row.
        valid: (n,) bool, which visits count.
        score: (n,) of the visits. A task that is visited several times gets the mean.
        returns: (n,) of the visits.
    """
    counts = same & valid[:, None]
    number = counts.sum(axis=0)
    mean = jnp.where(counts, score[:, None], 0.0).sum(axis=0) / jnp.maximum(number, 1)
    best = jnp.where(counts, returns[:, None], -jnp.inf).max(axis=0)
    return buffer._replace(
        score=jnp.where(number > 0, mean, buffer.score),
        best=jnp.maximum(buffer.best, best),
        # a diverged visit keeps the score, but the task need not be tried again at once
        visited=jnp.where(same.any(axis=0), buffer.updates, buffer.visited),
    )


def _insert(
    config: ReplayConfig, buffer: Buffer, u: Array, fresh: Array, score: Array, returns: Array
) -> Buffer:
    """Puts new tasks into places that are empty, and then into those that are least likely to be replayed.

    The new task of the highest score goes to the first of these places, and so on. A task is only replaced by
    one whose score is at least as high. (The reference wants a higher one; with scores of regret, which is 0
    on a first visit, a full buffer would then never change again.)
    """
    count = min(u.shape[0], buffer.score.size)
    chances = jnp.where(buffer.held, probabilities(config, buffer), -1.0)
    place = risk.order(chances)[:count]
    new = risk.order(jnp.where(fresh, -score, jnp.inf))[:count]
    enters = fresh[new] & (score[new] >= buffer.score[place])

    def put(old: Array, value: Array) -> Array:
        mask = enters.reshape(-1, *[1] * (old.ndim - 1))
        return old.at[place].set(jnp.where(mask, value, old[place]), unique_indices=True)

    return buffer._replace(
        u=put(buffer.u, u[new]),
        score=put(buffer.score, score[new]),
        best=put(buffer.best, returns[new]),
        visited=put(buffer.visited, jnp.broadcast_to(buffer.updates, (count,))),
    )


def record(config: ReplayConfig, buffer: Buffer, u: Array, feedback: Feedback) -> Buffer:
    """Scores tasks u (n, d): those that the buffer holds are updated, the others compete for a place.

    Diverged tasks, with a return or score of NaN, neither enter nor change a score.
    """
    buffer = buffer._replace(updates=buffer.updates + 1)
    same = (u[:, None] == buffer.u[None]).all(axis=-1) & buffer.held[None]
    held = same.any(axis=1)
    before = jnp.where(held, buffer.best[same.argmax(axis=1)], -jnp.inf)
    score = _scores(config, feedback, jnp.maximum(before, feedback.returns))
    valid = ~jnp.isnan(feedback.returns) & ~jnp.isnan(score)
    if feedback.diverged is not None:
        valid &= ~feedback.diverged
    scored = jnp.minimum(buffer.scored + valid.sum(dtype=jnp.int32), buffer.score.size)
    buffer = _revisit(buffer, same, valid, score, feedback.returns)._replace(scored=scored)
    return _insert(config, buffer, u, valid & ~held & ~_repeats(u, valid), score, feedback.returns)


def mean_task(config: ReplayConfig, buffer: Buffer) -> Array:
    """The mean of u (d,) under the replay distribution; of prior draws while the buffer is empty."""
    chances = jnp.where(buffer.held.any(), probabilities(config, buffer), 1 / buffer.score.size)
    return (chances[:, None] * buffer.u).sum(axis=0)


def metrics(buffer: Buffer, draw: TaskDraw, returns: Array, alpha: Array | float) -> Metrics:
    """Returns of new tasks from the prior and of the others; size, mean score and mean age of the buffer."""
    held = buffer.held
    age = (buffer.updates - buffer.visited).astype(returns.dtype)
    return by_origin(draw, returns, alpha) | {
        "replayed_share": 1 - draw.is_ref.mean(dtype=returns.dtype),
        "buffer_share": held.mean(dtype=returns.dtype),
        "buffer_score": risk.masked_mean(buffer.score, held),
        "buffer_age": risk.masked_mean(age, held),
    }
