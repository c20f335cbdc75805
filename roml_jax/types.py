"""The pytrees and specifications that modules of different packages exchange.

Axis letters, everywhere: N tasks in a batch, K episodes per task, H steps per episode, d task
dimensions, D observation numbers, A action numbers. Batch axes always come in the order
(seed, task, episode, time, feature).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Metrics = dict[str, Array]


@jax.tree_util.register_pytree_node_class
class Table(Mapping[str, Array]):
    """Metrics by name that are held in one array: an array each would be compiled as a kernel each.

    Args:
        names: the M metrics' names.
        values: (..., M).
    """

    def __init__(self, names: tuple[str, ...], values: Array) -> None:
        self._names, self._values = names, values

    @classmethod
    def of(cls, metrics: Mapping[str, Array]) -> Table:
        """The table of metrics of one shape (...)."""
        return cls(tuple(metrics), jnp.stack(list(metrics.values()), axis=-1))

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._values[..., self._names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def tree_flatten(self) -> tuple[tuple[Array], tuple[str, ...]]:
        """For JAX: (arrays, names)."""
        return (self._values,), self._names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], arrays: tuple[Array]) -> Table:
        """For JAX."""
        return cls(names, *arrays)


class TaskDraw(NamedTuple):
    """A batch of tasks drawn by a sampler.

    Attributes:
        u: (N, d) unit parameters of the tasks. Likelihood ratios are taken over u, so the Jacobian of
            the map from u to the task cancels.
        task: (N, d) ``family.decode(u)``, the tasks in the environment's units. Never inverted.
        log_w: (N,) log f_phi0(u) - log f_phi(u), computed when drawn; 0 for reference draws.
        is_ref: (N,) bool, whether the task was drawn from the prior as a reference.
    """

    u: Array
    task: Array
    log_w: Array
    is_ref: Array


class TaskWeights(NamedTuple):
    """Weights of an iteration's tasks in the policy's update; all other parts learn from every task.

    Attributes:
        keep: (N,) 0 or 1. For a task with 0, the advantages are set to 0 and the value targets to the
            predicted values, before advantages are normalised (the reference filters at this point).
        loss: (N,) weight of each of the task's transitions in the policy's losses and in the
            normalisation of advantages.
    """

    keep: Array
    loss: Array


class Feedback(NamedTuple):
    """What a learner tells a sampler of the tasks that it was given.

    Attributes:
        returns: (N,) a task's score: for a robot or a game the sum of its returns over all episodes; higher
            is better, NaN marks a diverged task.
        episode_returns: (N, K) returns of the episodes; None for a learner without episodes.
        value_score: (N,) how much better than its critic expected the learner did on a task: the mean over
            valid steps of max(advantage, 0), the "positive value loss" of PLR. None without a critic.
        diverged: (N,) bool, whether an episode of the task diverged; None for a learner without episodes.
    """

    returns: Array
    episode_returns: Array | None = None
    value_score: Array | None = None
    diverged: Array | None = None

    @classmethod
    def of(cls, feedback: Feedback | Array) -> Feedback:
        """Feedback as it is, or made of returns (N,) alone."""
        return feedback if isinstance(feedback, Feedback) else cls(feedback)


class Transition(NamedTuple):
    """One environment step of every task in a batch, as seen by the agent.

    Attributes:
        obs: (N, D) observation that the action was chosen from (the protocol's flag included).
        action: (N, A) the policy's output, unclipped and before any squashing; a discrete action is
            one float.
        reward: (N,) raw reward.
        next_obs: (N, D) observation after the step; the terminal one at an episode's end.
        valid: (N,) bool, False for steps after an early end.
    """

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    valid: Array


class Outcome(NamedTuple):
    """Returns of the episodes of N tasks.

    Attributes:
        returns: (N, K) undiscounted sums of valid rewards. An episode that diverged gets the lowest
            return of all N tasks in that episode; its own return up to the divergence is one of these. On
            held-out tasks it is NaN if the episode diverged on all of them (``held_out.joined``).
        diverged: (N, K) bool, whether the simulation blew up.
        terms: (N, K) sums of the reward terms, by name; empty for a reward without terms.
        length: (N, K) int, number of valid steps; less than the horizon after an early end. None for a
            learner that does not act.
    """

    returns: Array
    diverged: Array
    terms: Mapping[str, Array]
    length: Array | None = None


class Rollout(NamedTuple):
    """K whole episodes of every task in a batch.

    Attributes:
        obs: (N, K, H + 1, D). ``obs[:, k, t]`` is the observation that the action of step t was chosen
            from and ``obs[:, k, t + 1]`` the observation after that step, so one array holds both.
        action: (N, K, H, A) as in ``Transition``.
        reward: (N, K, H) raw.
        valid: (N, K, H) bool.
        extras: the second result of the agent's ``act``, leaves (N, K, H, ...).
        outcome: the returns of the episodes.
        task: (N, d), for learners that use the task as a training target; an agent that acts on the
            task needs ``Agent.inform``.
        privileged: (N, K, H + 1, P) what only a critic sees, of the states that ``obs`` is of (also at the
            first step of a later episode); None for P = 0.
    """

    obs: Array
    action: Array
    reward: Array
    valid: Array
    extras: Any
    outcome: Outcome
    task: Array
    privileged: Array | None = None

    @property
    def critic_obs(self) -> Array:
        """(N, K, H + 1, D + P) what a critic sees: the observation, followed by the privileged parts."""
        if self.privileged is None:
            return self.obs
        return jnp.concatenate([self.obs, self.privileged], axis=-1)


@dataclass(frozen=True)
class Discrete:
    """``n`` actions; an agent's action is one float that holds the index."""

    n: int

    @property
    def size(self) -> int:
        """Number of floats that an action is stored in."""
        return 1

    def executed(self, action: Array) -> Array:
        """The executed action for a policy's output (..., 1): the output itself."""
        return action


@dataclass(frozen=True)
class Continuous:
    """``size`` real numbers. An environment that needs actions in [low, high] clamps them itself.

    ``low`` and ``high`` are one number each, or ``size`` numbers each if the range differs between them.

    With ``squash``, the environment gets tanh of the policy's output. The learner then models the output
    before tanh; its belief uses the executed action.
    """

    size: int
    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0
    squash: bool = False

    @classmethod
    def within(cls, low: Sequence[float], high: Sequence[float]) -> Continuous:
        """The space with a range for each number; low and high (A,)."""
        lows, highs = (tuple(float(end) for end in ends) for ends in (low, high))
        # both ends of one kind, so that a reader sees two numbers or two vectors
        if len(set(lows)) == len(set(highs)) == 1:
            return cls(len(lows), lows[0], highs[0])
        return cls(len(lows), lows, highs)

    @property
    def bounds(self) -> tuple[float | Array, float | Array]:
        """(low, high) for arithmetic: two numbers, or two arrays (A,)."""
        low, high = (jnp.asarray(end) if isinstance(end, tuple) else end for end in (self.low, self.high))
        return low, high

    def executed(self, action: Array) -> Array:
        """The executed action for a policy's output (..., A)."""
        return jnp.tanh(action) if self.squash else action


@dataclass(frozen=True)
class EnvSpec:
    """The static description of an environment that an agent is built from.

    Attributes:
        name: the registry's name.
        obs_slices: slices of the observation's named parts, in order; together they cover it.
        action: the action space.
        horizon: H, steps per episode, fixed.
        episodes: K, episodes per task.
        task_size: d, numbers in a task; 0 if unknown.
        privileged_slices: slices of the named parts that only a critic sees, in order; together they cover
            ``EnvState.privileged``. Empty if there are none. Acting never needs them.
    """

    name: str
    obs_slices: Mapping[str, slice]
    action: Discrete | Continuous
    horizon: int
    episodes: int
    task_size: int = 0
    privileged_slices: Mapping[str, slice] = field(default_factory=dict)

    @property
    def obs_size(self) -> int:
        """D, numbers in an observation."""
        return max(part.stop for part in self.obs_slices.values())

    @property
    def privileged_size(self) -> int:
        """P, numbers that only a critic sees."""
        return max((part.stop for part in self.privileged_slices.values()), default=0)

    @property
    def critic_size(self) -> int:
        """D + P, numbers that a critic sees: the observation, followed by the privileged parts."""
        return self.obs_size + self.privileged_size

    @property
    def actor_obs(self) -> int | None:
        """D if a critic sees more than the actor; None if both see the same."""
        return self.obs_size if self.privileged_slices else None
