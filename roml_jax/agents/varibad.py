"""VariBAD: a policy on the belief that a variational auto-encoder forms of the task.

Source: Zintgraf et al. 2020, as RoML runs it. The policy's gradient does not reach the encoder.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from roml_jax import checks
from roml_jax import replay as replay_lib
from roml_jax.agents import ppo, vae
from roml_jax.agents.base import Agent
from roml_jax.networks import Policy, action_log_prob, choose_action
from roml_jax.quiet import running_statistics as statistics
from roml_jax.types import Array, Continuous, Discrete, EnvSpec, Metrics, Rollout, TaskWeights, Transition

_STD_EPS = 1e-8  # in the variance: a feature that was constant so far has deviation 1e-4
_REWARD_CLIP = 10.0
_MANY_FRAMES = 2**30  # the counter only tells whether learning may start; it must not wrap


@dataclass(frozen=True)
class VaribadConfig:
    """VariBAD's parts and when they start to learn."""

    ppo: ppo.PpoConfig = field(default_factory=ppo.PpoConfig)
    vae: vae.VaeConfig = field(default_factory=vae.VaeConfig)
    learning_starts: int = 5000
    """Frames collected before anything but the reward statistics is learned."""

    def __post_init__(self) -> None:
        checks.at_least(self, "", 0, "learning_starts")


# Options that are leaves of the state, so that runs that differ in them can share a program.
TUNABLE = ("ppo.lr", "ppo.entropy_coef", "vae.lr")


class Statistics(NamedTuple):
    """Running means and deviations of the policy's inputs and of discounted returns."""

    obs: statistics.RunningStatisticsState
    latent: statistics.RunningStatisticsState
    return_: statistics.RunningStatisticsState


class VaribadState(NamedTuple):
    """Everything that learning changes."""

    policy: Any
    policy_opt: Any
    belief: Any
    belief_opt: Any
    statistics: Statistics
    replay: replay_lib.Replay
    frames: Array
    rates: Mapping[str, Array]


class VaribadBelief(NamedTuple):
    """The encoder's hidden state (N, hidden) and the posterior it implies."""

    hidden: Array
    posterior: vae.Posterior


class Networks(NamedTuple):
    """The modules; their parameters are in the state."""

    policy: Policy
    encoder: vae.Encoder
    decoder: vae.RewardDecoder


def make_networks(spec: EnvSpec, config: VaribadConfig) -> Networks:
    """Modules of the sizes that an environment and the options ask for."""
    p = config.ppo
    return Networks(
        Policy(spec.action, p.layers, p.obs_embedding, p.latent_embedding, p.init),
        vae.Encoder(config.vae, spec.obs_size, spec.action.size),
        vae.RewardDecoder(config.vae, spec.obs_size, spec.action.size),
    )


def trajectory_of(rollout: Rollout, action: Discrete | Continuous) -> vae.Trajectory:
    """What the auto-encoder learns from: a rollout's episodes in sequence, with actions as carried out."""
    n, k, h = rollout.reward.shape
    return vae.Trajectory(
        rollout.obs,
        action.executed(rollout.action).reshape(n, k * h, -1),
        rollout.reward.reshape(n, k * h),
        rollout.valid.reshape(n, k * h),
    )


def _init(key: Array, spec: EnvSpec, config: VaribadConfig, networks: Networks) -> VaribadState:
    k, h, d, a = spec.episodes, spec.horizon, spec.obs_size, spec.action.size
    obs, latent = jnp.zeros(d), jnp.zeros(2 * config.vae.latent)
    row = vae.Trajectory(
        jnp.zeros((k, h + 1, d)), jnp.zeros((k * h, a)), jnp.zeros(k * h), jnp.zeros(k * h, bool)
    )
    half = config.vae.replay_dtype == "bfloat16"
    stored = row._replace(obs=row.obs.astype(jnp.bfloat16)) if half else row
    one = jax.tree.map(lambda x: x[None], row)
    policy_key, encoder_key, decoder_key = jax.random.split(key, 3)
    policy = networks.policy.init(policy_key, obs, latent)
    belief = {
        "encoder": networks.encoder.init(encoder_key, one),
        "decoder": networks.decoder.init(decoder_key, jnp.zeros((1, config.vae.latent)), one),
    }
    return VaribadState(
        policy=policy,
        policy_opt=ppo.optimiser(config.ppo).init(policy),
        belief=belief,
        belief_opt=vae.optimiser(config.vae).init(belief),
        statistics=Statistics(
            statistics.init_state(obs, std_eps=_STD_EPS),
            statistics.init_state(latent, std_eps=_STD_EPS),
            statistics.init_state(jnp.zeros(()), std_eps=_STD_EPS),
        ),
        replay=replay_lib.init(config.vae.buffer_trajectories, stored),
        frames=jnp.zeros((), jnp.int32),
        rates={name: jnp.asarray(operator.attrgetter(name)(config)) for name in TUNABLE},
    )


def _policy_inputs(
    config: VaribadConfig, stats: Statistics, obs: Array, latent: Array
) -> tuple[Array, Array]:
    obs = statistics.normalize(obs, stats.obs)
    return obs, statistics.normalize(latent, stats.latent) if config.ppo.normalise_latent else latent


def normalise_rewards(
    stats: statistics.RunningStatisticsState, reward: Array, gamma: float
) -> tuple[statistics.RunningStatisticsState, Array]:
    """Divides rewards by the running deviation of the discounted return, clipped to +-10.

    At each step the discounted sums of all tasks enter the statistics before that step's rewards are
    divided; a task's sum is set to 0 at its last step, before it enters (the reference's order).

    Args:
        stats: of the discounted return.
        reward: (N, T) raw rewards of whole tasks.
        gamma: discount.

    Returns:
        (stats, rewards (N, T)).
    """
    steps = reward.shape[1]

    def step(carry: tuple[Any, Array], now: tuple[Array, Array]) -> tuple[tuple[Any, Array], Array]:
        stats, total = carry
        reward, last = now
        total = jnp.where(last, 0.0, gamma * total + reward)
        stats = statistics.update(stats, total)
        return (stats, total), jnp.clip(reward / stats.std, -_REWARD_CLIP, _REWARD_CLIP)

    last = jnp.arange(steps) == steps - 1
    (stats, _), scaled = jax.lax.scan(step, (stats, jnp.zeros_like(reward[:, 0])), (reward.T, last))
    return stats, scaled.T


def _policy_batch(
    state: VaribadState, stats: Statistics, networks: Networks, config: VaribadConfig, rollout: Rollout,
    reward: Array, weights: TaskWeights,
) -> ppo.PpoBatch:  # fmt: skip
    """Advantages under the acting policy's values, log-probabilities under the new statistics."""
    obs, latent = rollout.obs[:, :, :-1], rollout.extras
    n, k, h = reward.shape
    flat_obs, flat_latent = obs.reshape(n * k * h, -1), latent.reshape(n * k * h, -1)
    _, value = networks.policy.apply(
        state.policy, *_policy_inputs(config, state.statistics, flat_obs, flat_latent)
    )
    value = jnp.where(rollout.valid, value.reshape(n, k, h), 0.0)  # nothing follows an early end
    # a task that the sampler filters out teaches nothing: no advantage, its own value as target
    kept = rollout.valid & (jnp.arange(h) < h - 1) & (weights.keep > 0)[:, None, None]
    advantage = ppo.gae(reward, value, kept.astype(reward.dtype), config.ppo.gamma, config.ppo.gae_lambda)
    flat_obs, flat_latent = _policy_inputs(config, stats, flat_obs, flat_latent)
    action = rollout.action.reshape(n * k * h, -1)
    distribution, _ = networks.policy.apply(state.policy, flat_obs, flat_latent)
    weight = (weights.loss[:, None, None] * rollout.valid).reshape(-1)
    return ppo.PpoBatch(
        obs=flat_obs,
        latent=flat_latent,
        action=action,
        log_prob=action_log_prob(networks.policy.action, distribution, action),
        value=value.reshape(-1),
        return_=(advantage + value).reshape(-1),
        advantage=ppo.normalise_advantage(advantage.reshape(-1), weight),
        weight=weight,
    )


def update_policy(
    state: VaribadState, networks: Networks, config: VaribadConfig, rollout: Rollout, reward: Array,
    weights: TaskWeights, key: Array, progress: Array,
) -> tuple[VaribadState, Metrics]:  # fmt: skip
    """PPO on a rollout: new input statistics, then all epochs.

    Args:
        state: parameters, optimiser and statistics before.
        networks: modules.
        config: options.
        rollout: N tasks.
        reward: (N, K, H) as the policy is to see them (scaled).
        weights: what each task teaches.
        key: permutations.
        progress: () share of the run done, for annealing.
    """
    flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
    counted = rollout.valid.reshape(-1).astype(reward.dtype)
    stats = state.statistics._replace(
        obs=statistics.update(state.statistics.obs, flat(rollout.obs[:, :, :-1]), weights=counted),
        latent=statistics.update(state.statistics.latent, flat(rollout.extras), weights=counted),
    )
    batch = _policy_batch(state, stats, networks, config, rollout, reward, weights)
    lr = state.rates["ppo.lr"] * ((1 - progress) if config.ppo.anneal_lr else 1.0)
    policy, policy_opt, metrics = ppo.update(
        state.policy, state.policy_opt, networks.policy.apply, networks.policy.action, batch, config.ppo,
        lr=lr, entropy_coef=state.rates["ppo.entropy_coef"], key=key,
    )  # fmt: skip
    return state._replace(policy=policy, policy_opt=policy_opt, statistics=stats), metrics


def update_belief(
    state: VaribadState, networks: Networks, config: VaribadConfig, trajectories: vae.Trajectory, key: Array
) -> tuple[VaribadState, Metrics]:
    """One gradient step per leading entry of ``trajectories`` (updates, B, ...)."""
    transform = vae.optimiser(config.vae)
    grad = jax.value_and_grad(vae.negative_elbo, has_aux=True)

    def step(carry: tuple[Any, Any], now: tuple[vae.Trajectory, Array]) -> tuple[tuple[Any, Any], Metrics]:
        params, opt_state = carry
        trajectory, key = now
        draws = vae.draw(config.vae, key, *trajectory.reward.shape, trajectory.reward.dtype)
        (loss, metrics), grads = grad(params, networks.encoder, networks.decoder, trajectory, draws)
        updates, opt_state = transform.update(grads, opt_state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: -state.rates["vae.lr"] * u, updates))
        norm = optax.global_norm(grads)
        return (params, opt_state), metrics | {"loss": loss, "grad_norm": norm}

    keys = jax.random.split(key, config.vae.updates)
    (belief, belief_opt), metrics = jax.lax.scan(step, (state.belief, state.belief_opt), (trajectories, keys))
    return state._replace(belief=belief, belief_opt=belief_opt), jax.tree.map(
        lambda m: m.mean(axis=0), metrics
    )


def _when(condition: Array, update: Any, state: VaribadState) -> tuple[VaribadState, Metrics]:
    """Runs an update or leaves the state, with NaN for the metrics that were not computed."""
    update = jax.jit(update)  # so that its shapes and the branch share one trace

    def skip() -> tuple[VaribadState, Metrics]:
        _, metrics = jax.eval_shape(update)
        return state, jax.tree.map(lambda m: jnp.full(m.shape, jnp.nan, m.dtype), metrics)

    return jax.lax.cond(condition, update, skip)


def _update(
    state: VaribadState, networks: Networks, config: VaribadConfig, rollout: Rollout, weights: TaskWeights,
    key: Array, progress: Array,
) -> tuple[VaribadState, Metrics]:  # fmt: skip
    trajectory = trajectory_of(rollout, networks.policy.action)
    policy_key, sample_key, belief_key = jax.random.split(key, 3)
    return_stats, reward = normalise_rewards(
        state.statistics.return_, trajectory.reward * trajectory.valid, config.ppo.gamma
    )
    # The ring stays outside of every branch, so that it is written in place and never copied.
    ring = replay_lib.add(state.replay, trajectory)
    sample_keys = jax.random.split(sample_key, config.vae.updates)
    sampled = jax.vmap(lambda k: replay_lib.sample(ring, k, config.vae.batch_trajectories))(sample_keys)
    sampled = sampled._replace(obs=sampled.obs.astype(trajectory.obs.dtype))
    before = state.frames
    frames = jnp.minimum(before + reward.size, _MANY_FRAMES)
    learner = state._replace(
        replay=ring._replace(rows=()), statistics=state.statistics._replace(return_=return_stats)
    )
    learns = (before > 0) & (frames >= config.learning_starts)

    def learn() -> tuple[VaribadState, Metrics]:
        policy, ppo_metrics = update_policy(
            learner, networks, config, rollout, reward.reshape(rollout.reward.shape), weights, policy_key,
            progress,
        )  # fmt: skip
        both, vae_metrics = update_belief(policy, networks, config, sampled, belief_key)
        metrics = {f"ppo/{name}": value for name, value in ppo_metrics.items()}
        return both, metrics | {f"vae/{name}": value for name, value in vae_metrics.items()}

    learner, metrics = _when(learns, learn, learner)
    return learner._replace(replay=ring, frames=frames), metrics


def make(spec: EnvSpec, num_tasks: int, config: VaribadConfig) -> Agent:
    """VariBAD for an environment, on N = ``num_tasks`` tasks per meta-iteration.

    Raises:
        ValueError: if a batch of transitions does not divide into minibatches, or a batch of
            trajectories does not fit the buffer.
    """
    transitions = num_tasks * spec.episodes * spec.horizon
    if transitions % config.ppo.minibatches:
        raise ValueError(
            f"{transitions} transitions per iteration ({num_tasks} tasks x {spec.episodes} x {spec.horizon}) "
            f"do not divide into ppo.minibatches={config.ppo.minibatches}"
        )
    if num_tasks > config.vae.buffer_trajectories:
        raise ValueError(
            f"{num_tasks} tasks per iteration do not fit "
            f"vae.buffer_trajectories={config.vae.buffer_trajectories}"
        )
    networks = make_networks(spec, config)

    def posterior(state: VaribadState, hidden: Array) -> VaribadBelief:
        belief = networks.encoder.apply(state.belief["encoder"], hidden, method="posterior")
        return VaribadBelief(hidden, belief)

    def begin(state: VaribadState, n: int, key: Array) -> VaribadBelief:
        del key
        return posterior(state, jnp.zeros((n, config.vae.hidden)))

    def act(
        state: VaribadState, belief: VaribadBelief, obs: Array, key: Array, greedy: Array
    ) -> tuple[Array, Array]:
        latent = belief.posterior.features()
        inputs = _policy_inputs(config, state.statistics, obs, latent)
        distribution, _ = networks.policy.apply(state.policy, *inputs)
        return choose_action(spec.action, distribution, key, greedy), latent

    def observe(state: VaribadState, belief: VaribadBelief, step: Transition) -> VaribadBelief:
        action = spec.action.executed(step.action)
        hidden = networks.encoder.apply(
            state.belief["encoder"], belief.hidden, action, step.next_obs, step.reward, method="observe"
        )
        return posterior(state, jnp.where(step.valid[:, None], hidden, belief.hidden))

    return Agent(
        init=lambda key: _init(key, spec, config, networks),
        begin=begin,
        act=act,
        observe=observe,
        adapt=None,
        update=lambda state, rollout, weights, key, progress: _update(
            state, networks, config, rollout, weights, key, progress
        ),
        tunable=TUNABLE,
        tune=lambda state, values: state._replace(rates={**state.rates, **values}),
        acting=lambda state: state._replace(policy_opt=(), belief_opt=(), replay=(), rates={}),
    )
