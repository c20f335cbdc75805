"""VariBAD: a policy on a belief about the task that a variational auto-encoder infers.

Source: Zintgraf et al. 2020, as RoML runs it. By default the policy's gradient does not reach the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from roml_jax import checks
from roml_jax.agents import common, elbo, on_policy, ppo, vae
from roml_jax.agents import replay as replays
from roml_jax.agents.base import Agent, Halved, register, replay_field
from roml_jax.agents.history import Trajectory, empty, trajectory_of
from roml_jax.agents.ppo import PpoConfig
from roml_jax.agents.vae import VaeConfig
from roml_jax.networks import ActorCritic
from roml_jax.types import Array, EnvSpec, Metrics, Rollout, Table, TaskWeights, Transition


@dataclass(frozen=True)
class VaribadConfig:
    """Options of VariBAD."""

    ppo: PpoConfig = field(default_factory=PpoConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    ppo_reaches_belief: bool = False
    """Also train the encoder by the policy's losses, through time; minibatches are then whole tasks."""
    learning_starts: int = 5000
    """Frames collected before learning starts; only the reward statistics are updated before."""

    def __post_init__(self) -> None:
        checks.at_least(self, "", 0, "learning_starts")


class VaribadState(NamedTuple):
    """Everything that learning changes."""

    policy: Any
    policy_opt: Any
    belief: Any
    belief_opt: Any
    statistics: on_policy.Statistics
    replay: replays.Replay
    frames: Array
    rates: Mapping[str, Array]


class VaribadBelief(NamedTuple):
    """The encoder's hidden state (N, hidden), from which the posterior follows."""

    hidden: Array


class Networks(NamedTuple):
    """The modules; their parameters are in the state."""

    policy: ActorCritic
    encoder: vae.Encoder
    decoders: vae.Decoders


def make_networks(spec: EnvSpec, config: VaribadConfig) -> Networks:
    """The modules for an environment, with the configured sizes."""
    return Networks(
        on_policy.make_policy(spec, config.ppo, 2 * config.vae.latent),
        vae.Encoder(config.vae, spec.obs_size, spec.action.size),
        vae.make_decoders(config.vae, spec.obs_size, spec.action.size, spec.task_size),
    )


_HALVED = Halved("vae.replay_dtype", "bfloat16", lambda replay: replay.rows.obs)


def _init(key: Array, spec: EnvSpec, config: VaribadConfig, networks: Networks) -> VaribadState:
    obs, latent = jnp.zeros(spec.critic_size), jnp.zeros(2 * config.vae.latent)
    row = empty(spec, config.vae.task_weight > 0)
    half = config.vae.replay_dtype == "bfloat16"
    stored = row._replace(obs=row.obs.astype(jnp.bfloat16)) if half else row
    one = jax.tree.map(lambda x: x[None], row)
    policy_key, encoder_key, decoder_key = jax.random.split(key, 3)
    policy = networks.policy.init(policy_key, obs, latent)
    belief = {
        "encoder": networks.encoder.init(encoder_key, one),
        "decoder": {
            # the first decoder, by default the only one, has the key itself
            name: module.init(
                jax.random.fold_in(decoder_key, i) if i else decoder_key,
                jnp.zeros((1, config.vae.latent)),
                one,
            )
            for i, (name, module) in enumerate(networks.decoders.items())
        },
    }
    reached = {"policy": policy, "memory": belief["encoder"]} if config.ppo_reaches_belief else policy
    return VaribadState(
        policy=policy,
        policy_opt=ppo.init_optimiser(config.ppo, reached),
        belief=belief,
        belief_opt=belief_optimiser(config.vae, networks.decoders).init(_ravel(belief)[0]),
        statistics=on_policy.init_statistics(spec.critic_size, 2 * config.vae.latent),
        replay=replays.init(config.vae.buffer_trajectories, stored),
        frames=jnp.zeros((), jnp.int32),
        rates=common.init_rates(config),
    )


def _ravel(params: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The encoder's and each decoder's parameters as a vector, and the function back.

    Leaf by leaf, an optimiser's operations would be a kernel for every leaf, to compile and to launch.
    """
    encoder, encoder_of = ravel_pytree(params["encoder"])
    decoders = {name: ravel_pytree(tree) for name, tree in params["decoder"].items()}

    def back(vectors: Any) -> Any:
        decoder = {name: of(vectors["decoder"][name]) for name, (_, of) in decoders.items()}
        return {"encoder": encoder_of(vectors["encoder"]), "decoder": decoder}

    return {"encoder": encoder, "decoder": {name: vector for name, (vector, _) in decoders.items()}}, back


def belief_optimiser(config: VaeConfig, decoders: vae.Decoders) -> optax.GradientTransformation:
    """Separate norm clipping and Adam without the learning rate, a leaf; for what ``_ravel`` makes."""
    clip = optax.clip_by_global_norm(config.max_grad_norm)
    labels = {"encoder": "encoder", "decoder": {name: name for name in decoders}}
    clip_parts = optax.partition({"encoder": clip} | {name: clip for name in decoders}, labels)
    return optax.chain(clip_parts, optax.scale_by_adam(eps=1e-8))


def update_policy(
    state: VaribadState, networks: Networks, config: VaribadConfig, rollout: Rollout, reward: Array,
    weights: TaskWeights, key: Array, progress: Array,
) -> tuple[VaribadState, Metrics]:  # fmt: skip
    """PPO on a rollout; with ``ppo_reaches_belief`` its gradient also trains the encoder.

    Args:
        state: before.
        networks: modules.
        config: options.
        rollout: N tasks.
        reward: (N, K, H) scaled.
        weights: the sampler's, (N,).
        key: randomness of the permutations.
        progress: () share of the training done, for annealing.
    """
    learned = on_policy.Learned(state.policy, state.policy_opt, state.statistics, state.rates)
    latent = rollout.extras
    if not config.ppo_reaches_belief:
        learned, metrics = on_policy.update(
            learned, networks.policy, config.ppo, rollout, latent, reward, weights, key, progress
        )
        policy, belief = learned.params, state.belief
    else:
        both = {"policy": state.policy, "memory": state.belief["encoder"]}

        def latents(encoder: Any, trajectory: Trajectory) -> Array:
            return networks.encoder.apply(encoder, trajectory).features()[:, :-1]

        learned, metrics = on_policy.update(
            learned._replace(params=both), networks.policy, config.ppo, rollout, latent, reward, weights, key,
            progress, latents, trajectory_of(rollout, networks.policy.action),
        )  # fmt: skip
        policy = learned.params["policy"]
        belief = {**state.belief, "encoder": learned.params["memory"]}
    return state._replace(
        policy=policy, policy_opt=learned.opt_state, belief=belief, statistics=learned.statistics
    ), metrics


def update_belief(
    state: VaribadState, networks: Networks, config: VaribadConfig, trajectories: Trajectory, key: Array
) -> tuple[VaribadState, Metrics]:
    """One gradient step on the VAE for each of the batches ``trajectories`` (updates, B, ...)."""
    transform = belief_optimiser(config.vae, networks.decoders)
    grad = jax.value_and_grad(elbo.negative_elbo, has_aux=True)
    vectors, params_of = _ravel(state.belief)

    def step(carry: tuple[Any, Any], now: tuple[Trajectory, Array]) -> tuple[tuple[Any, Any], Table]:
        vectors, opt_state = carry
        trajectory, key = now
        draws = elbo.draw(config.vae, key, *trajectory.reward.shape, trajectory.reward.dtype)
        params = params_of(vectors)
        (_, metrics), grads = grad(params, networks.encoder, networks.decoders, trajectory, draws)
        flat, _ = _ravel(grads)
        updates, opt_state = transform.update(flat, opt_state, vectors)
        vectors = optax.apply_updates(vectors, jax.tree.map(lambda u: -state.rates["vae.lr"] * u, updates))
        metrics = metrics | {"grad_norm": optax.global_norm(flat)}
        return (vectors, opt_state), Table.of(metrics)

    keys = jax.random.split(key, config.vae.updates)
    start = (vectors, state.belief_opt)
    (vectors, belief_opt), metrics = jax.lax.scan(step, start, (trajectories, keys))
    state = state._replace(belief=params_of(vectors), belief_opt=belief_opt)
    return state, common.averaged(metrics)


def _update(
    state: VaribadState, networks: Networks, config: VaribadConfig, rollout: Rollout, weights: TaskWeights,
    key: Array, progress: Array,
) -> tuple[VaribadState, Metrics]:  # fmt: skip
    trajectory = trajectory_of(rollout, networks.policy.action, config.vae.task_weight > 0)
    policy_key, sample_key, belief_key = jax.random.split(key, 3)
    stats, reward = on_policy.scaled_rewards(state.statistics, rollout, config.ppo.gamma)
    # The ring is not an input of any branch, so that it is updated in place and never copied.
    ring = replays.add(state.replay, trajectory)
    # until the ring is full, the size before this iteration excludes this iteration's rows
    drawable = ring if config.vae.draw_newest else ring._replace(size=state.replay.size)
    sample_keys = jax.random.split(sample_key, config.vae.updates)
    sampled = jax.vmap(lambda k: replays.sample(drawable, k, config.vae.batch_trajectories))(sample_keys)
    sampled = sampled._replace(obs=sampled.obs.astype(trajectory.obs.dtype))
    before = state.frames
    frames = common.count_frames(before, rollout)
    learner = state._replace(replay=ring._replace(rows=()), statistics=stats)
    learns = (before > 0) & (frames >= config.learning_starts)

    def learn() -> tuple[VaribadState, Metrics]:
        policy, ppo_metrics = update_policy(
            learner, networks, config, rollout, reward, weights, policy_key, progress
        )
        both, vae_metrics = update_belief(policy, networks, config, sampled, belief_key)
        metrics = {f"ppo/{name}": value for name, value in ppo_metrics.items()}
        return both, metrics | {f"vae/{name}": value for name, value in vae_metrics.items()}

    learner, metrics = common.when(learns, learn, learner)
    return learner._replace(replay=ring, frames=frames), metrics


@register("varibad")
def make(spec: EnvSpec, num_tasks: int, config: VaribadConfig) -> Agent:
    """VariBAD for an environment, on N = ``num_tasks`` tasks per meta-iteration.

    Raises:
        ValueError: if a batch of transitions does not divide into minibatches, or an iteration's
            trajectories do not fit into the buffer.
    """
    on_policy.check_minibatches(spec, num_tasks, config.ppo, config.ppo_reaches_belief)
    if num_tasks > config.vae.buffer_trajectories:
        raise ValueError(
            f"{num_tasks} tasks per iteration do not fit into "
            f"vae.buffer_trajectories={config.vae.buffer_trajectories}"
        )
    networks = make_networks(spec, config)

    def begin(state: VaribadState, key: Array, n: int) -> VaribadBelief:
        del state, key
        return VaribadBelief(jnp.zeros((n, config.vae.hidden)))

    def act(
        state: VaribadState, belief: VaribadBelief, obs: Array, key: Array, greedy: Array
    ) -> tuple[Array, Array]:
        latent = networks.encoder.apply(state.belief["encoder"], belief.hidden, method="features")
        stats = state.statistics
        return on_policy.act(
            networks.policy, config.ppo, state.policy, stats, obs, latent, key, greedy
        ), latent

    def observe(state: VaribadState, belief: VaribadBelief, step: Transition) -> VaribadBelief:
        action = spec.action.executed(step.action)
        hidden = networks.encoder.apply(
            state.belief["encoder"], belief.hidden, action, step.next_obs, step.reward, method="observe"
        )
        return VaribadBelief(jnp.where(step.valid[:, None], hidden, belief.hidden))

    def prepare(state: VaribadState) -> VaribadState:
        encoder = networks.encoder.prepared(state.belief["encoder"])
        policy = networks.policy.prepared(state.policy)
        return state._replace(policy=policy, belief=state.belief | {"encoder": encoder})

    return Agent(
        init=lambda key: _init(key, spec, config, networks),
        begin=begin,
        act=act,
        observe=observe,
        adapt=None,
        update=lambda state, rollout, weights, key, progress: _update(
            state, networks, config, rollout, weights, key, progress
        ),
        acting=lambda state: state._replace(policy_opt=(), belief_opt=(), replay=(), rates={}),
        storage=replay_field(
            "vae.buffer_trajectories",
            halved_by=_HALVED if config.vae.replay_dtype == "full" else None,
        ),
        value_score=lambda state, rollout: on_policy.value_score(
            networks.policy, config.ppo, state.policy, state.statistics, rollout
        ),
        counters=("frames",),
        prepare=prepare,
    )
