"""Code shared by the PPO agents: input statistics, reward scaling, advantages and the update.

The agents differ in the policy's second input, the latent (a belief, a hidden state, the task, or nothing),
and in whether the policy's losses also train the network that computes the latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax.agents import ppo, statistics
from roml_jax.networks import ActorCritic, action_log_prob, choose_action
from roml_jax.types import Array, EnvSpec, Metrics, Rollout, TaskWeights

_STD_EPS = 1e-8  # added to the variance: a feature that has been constant so far has std 1e-4
_REWARD_CLIP = 10.0


class Statistics(NamedTuple):
    """Running means and stds of the networks' inputs and of discounted returns.

    ``obs`` covers what the critic sees: the observation (D,), followed by the privileged parts (P,).
    """

    obs: statistics.Running
    latent: statistics.Running
    return_: statistics.Running


class Learned(NamedTuple):
    """The state that a PPO update changes; the whole state of an agent that learns by PPO alone.

    Attributes:
        params: parameters of the policy and of the other networks that its losses train.
        opt_state: the optimiser's state.
        statistics: of the policy's inputs and of returns.
        rates: options that are leaves, by dotted name; they include ``ppo.lr`` and ``ppo.entropy_coef``.
    """

    params: Any
    opt_state: Any
    statistics: Statistics
    rates: Mapping[str, Array]


def init_statistics(critic_size: int, latent_size: int) -> Statistics:
    """Initial statistics: mean 0, std 1, no samples; ``critic_size`` is D + P."""
    shapes = (jnp.zeros(critic_size), jnp.zeros(latent_size), jnp.zeros(()))
    return Statistics(*(statistics.init(shape, _STD_EPS) for shape in shapes))


def init_learned(
    params: Any, config: ppo.PpoConfig, stats: Statistics, rates: Mapping[str, Array]
) -> Learned:
    """The state before the first update."""
    return Learned(params, ppo.init_optimiser(config, params), stats, rates)


def acting(state: Learned) -> Learned:
    """The state without the fields that only learning needs."""
    return state._replace(opt_state=(), rates={})


def make_policy(spec: EnvSpec, config: ppo.PpoConfig, latent_size: int) -> ActorCritic:
    """Actor and critic with the configured sizes; an empty latent is not embedded."""
    embedding = config.latent_embedding if latent_size else None
    return ActorCritic(
        spec.action, config.layers, config.obs_embedding, embedding, config.init, spec.actor_obs
    )


def normalise_obs(stats: Statistics, obs: Array) -> Array:
    """Normalised observations: (..., D + P) for the critic, or (..., D) for acting."""
    known, size = stats.obs, obs.shape[-1]
    if known.mean.shape[-1] > size:
        known = replace(known, mean=known.mean[..., :size], std=known.std[..., :size])
    return statistics.normalise(obs, known)


def policy_inputs(config: ppo.PpoConfig, stats: Statistics, obs: Array, latent: Array) -> tuple[Array, Array]:
    """Normalised observation (..., D + P), or (..., D) for acting, and latent: the policy's inputs."""
    obs = normalise_obs(stats, obs)
    return obs, statistics.normalise(latent, stats.latent) if config.normalise_latent else latent


def act(
    policy: ActorCritic, config: ppo.PpoConfig, params: Any, stats: Statistics, obs: Array, latent: Array,
    key: Array, greedy: Array,
) -> Array:  # fmt: skip
    """Actions (N, A) for observations (N, D) and latents (N, L)."""
    distribution, _ = policy.apply(params, *policy_inputs(config, stats, obs, latent))
    return choose_action(policy.action, distribution, key, greedy)


def judge(policy: ActorCritic, params: Any, obs: Array, latent: Array, action: Array) -> ppo.Judged:
    """Log-prob, entropy and value of actions (..., A) at normalised inputs (..., D + P) and (..., L)."""
    distribution, value = policy.apply(params, obs, latent)
    return ppo.Judged(action_log_prob(policy.action, distribution, action), distribution.entropy(), value)


def normalise_rewards(
    stats: statistics.Running, reward: Array, gamma: float
) -> tuple[statistics.Running, Array]:
    """Divides rewards by the running std of the discounted return and clips them to +-10.

    At each step, the statistics are updated with the discounted sums of all tasks before that step's
    rewards are divided. At a task's last step its sum is set to 0 before the update (the reference's order).

    Args:
        stats: statistics of the discounted return.
        reward: (N, T) raw rewards of whole tasks.
        gamma: discount.

    Returns:
        (stats, rewards (N, T)).
    """
    total = _discounted_sums(reward, gamma).at[:, -1].set(0.0)
    after, std = _updated_each_step(stats, total)
    return after, _scaled(reward, std)


def _discounted_sums(reward: Array, gamma: float) -> Array:
    """Sums (N, T) over the steps up to each one, those before discounted by gamma per step.

    By doubling: after k rounds a sum covers 2^k steps. On a GPU, every turn of a loop over steps is a launch.
    """
    total, steps, reach = reward, reward.shape[1], 1
    while reach < steps:
        earlier = jnp.pad(total, ((0, 0), (reach, 0)))[:, :steps]
        total, reach = total + jnp.asarray(gamma, reward.dtype) ** reach * earlier, 2 * reach
    return total


def _updated_each_step(stats: statistics.Running, batch: Array) -> tuple[statistics.Running, Array]:
    """Statistics updated with a batch (N, T) step by step; also the std (T,) after each step.

    The same as ``statistics.update`` with each column in turn, up to rounding, without a loop.
    """
    n, steps = batch.shape
    count = stats.count.as_float() + (n * (1 + jnp.arange(steps))).astype(batch.dtype)
    apart = batch - stats.mean
    mean = jnp.cumsum(apart.sum(axis=0)) / count  # after each step, relative to the mean before all
    mean_before = jnp.concatenate([jnp.zeros(1, mean.dtype), mean[:-1]])
    variance = stats.summed_variance + jnp.cumsum(((apart - mean_before) * (apart - mean)).sum(axis=0))
    std = jnp.clip(jnp.sqrt(jnp.maximum(variance, 0.0) / count + stats.std_eps), *statistics.STD_RANGE)
    after = replace(
        stats,
        count=stats.count + jnp.int32(n * steps),
        mean=stats.mean + mean[-1],
        summed_variance=variance[-1],
        std=std[-1],
    )
    return after, std


def scale_reward(stats: statistics.Running, reward: Array) -> Array:
    """Rewards divided by the std of returns, clipped to +-10."""
    return _scaled(reward, stats.std)


def _scaled(reward: Array, std: Array) -> Array:
    return jnp.clip(reward / std, -_REWARD_CLIP, _REWARD_CLIP)


def scaled_rewards(stats: Statistics, rollout: Rollout, gamma: float) -> tuple[Statistics, Array]:
    """Returns (statistics updated with a rollout's rewards, the scaled rewards (N, K, H))."""
    n = rollout.reward.shape[0]
    raw = (rollout.reward * rollout.valid).reshape(n, -1)
    return_stats, reward = normalise_rewards(stats.return_, raw, gamma)
    return stats._replace(return_=return_stats), reward.reshape(rollout.reward.shape)


def update_statistics(stats: Statistics, rollout: Rollout, latent: Array) -> Statistics:
    """Statistics updated with a rollout's observations and latents (N, K, H, L)."""
    flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
    counted = rollout.valid.reshape(-1).astype(rollout.reward.dtype)
    return stats._replace(
        obs=statistics.update(stats.obs, flat(rollout.critic_obs[:, :, :-1]), counted),
        latent=statistics.update(stats.latent, flat(latent), counted) if latent.size else stats.latent,
    )


def last_steps(valid: Array) -> Array:
    """Whether each step (..., H) is the last valid one of its episode."""
    return valid & ~jnp.concatenate([valid[..., 1:], jnp.zeros_like(valid[..., :1])], axis=-1)


def advantages(
    config: ppo.PpoConfig, rollout: Rollout, reward: Array, value: Array, weights: TaskWeights
) -> tuple[Array, Array]:
    """Returns (advantages (N, K, H), values (N, K, H) with 0 for the steps after an early end).

    A task that the sampler filters out has advantage 0 and its predicted values as value targets. So has the
    last step before a simulation diverged, as at a time limit: a value of 0 after it would reward breaking
    the simulation wherever rewards are costs.

    Args:
        config: options.
        rollout: N tasks.
        reward: (N, K, H) scaled.
        value: (N, K, H) of the observations that actions were chosen from.
        weights: the sampler's, (N,).
    """
    n, _, h = reward.shape
    value = jnp.where(rollout.valid, value, 0.0)
    unfiltered = (weights.keep > 0)[:, None, None]
    cut = last_steps(rollout.valid) & rollout.outcome.diverged[:, :, None]
    if config.credit == "task":
        flat = (x.reshape(n, -1) for x in (reward, value, rollout.valid, cut))
        advantage = ppo.gae_over_task(*flat, config.gamma, config.gae_lambda)
        return advantage.reshape(reward.shape) * unfiltered, value
    keep = rollout.valid & ~cut & (jnp.arange(h) < h - 1) & unfiltered
    return ppo.gae(reward, value, keep.astype(reward.dtype), config.gamma, config.gae_lambda), value


def value_score(
    policy: ActorCritic, config: ppo.PpoConfig, params: Any, stats: Statistics, rollout: Rollout
) -> Array:
    """How much better than the critic expected each task went, ``Feedback.value_score`` (N,).

    Rewards, and so the scores, are in units of the running std of returns, this rollout's included: these are
    the advantages that PPO learns from, and the first scores of a run have the unit of later ones.

    Args:
        policy: module.
        config: options.
        params: the policy's.
        stats: before the rollout.
        rollout: N tasks; its extras are the latents (N, K, H, L) that actions were chosen with.
    """
    inputs = policy_inputs(config, stats, rollout.critic_obs[:, :, :-1], rollout.extras)
    _, value = policy.apply(params, *inputs)
    _, reward = scaled_rewards(stats, rollout, config.gamma)
    ones = jnp.ones(reward.shape[0], reward.dtype)
    advantage, _ = advantages(config, rollout, reward, value, TaskWeights(ones, ones))
    positive = jnp.maximum(advantage, 0.0) * rollout.valid
    return positive.sum(axis=(1, 2)) / jnp.maximum(rollout.valid.sum(axis=(1, 2)), 1)


def make_batch(
    config: ppo.PpoConfig, rollout: Rollout, reward: Array, weights: TaskWeights, inputs: Any,
    log_prob: Array, value: Array,
) -> ppo.PpoBatch:  # fmt: skip
    """A batch of whole tasks: inputs with leaves (N, ...), other fields (N, T, ...).

    ``log_prob`` and ``value`` (N, T) are those of the policy that acted.
    """
    n, k, h = reward.shape
    advantage, value = advantages(config, rollout, reward, value.reshape(n, k, h), weights)
    weight = weights.loss[:, None, None] * rollout.valid
    by_step = lambda x: x.reshape(n, k * h)  # noqa: E731
    return ppo.PpoBatch(
        inputs=inputs,
        action=rollout.action.reshape(n, k * h, -1),
        log_prob=log_prob,
        value=by_step(value),
        return_=by_step(advantage + value),
        advantage=by_step(ppo.normalise_advantage(advantage, weight)),
        weight=by_step(weight),
        valid=by_step(rollout.valid),
    )


def as_transitions(batch: ppo.PpoBatch) -> ppo.PpoBatch:
    """Reshapes a batch of tasks with leaves (N, T, ...) to a batch of N T transitions."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), batch)


def learning_rate(config: ppo.PpoConfig, rates: Mapping[str, Array], progress: Array) -> Array:
    """Adam's learning rate (), linearly annealed to 0 with ``anneal_lr``."""
    return rates["ppo.lr"] * ((1 - progress) if config.anneal_lr else 1.0)


def run_ppo(
    config: ppo.PpoConfig,
    learned: Learned,
    judge: ppo.Judge,
    batch: ppo.PpoBatch,
    key: Array,
    progress: Array,
) -> tuple[Learned, Metrics]:
    """All epochs of PPO on a batch."""
    params, opt_state, metrics = ppo.update(
        learned.params, learned.opt_state, judge, batch, config,
        lr=learning_rate(config, learned.rates, progress), entropy_coef=learned.rates["ppo.entropy_coef"],
        key=key,
    )  # fmt: skip
    return learned._replace(params=params, opt_state=opt_state), metrics


def update(
    learned: Learned, policy: ActorCritic, config: ppo.PpoConfig, rollout: Rollout, latent: Array,
    reward: Array, weights: TaskWeights, key: Array, progress: Array,
    through: Callable[[Any, Any], Array] | None = None, sequence: Any = None,
) -> tuple[Learned, Metrics]:  # fmt: skip
    """PPO on a rollout: updates the input statistics, then runs all epochs.

    The old log-probs are computed with the new statistics, the old values with the old ones (the
    reference's order).

    Args:
        learned: before. Its parameters are the policy's or, with ``through``, {"policy": ..., "memory": ...}.
        policy: module.
        config: options.
        rollout: N tasks.
        latent: (N, K, H, L) that actions were chosen with.
        reward: (N, K, H) scaled.
        weights: the sampler's, (N,).
        key: randomness of the permutations.
        progress: () share of the training done, for annealing.
        through: (memory's parameters, sequence) -> latents (B, T, L), if the losses also train the memory;
            minibatches are then whole tasks.
        sequence: input of ``through``, a pytree with leaves (N, ...).
    """
    n, k, h = reward.shape
    stats = update_statistics(learned.statistics, rollout, latent)
    acting = learned.params if through is None else learned.params["policy"]
    obs, latent = (x.reshape(n, k * h, x.shape[-1]) for x in (rollout.critic_obs[:, :, :-1], latent))
    action = rollout.action.reshape(n, k * h, -1)
    _, value = policy.apply(acting, *policy_inputs(config, learned.statistics, obs, latent))
    obs, latent = policy_inputs(config, stats, obs, latent)
    log_prob = judge(policy, acting, obs, latent, action).log_prob
    learned = learned._replace(statistics=stats)
    if through is None:
        batch = make_batch(config, rollout, reward, weights, (obs, latent), log_prob, value)

        def of_transitions(params: Any, inputs: tuple[Array, Array], action: Array) -> ppo.Judged:
            return judge(policy, params, *inputs, action)

        return run_ppo(config, learned, of_transitions, as_transitions(batch), key, progress)
    batch = make_batch(config, rollout, reward, weights, (obs, sequence), log_prob, value)

    def of_tasks(params: Any, inputs: tuple[Array, Any], action: Array) -> ppo.Judged:
        obs, sequence = inputs
        latent = through(params["memory"], sequence)
        if config.normalise_latent:
            latent = statistics.normalise(latent, stats.latent)
        return judge(policy, params["policy"], obs, latent, action)

    return run_ppo(config, learned, of_tasks, batch, key, progress)


def check_minibatches(spec: EnvSpec, num_tasks: int, config: ppo.PpoConfig, whole_tasks: bool) -> None:
    """Raises ValueError with a one-line message if a batch is nothing to learn from or does not divide."""
    if config.credit == "episode" and spec.horizon == 1:
        raise ValueError(
            "ppo.credit=episode drops the last reward of an episode, which is all of one of a single step: "
            "use ppo.credit=task with several episodes"
        )
    if spec.episodes * spec.horizon == 1:
        raise ValueError(
            "a task of one episode of one step has no return to scale rewards by: raise one of them"
        )
    if whole_tasks and num_tasks % config.minibatches:
        raise ValueError(
            f"{num_tasks} tasks per iteration do not divide into ppo.minibatches={config.minibatches}; "
            "this agent's minibatches are whole tasks"
        )
    transitions = num_tasks * spec.episodes * spec.horizon
    if transitions % config.minibatches:
        raise ValueError(
            f"{transitions} transitions per iteration ({num_tasks} tasks x {spec.episodes} x {spec.horizon}) "
            f"do not divide into ppo.minibatches={config.minibatches}"
        )
