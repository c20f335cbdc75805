"""A policy behind the interface of stable-baselines3: ``predict(observation, state, episode_start)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from numpy.typing import ArrayLike

from roml_jax.deploy.acting import Memory

_NAMES = ("observation", "last_observation", "last_reward")
_NEW_TASK = "new_task"  # optional: whether the episode is the first one of a task


class Policy(Protocol):
    """What ``predict`` needs of a policy: see ``deploy.policy.Policy``."""

    def begin(self, n: int = 1, seed: int = 0) -> Memory:
        """Initial memory for n robots."""
        ...

    def act(self, memory: Memory, obs: ArrayLike) -> tuple[np.ndarray, Memory]:
        """Chooses actions."""
        ...

    def observe(self, memory: Memory, reward: ArrayLike, obs: ArrayLike, end: ArrayLike = False) -> Memory:
        """Updates the memory with the result of the latest action."""
        ...


class _Seen(NamedTuple):
    """An observation, the outcome of the step before it, and whether the task is new; None if not given."""

    obs: np.ndarray
    last_obs: np.ndarray | None
    last_reward: np.ndarray | None
    new_task: np.ndarray | None = None


def _seen(observation: Any) -> _Seen:
    """Reads an observation: an array, or a dict as ``GymEnv(..., recall=True)`` gives it.

    Raises:
        ValueError: for a dict with other names; one line.
    """
    if not isinstance(observation, Mapping):
        return _Seen(np.asarray(observation), None, None)
    if set(observation) - {_NEW_TASK} != set(_NAMES):
        raise ValueError(f"an observation is an array or a dict of {', '.join(_NAMES)}: got {[*observation]}")
    obs, last_obs, last_reward = (np.asarray(observation[name]) for name in _NAMES)
    new_task = np.asarray(observation[_NEW_TASK], bool) if _NEW_TASK in observation else None
    new_task = None if new_task is None else new_task.reshape(obs.shape[:-1])
    return _Seen(obs, last_obs, last_reward.reshape(obs.shape[:-1]), new_task)


def remembers(memory: Memory) -> bool:
    """Whether actions depend on earlier steps of the task."""
    return any(leaf.size for leaf in jax.tree.leaves((memory.belief, memory.seen)))


def _renewed(policy: Policy, memory: Memory, which: np.ndarray) -> Memory:
    """The memory, with that of the robots ``which`` (n,) as before the first episode of a task."""
    if not which.any():
        return memory
    # seeded by the random key of the memory, so that equal calls give equal results
    fresh = policy.begin(len(which), seed=int(memory.key[0, 0]) % 2**30)

    def choose(new: np.ndarray, old: np.ndarray) -> np.ndarray:
        return np.where(which.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, fresh, memory)


def predict(
    policy: Policy,
    observation: ArrayLike | Mapping[str, ArrayLike],
    state: Memory | None,
    episode_start: ArrayLike | None,
    episodes: int | None,
    of_training: int,
) -> tuple[np.ndarray, Memory]:
    """As ``Policy.predict``, for the policy that chooses the action; ``of_training`` is its K.

    Raises:
        ValueError: as ``Policy.predict``; one line.
    """
    seen = _seen(observation)
    many = seen.obs.shape[0] if seen.obs.ndim == 2 else 1
    if state is None:
        return policy.act(policy.begin(many), seen.obs)
    if seen.last_obs is None or seen.last_reward is None:
        if remembers(state):
            raise ValueError(
                "this policy remembers earlier steps, so predict needs their outcome: pass dicts of "
                f"{', '.join(_NAMES)}, as GymEnv(..., recall=True) gives them, or use act and observe"
            )
        return policy.act(state, seen.obs)
    start = np.broadcast_to(
        np.asarray(False if episode_start is None else episode_start, bool), len(state.obs)
    )
    memory = policy.observe(state, seen.last_reward, seen.last_obs, end=start)
    is_new = memory.episode >= (episodes or of_training)
    if episodes is None and seen.new_task is not None:
        is_new = np.broadcast_to(seen.new_task, len(state.obs))
    return policy.act(_renewed(policy, memory, start & is_new), seen.obs)
