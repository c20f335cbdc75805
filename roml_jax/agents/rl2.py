"""RL2: a recurrent policy over all episodes of a task, trained through time by the policy's losses.

Source: Duan et al. 2016, with VariBAD's networks and PPO. The GRU's input is (action, next observation,
reward); the policy's input is the current observation and the GRU's hidden state.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from roml_jax.agents import common, on_policy
from roml_jax.agents.base import Agent, register
from roml_jax.agents.history import History, HistoryConfig, Trajectory, empty, trajectory_of
from roml_jax.agents.ppo import PpoConfig
from roml_jax.networks import ActorCritic
from roml_jax.types import Array, EnvSpec, Metrics, Rollout, TaskWeights, Transition


def _ppo_config() -> PpoConfig:
    """RL2's defaults: the latent is bounded, so it is not normalised; credit crosses episodes."""
    return PpoConfig(credit="task", normalise_latent=False)


@dataclass(frozen=True)
class Rl2Config:
    """Options of RL2."""

    ppo: PpoConfig = field(default_factory=_ppo_config)
    memory: HistoryConfig = field(default_factory=HistoryConfig)


def _prepared(networks: Mapping[str, ActorCritic | History], state: on_policy.Learned) -> on_policy.Learned:
    params = {name: network.prepared(state.params[name]) for name, network in networks.items()}
    return state._replace(params=params)


@register("rl2")
def make(spec: EnvSpec, num_tasks: int, config: Rl2Config) -> Agent:
    """RL2 for an environment, on N = ``num_tasks`` tasks per meta-iteration.

    Raises:
        ValueError: if the tasks do not divide into minibatches.
    """
    on_policy.check_minibatches(spec, num_tasks, config.ppo, whole_tasks=True)
    policy = on_policy.make_policy(spec, config.ppo, config.memory.hidden)
    memory = History(config.memory, spec.obs_size, spec.action.size)

    def init(key: Array) -> on_policy.Learned:
        policy_key, memory_key = jax.random.split(key)
        one = jax.tree.map(lambda x: x[None], empty(spec))
        params = {
            "policy": policy.init(policy_key, jnp.zeros(spec.critic_size), jnp.zeros(config.memory.hidden)),
            "memory": memory.init(memory_key, one),
        }
        stats = on_policy.init_statistics(spec.critic_size, config.memory.hidden)
        return on_policy.init_learned(params, config.ppo, stats, common.init_rates(config))

    def act(
        state: on_policy.Learned, belief: Array, obs: Array, key: Array, greedy: Array
    ) -> tuple[Array, Array]:
        params, stats = state.params["policy"], state.statistics
        return on_policy.act(policy, config.ppo, params, stats, obs, belief, key, greedy), belief

    def observe(state: on_policy.Learned, belief: Array, step: Transition) -> Array:
        after = memory.apply(
            state.params["memory"], belief, spec.action.executed(step.action), step.next_obs, step.reward,
            method="observe",
        )  # fmt: skip
        return jnp.where(step.valid[:, None], after, belief)

    def latents(params: Any, trajectory: Trajectory) -> Array:
        return memory.apply(params, trajectory)[:, :-1]

    def update(
        state: on_policy.Learned, rollout: Rollout, weights: TaskWeights, key: Array, progress: Array
    ) -> tuple[on_policy.Learned, Metrics]:
        stats, reward = on_policy.scaled_rewards(state.statistics, rollout, config.ppo.gamma)
        learned, metrics = on_policy.update(
            state._replace(statistics=stats), policy, config.ppo, rollout, rollout.extras, reward, weights,
            key, progress, latents, trajectory_of(rollout, spec.action),
        )  # fmt: skip
        return learned, {f"ppo/{name}": value for name, value in metrics.items()}

    return Agent(
        init=init,
        begin=lambda state, key, n: jnp.zeros((n, config.memory.hidden)),
        act=act,
        observe=observe,
        adapt=None,
        update=update,
        acting=on_policy.acting,
        value_score=lambda state, rollout: on_policy.value_score(
            policy, config.ppo, state.params["policy"], state.statistics, rollout
        ),
        prepare=functools.partial(_prepared, {"policy": policy, "memory": memory}),
    )
