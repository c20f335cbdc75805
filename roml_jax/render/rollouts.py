"""Episodes of a trained policy, step by step, with what pictures need of the simulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.deploy import policy as policies
from roml_jax.deploy.policy import Policy
from roml_jax.envs import Env
from roml_jax.errors import ConfigError, unknown
from roml_jax.run.saved import Saved
from roml_jax.tasks import TaskFamily


class Played(NamedTuple):
    """Episodes of n robots on one task. Axes: K episodes, H steps, n robots.

    Attributes:
        label: of the policy.
        task: (d,).
        reward: (K, H, n); 0 after an early end.
        valid: (K, H, n) bool.
        poses: (K, H + 1, n, p) positions of the simulation: qpos, or a walker's x and y.
    """

    label: str
    task: np.ndarray
    reward: np.ndarray
    valid: np.ndarray
    poses: np.ndarray

    @property
    def returns(self) -> np.ndarray:
        """(K, n)."""
        return self.reward.sum(axis=1)


def parse_task(family: TaskFamily, given: Sequence[str]) -> np.ndarray:
    """A task (d,) from ``NAME=VALUE`` for some of its dimensions, or a value for each of them in order.

    What is not given is the prior's median.

    Raises:
        ConfigError: for an unknown name, no number or one out of range; one line.
    """
    drawn = family.sample_prior(jax.random.key(0), 10_000)
    task = np.median(np.asarray(drawn), axis=0)
    named = [text.partition("=") for text in given]
    if given and not any(equals for _, equals, _ in named):
        if len(given) != len(family.names):
            wanted = ", ".join(family.names)
            raise ConfigError(
                f"--task takes NAME=VALUE, or a value for each of {wanted}; got {' '.join(given)}"
            )
        named = [(name, "=", text) for name, text in zip(family.names, given, strict=True)]
    for name, _, text in named:
        if name not in family.names:
            raise ConfigError(f"--task: {unknown('dimension', name, family.names)}")
        i = family.names.index(name)
        try:
            task[i] = float(text)
        except ValueError:
            raise ConfigError(f"--task: {name} must be a number, got {text!r}") from None
        low, high = family.ranges[i]
        if not low <= task[i] <= high:
            raise ConfigError(f"--task: {name} must lie in [{low:g}, {high:g}], got {task[i]:g}")
    return task


def _pose(state: Any) -> jax.Array:
    """What a picture shows of a state."""
    physics = state.physics
    return physics.qpos if hasattr(physics, "qpos") else physics.position


def play(policy: Policy, env: Env, label: str, task: np.ndarray, n: int = 1, seed: int = 0) -> Played:
    """Lets a policy act on a task for all its episodes.

    Args:
        policy: greedy.
        env: that it was trained on.
        label: for pictures.
        task: (d,).
        n: how many robots, which differ in their starts and in what is random.
        seed: of the environment's randomness: the same for two policies.
    """
    tasks = jnp.tile(jnp.asarray(task, jnp.float32), (n, 1))
    reset, step = jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(env.step))
    memory, keys = policy.begin(n), jax.random.split(jax.random.key(seed), (policy.episodes, n))
    episodes = []
    for k in range(policy.episodes):
        state = reset(keys[k], tasks)
        poses, rewards, valids = [np.asarray(_pose(state))], [], []
        for _ in range(policy.horizon):
            action, memory = policy.act(memory, np.asarray(state.obs))
            state = step(state, action)
            reward, valid = np.asarray(state.reward), np.asarray(state.valid)
            memory = policy.observe(memory, reward, np.asarray(state.obs), valid=valid)
            poses.append(np.asarray(_pose(state)))
            rewards.append(np.where(valid, reward, 0.0))
            valids.append(valid)
        episodes.append((np.stack(rewards), np.stack(valids), np.stack(poses)))
    reward, valid, poses = (np.stack(part) for part in zip(*episodes, strict=True))
    return Played(label, np.asarray(task), reward, valid, poses)


def of_run(run: Saved, place: int) -> tuple[Policy, str]:
    """A run's policy and how pictures name it."""
    config = run.config
    policy = policies.make(run.parts, config.protocol, run.one(place))
    label = f"{run.folder.name}, seed {config.plan[place].label}"
    return policy, label if run.which == "last" else f"{label}, {run.which}"
