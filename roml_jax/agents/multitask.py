"""Baselines: no adaptation (lower bound), task given (upper bound).

``multitask`` is one policy for all tasks, without memory. ``oracle`` gets the task as input where other
agents have a belief; its return is an upper bound on what adaptation can reach.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from roml_jax.agents import common, on_policy
from roml_jax.agents.base import Agent, register
from roml_jax.agents.ppo import PpoConfig
from roml_jax.types import Array, EnvSpec, Metrics, Rollout, TaskWeights, Transition


@dataclass(frozen=True)
class MultitaskConfig:
    """Options of a policy without memory."""

    ppo: PpoConfig = field(default_factory=PpoConfig)


def _agent(spec: EnvSpec, num_tasks: int, config: MultitaskConfig, latent_size: int) -> Agent:
    """A policy whose latent is constant within a task; its belief is the latent (N, latent_size)."""
    on_policy.check_minibatches(spec, num_tasks, config.ppo, whole_tasks=False)
    policy = on_policy.make_policy(spec, config.ppo, latent_size)

    def init(key: Array) -> on_policy.Learned:
        params = policy.init(key, jnp.zeros(spec.critic_size), jnp.zeros(latent_size))
        stats = on_policy.init_statistics(spec.critic_size, latent_size)
        return on_policy.init_learned(params, config.ppo, stats, common.init_rates(config))

    def act(state: Any, belief: Array, obs: Array, key: Array, greedy: Array) -> tuple[Array, Array]:
        action = on_policy.act(policy, config.ppo, state.params, state.statistics, obs, belief, key, greedy)
        return action, belief

    def observe(state: Any, belief: Array, step: Transition) -> Array:
        del state, step
        return belief

    def update(
        state: on_policy.Learned, rollout: Rollout, weights: TaskWeights, key: Array, progress: Array
    ) -> tuple[on_policy.Learned, Metrics]:
        stats, reward = on_policy.scaled_rewards(state.statistics, rollout, config.ppo.gamma)
        learned, metrics = on_policy.update(
            state._replace(statistics=stats), policy, config.ppo, rollout, rollout.extras, reward, weights,
            key, progress,
        )  # fmt: skip
        return learned, {f"ppo/{name}": value for name, value in metrics.items()}

    return Agent(
        init=init,
        begin=lambda state, key, n: jnp.zeros((n, latent_size)),
        act=act,
        observe=observe,
        adapt=None,
        update=update,
        acting=on_policy.acting,
        value_score=lambda state, rollout: on_policy.value_score(
            policy, config.ppo, state.params, state.statistics, rollout
        ),
        prepare=lambda state: state._replace(params=policy.prepared(state.params)),
    )


@register("multitask")
def multitask(spec: EnvSpec, num_tasks: int, config: MultitaskConfig) -> Agent:
    """One policy for all tasks without adaptation, trained by PPO (a lower bound).

    Raises:
        ValueError: if a batch of transitions does not divide into minibatches.
    """
    return _agent(spec, num_tasks, config, 0)


@register("oracle")
def oracle(spec: EnvSpec, num_tasks: int, config: MultitaskConfig) -> Agent:
    """A policy that gets the task as input, trained by PPO (an upper bound).

    Raises:
        ValueError: as ``multitask``, and if ``spec.task_size`` is not set.
    """
    if not spec.task_size:
        raise ValueError("agent=oracle gets the task as input: EnvSpec.task_size must be set")
    agent = _agent(spec, num_tasks, config, spec.task_size)

    def inform(state: Any, belief: Array, tasks: Array) -> Array:
        del state
        return tasks.astype(belief.dtype)

    return agent._replace(inform=inform)
