"""The pytrees that cross a wall between rooms.

Axis letters, everywhere: N tasks in a batch, K episodes per task, H steps per episode, d task
dimensions, D observation numbers, A action numbers. Batch axes always come in the order
(seed, task, episode, time, feature).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Metrics = dict[str, Array]


class TaskDraw(NamedTuple):
    """A batch of tasks, as a sampler hands it out.

    Attributes:
        u: (N, d) position in the family's unit space; likelihood ratios live here, so the
            Jacobian of the map from u to the task cancels.
        task: (N, d) ``family.decode(u)``, what the environment gets. Never inverted.
        log_w: (N,) log f_phi0(u) - log f_phi(u), fixed when drawn; 0 for reference draws.
        is_ref: (N,) bool, whether the task was drawn from the prior as a reference.
    """

    u: Array
    task: Array
    log_w: Array
    is_ref: Array


class TaskWeights(NamedTuple):
    """How much each task of an iteration teaches the policy; everything else learns from all.

    Attributes:
        keep: (N,) 1, or 0 for a task whose advantages are set to 0, and its value targets to the
            values themselves, before advantages are normalised (where the reference filters).
        loss: (N,) what each of the task's transitions counts in the policy's losses and in the
            normalisation of advantages.
    """

    keep: Array
    loss: Array


class Transition(NamedTuple):
    """One environment step of every task in a batch, as the agent saw it.

    Attributes:
        obs: (N, D) what the action was chosen from (the protocol's flag included).
        action: (N, A) the policy's own output: unclipped, before any squashing; a discrete
            action is one float.
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
    """How the episodes of N tasks ended.

    Attributes:
        returns: (N, K) undiscounted sums of valid rewards. An episode that diverged counts as much as
            the worst of all N that iteration, itself included up to where it diverged.
        diverged: (N, K) bool, whether the simulation blew up.
        terms: (N, K) sums of the reward's parts, by name; empty where it has none.
    """

    returns: Array
    diverged: Array
    terms: Mapping[str, Array]


class Rollout(NamedTuple):
    """K whole episodes of every task in a batch.

    Attributes:
        obs: (N, K, H + 1, D). ``obs[:, k, t]`` is what the action of step t was chosen from and
            ``obs[:, k, t + 1]`` what came of it, so one array holds both ends of every step.
        action: (N, K, H, A) as in ``Transition``.
        reward: (N, K, H) raw.
        valid: (N, K, H) bool.
        extras: whatever the agent's ``act`` returned beside the action, leaves (N, K, H, ...).
        outcome: what came of the episodes, beside what is learned from.
        task: (N, d), for learners that are taught by it; acting on it takes ``Agent.inform``.
    """

    obs: Array
    action: Array
    reward: Array
    valid: Array
    extras: Any
    outcome: Outcome
    task: Array


@dataclass(frozen=True)
class Discrete:
    """``n`` actions; an agent's action is one float that holds the index."""

    n: int

    @property
    def size(self) -> int:
        """How many floats an action is stored in."""
        return 1

    def executed(self, action: Array) -> Array:
        """What is carried out of a policy's output (..., 1): the same."""
        return action


@dataclass(frozen=True)
class Continuous:
    """``size`` real numbers; the environment itself clamps to [low, high] where it must.

    With ``squash`` the policy's output is passed through tanh before the environment gets it; a learner
    then models the output, and its belief takes what was carried out.
    """

    size: int
    low: float = -1.0
    high: float = 1.0
    squash: bool = False

    def executed(self, action: Array) -> Array:
        """What is carried out of a policy's output (..., A)."""
        return jnp.tanh(action) if self.squash else action


@dataclass(frozen=True)
class EnvSpec:
    """What an agent may know of an environment before it has seen it.

    Attributes:
        name: the registry's name.
        obs_slices: observation parts by name, in order; together they cover the observation.
        action: the action space.
        horizon: H, steps per episode, fixed.
        episodes: K, episodes per task.
        task_size: d, numbers in a task; 0 where nobody said.
    """

    name: str
    obs_slices: Mapping[str, slice]
    action: Discrete | Continuous
    horizon: int
    episodes: int
    task_size: int = 0

    @property
    def obs_size(self) -> int:
        """D."""
        return max(part.stop for part in self.obs_slices.values())
