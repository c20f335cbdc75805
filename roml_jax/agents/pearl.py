"""PEARL: a probabilistic context encoder, posterior sampling between episodes, and SAC from a replay buffer.

Source: Rakelly et al. 2019, as RoML-PEARL runs it. The belief is a product of one Gaussian per transition,
so the cost of a step does not depend on the number of transitions seen. The sampler draws new tasks for
every visit; the replay buffer stores a visit's transitions, not its task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp

from roml_jax import checks
from roml_jax.agents import common, sac
from roml_jax.agents import replay as replays
from roml_jax.agents.base import Agent, register, replay_field
from roml_jax.agents.sac import SacConfig
from roml_jax.types import Array, Discrete, EnvSpec, Metrics, Rollout, TaskWeights, Transition

_MIN_VAR = 1e-7


@dataclass(frozen=True)
class ContextConfig:
    """Options of the belief: its encoder and its context."""

    latent: int = 5
    """Size of the latent z."""
    layers: tuple[int, ...] = (200, 200, 200)
    """Hidden sizes of the encoder, which encodes one transition at a time."""
    size: int = 100
    """Number of transitions in a context. Learning draws them with replacement; acting uses the product over
    all n transitions seen, to the power of size / n, which is equal in expectation."""
    next_obs: bool = False
    """Give the encoder the next observation too, besides observation, action and reward."""
    kl_weight: float = 0.1
    """Weight of the KL divergence from N(0, I), summed over tasks and dimensions of z."""
    prior_episodes: int = 2
    """Number of initial episodes that use z from the prior; they are the context of the later episodes."""

    def __post_init__(self) -> None:
        checks.at_least(self, "context", 1, "latent", "layers", "size", "prior_episodes")
        checks.at_least(self, "context", 0, "kl_weight")


@dataclass(frozen=True)
class PearlConfig:
    """Options of PEARL."""

    sac: SacConfig = field(default_factory=SacConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    buffer_visits: int = 3000
    """Size of the replay buffer in visits to tasks (all episodes of a visit); the oldest are overwritten."""
    slots: int | None = None
    """None: a task's transitions and its context come from the same visit. A number: as in the reference,
    visits share this many slots; a slot's transitions come from all its visits, its context from the
    newest."""
    learning_starts: int = 200_000
    """Frames collected before learning starts (the reference's 100 tasks x 2,000 steps)."""

    def __post_init__(self) -> None:
        checks.at_least(self, "", 1, "buffer_visits", "slots")
        checks.at_least(self, "", 0, "learning_starts")
        if self.slots and self.buffer_visits % self.slots:
            raise ValueError(
                f"buffer_visits ({self.buffer_visits}) must be a multiple of slots ({self.slots})"
            )


class Visit(NamedTuple):
    """A visit to a task, as the replay buffer stores it.

    Attributes:
        obs: (..., K, H + 1, D + P), the privileged parts included.
        action: (..., K, H, A).
        reward: (..., K, H) raw.
        valid: (..., K, H) bool.
        diverged: (..., K) bool, whether the simulation diverged in the episode.
        weight: (...,) the sampler's weight of the visit in the policy's loss.
    """

    obs: Array
    action: Array
    reward: Array
    valid: Array
    diverged: Array
    weight: Array


class PearlState(NamedTuple):
    """Everything that learning changes.

    ``params`` are SAC's parameters and "encoder"; ``replay`` is a ``Replay``, or () while it is not needed.
    """

    params: Any
    opt_state: Any
    replay: Any
    frames: Array
    rates: Mapping[str, Array]


class PearlBelief(NamedTuple):
    """Sums over the transitions seen, and the z that the policy uses.

    Attributes:
        precision: (N, L) sum of precisions.
        weighted: (N, L) sum of precision times mean.
        seen: (N,) number of transitions.
        episode: () index of the current episode.
        z: (N, L).
    """

    precision: Array
    weighted: Array
    seen: Array
    episode: Array
    z: Array


class _Context(NamedTuple):
    """The encoder for an environment; it sees the first ``obs_size`` numbers of an observation."""

    config: ContextConfig
    action: Any
    encoder: sac.Mlp
    obs_size: int

    def inputs(self, obs: Array, action: Array, reward: Array, next_obs: Array) -> tuple[Array, ...]:
        """The encoder's inputs for transitions (...)."""
        if obs.shape[-1] > self.obs_size:
            obs, next_obs = obs[..., : self.obs_size], next_obs[..., : self.obs_size]
        parts = (obs, encode_action(self.action, action), reward[..., None])
        return (*parts, next_obs) if self.config.next_obs else parts

    def factors(self, params: Any, *transition: Array) -> tuple[Array, Array]:
        """Precision and precision times mean (..., L) of each transition's Gaussian."""
        mean, spread = self.encoder.apply(params, *self.inputs(*transition))
        precision = 1 / jnp.maximum(jax.nn.softplus(spread), _MIN_VAR)
        return precision, precision * mean


def encode_action(space: Any, action: Array) -> Array:
    """Actions (..., A) as network inputs; discrete actions are one-hot, (..., n)."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(action[..., 0].astype(jnp.int32), space.n, dtype=action.dtype)
    return action


def posterior(precision: Array, weighted: Array) -> distrax.MultivariateNormalDiag:
    """The product of the transitions' Gaussians, (..., L); N(0, I) if no transition was seen.

    N(0, I) is not a factor of the product.
    """
    has_factors = precision > 0
    safe = jnp.where(has_factors, precision, 1.0)
    return distrax.MultivariateNormalDiag(jnp.where(has_factors, weighted / safe, 0.0), safe**-0.5)


def draw_rows(size: Array, cursor: Array, slots: int, n: int, m: int, key: Array) -> tuple[Array, Array]:
    """Draws n slots of a ring of visits, and rows from each slot.

    Visits are assigned to the slots in turn, so slot s has the rows s, s + slots, ...

    Args:
        size: () number of filled rows.
        cursor: () row that the next batch is written to.
        slots: number of slots, a divisor of the ring's capacity; if it is the capacity, every row is a slot.
        n: slots to draw.
        m: rows to draw for each slot.
        key: randomness.

    Returns:
        (row of each slot's newest visit (n,), rows of random visits of each slot (n, m)).
    """
    slot_key, visit_key = jax.random.split(key)
    slot = jax.random.randint(slot_key, (n,), 0, jnp.clip(size, 1, slots))
    newest_before = jnp.where(cursor > slot, cursor, size)
    newest = slot + slots * (jnp.maximum(newest_before - 1 - slot, 0) // slots)
    visits = jnp.maximum(size - 1 - slot, 0) // slots + 1
    any_of = slot[:, None] + slots * jax.random.randint(visit_key, (n, m), 0, visits[:, None])
    return newest, any_of


def _steps(rows: Visit, visit: Array, step: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Returns (obs, action, reward, next obs, terminal, valid) of visits (...) at steps (...) < K H.

    A step before the simulation diverged is not terminal: a value of 0 after it would reward breaking the
    simulation wherever rewards are costs.
    """
    horizon = rows.reward.shape[2]
    at = (visit, step // horizon, step % horizon)
    after = (*at[:2], at[2] + 1)
    valid = rows.valid[at]
    within = at[2] + 1 < horizon
    follows = rows.valid[(*at[:2], jnp.minimum(at[2] + 1, horizon - 1))]
    terminal = (valid & within & ~follows & ~rows.diverged[at[:2]]).astype(rows.reward.dtype)
    return rows.obs[at], rows.action[at], rows.reward[at], rows.obs[after], terminal, valid


def _sample(config: PearlConfig, ring: replays.Replay, key: Array) -> tuple[sac.Batch, tuple[Array, ...]]:
    """Returns (transitions of ``meta_batch`` tasks, a context for each, with its validity (B, C))."""
    row_key, step_key, context_key = jax.random.split(key, 3)
    rows: Visit = ring.rows
    capacity, episodes, horizon = rows.reward.shape
    b, m, c = config.sac.meta_batch, config.sac.batch, config.context.size
    newest, visits = draw_rows(ring.size, ring.cursor, config.slots or capacity, b, m, row_key)
    step = jax.random.randint(step_key, (b, m), 0, episodes * horizon)
    obs, action, reward, next_obs, terminal, valid = _steps(rows, visits, step)
    weight = valid.astype(reward.dtype)
    batch = sac.Batch(obs, action, reward, next_obs, terminal, weight, weight * rows.weight[visits])
    explored = min(config.context.prior_episodes, episodes) * horizon
    step = jax.random.randint(context_key, (b, c), 0, explored)
    obs, action, reward, next_obs, _, valid = _steps(rows, jnp.broadcast_to(newest[:, None], (b, c)), step)
    return batch, (obs, action, reward, next_obs, valid)


def _gradient_step(
    state: PearlState, networks: sac.Networks, context: _Context, config: PearlConfig,
    ring: replays.Replay, key: Array,
) -> tuple[PearlState, Metrics]:  # fmt: skip
    """Updates critics and encoder, then value, target value and policy (the reference's order)."""
    sample_key, z_key, action_key = jax.random.split(key, 3)
    batch, (*transition, valid) = _sample(config, ring, sample_key)
    lr = state.rates["sac.lr"]

    def critic_loss(learned: Any) -> tuple[Array, tuple[Array, Metrics]]:
        precision, weighted = context.factors(learned["encoder"], *transition)
        # as many transitions as acting counts, also where episodes ended early
        counts = (valid * (valid.shape[1] / jnp.maximum(valid.sum(axis=1, keepdims=True), 1)))[..., None]
        belief = posterior((precision * counts).sum(axis=1), (weighted * counts).sum(axis=1))
        z = belief.sample(seed=z_key)
        by_step = jnp.broadcast_to(z[:, None], (*batch.reward.shape, z.shape[-1]))
        loss = sac.q_loss(networks, config.sac, {**state.params, "q": learned["q"]}, batch, by_step)
        standard = distrax.MultivariateNormalDiag(jnp.zeros_like(z), jnp.ones_like(z))
        kl = belief.kl_divergence(standard).sum()
        metrics = {"q_loss": loss, "kl": kl / z.shape[0], "z_deviation": belief.stddev().mean()}
        return loss + config.context.kl_weight * kl, (by_step, metrics)

    learned = {"encoder": state.params["encoder"], "q": state.params["q"]}
    grads, (z, metrics) = jax.grad(critic_loss, has_aux=True)(learned)
    learned, critic_opt = sac.adam_step(learned, grads, state.opt_state["critic"], lr)
    params, opt_state, more = sac.improve(
        networks, config.sac, {**state.params, **learned}, {**state.opt_state, "critic": critic_opt}, batch,
        jax.lax.stop_gradient(z), action_key, lr,
    )  # fmt: skip
    return state._replace(params=params, opt_state=opt_state), metrics | more


def _update(
    state: PearlState, networks: sac.Networks, context: _Context, config: PearlConfig, rollout: Rollout,
    weights: TaskWeights, key: Array,
) -> tuple[PearlState, Metrics]:  # fmt: skip
    weight = (weights.keep > 0) * weights.loss
    visit = Visit(
        rollout.critic_obs, rollout.action, rollout.reward, rollout.valid, rollout.outcome.diverged, weight
    )
    ring = replays.add(state.replay, visit)
    frames = common.count_frames(state.frames, rollout)
    learner = state._replace(replay=(), frames=frames)

    def step(i: Array, carry: tuple[PearlState, Metrics]) -> tuple[PearlState, Metrics]:
        learner, totals = carry
        learner, metrics = _gradient_step(
            learner, networks, context, config, ring, jax.random.fold_in(key, i)
        )
        return learner, jax.tree.map(jnp.add, totals, metrics)

    _, shapes = jax.eval_shape(lambda s: _gradient_step(s, networks, context, config, ring, key), learner)
    zeros = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), shapes)
    # before learning starts, the loop has 0 steps; a branch might copy the ring
    count = jnp.where(frames >= config.learning_starts, config.sac.updates, 0)
    learner, totals = jax.lax.fori_loop(0, count, step, (learner, zeros))
    metrics = {f"sac/{name}": jnp.where(count > 0, total / count, jnp.nan) for name, total in totals.items()}
    return learner._replace(replay=ring), metrics


def _init(
    key: Array, spec: EnvSpec, networks: sac.Networks, context: _Context, config: PearlConfig
) -> PearlState:
    k, h, d, a = spec.episodes, spec.horizon, spec.critic_size, spec.action.size
    policy_key, encoder_key = jax.random.split(key)
    obs, action, z = jnp.zeros(d), jnp.zeros(a), jnp.zeros(config.context.latent)
    params = networks.init(policy_key, obs, z)
    params["encoder"] = context.encoder.init(encoder_key, *context.inputs(obs, action, jnp.zeros(()), obs))
    critic = {"encoder": params["encoder"], "q": params["q"]}
    opt_state = {name: sac.ADAM.init(params[name]) for name in ("policy", "value")}
    row = Visit(
        jnp.zeros((k, h + 1, d)), jnp.zeros((k, h, a)), jnp.zeros((k, h)), jnp.zeros((k, h), bool),
        jnp.zeros(k, bool), jnp.zeros(()),
    )  # fmt: skip
    return PearlState(
        params,
        opt_state | {"critic": sac.ADAM.init(critic)},
        replays.init(config.buffer_visits, row),
        jnp.zeros((), jnp.int32),
        common.init_rates(config),
    )


def _check(spec: EnvSpec, num_tasks: int, config: PearlConfig) -> None:
    action, prior = spec.action, config.context.prior_episodes
    if spec.episodes <= prior:
        raise ValueError(
            f"context.prior_episodes={prior} are all {spec.episodes} episodes of a task, so that the belief "
            "is never used: raise protocol.episodes or lower it"
        )
    if not isinstance(action, Discrete) and action.squash:
        raise ValueError("agent=pearl squashes its actions itself: use --protocol.action-map raw")
    if config.buffer_visits < num_tasks:
        raise ValueError(
            f"buffer_visits ({config.buffer_visits}) must be at least num_tasks ({num_tasks}), "
            "the number of visits per iteration"
        )
    if config.slots and config.buffer_visits % num_tasks:
        raise ValueError(
            f"with slots, buffer_visits ({config.buffer_visits}) must be a multiple of num_tasks "
            f"({num_tasks})"
        )


def _acting(state: PearlState) -> PearlState:
    """Keeps the parameters of the policy and of the encoder only."""
    params = {name: state.params[name] for name in ("policy", "encoder")}
    return state._replace(params=params, opt_state=(), replay=(), rates={})


@register("pearl")
def make(spec: EnvSpec, num_tasks: int, config: PearlConfig) -> Agent:
    """PEARL for an environment, on N = ``num_tasks`` tasks per meta-iteration.

    Raises:
        ValueError: if no episode follows those that use the prior, if an iteration's visits do not fit into
            the buffer, if ``buffer_visits`` is not a multiple of num_tasks with ``slots``, or if actions
            would be squashed twice.
    """
    _check(spec, num_tasks, config)
    networks = sac.make_networks(spec.action, config.sac, spec.actor_obs)
    latent = config.context.latent
    encoder = sac.Mlp(config.context.layers, (latent, latent))
    context = _Context(config.context, spec.action, encoder, spec.obs_size)

    def begin(state: PearlState, key: Array, n: int) -> PearlBelief:
        zero = jnp.zeros((n, latent))
        z = posterior(zero, zero).sample(seed=key)
        return PearlBelief(zero, zero, jnp.zeros(n), jnp.zeros((), jnp.int32), z)

    def act(
        state: PearlState, belief: PearlBelief, obs: Array, key: Array, greedy: Array
    ) -> tuple[Array, tuple[()]]:
        return networks.act(state.params["policy"], obs, belief.z, key, greedy), ()

    def observe(state: PearlState, belief: PearlBelief, step: Transition) -> PearlBelief:
        transition = step.obs, step.action, step.reward, step.next_obs
        precision, weighted = context.factors(state.params["encoder"], *transition)
        valid = step.valid[:, None]
        return belief._replace(
            precision=belief.precision + jnp.where(valid, precision, 0.0),
            weighted=belief.weighted + jnp.where(valid, weighted, 0.0),
            seen=belief.seen + step.valid,
        )

    def adapt(state: PearlState, belief: PearlBelief, episode: Any, key: Array) -> PearlBelief:
        del episode
        done = belief.episode + 1
        share = config.context.size / jnp.maximum(belief.seen, 1)[:, None]
        informed = jnp.where(done >= config.context.prior_episodes, share, 0.0)
        z = posterior(informed * belief.precision, informed * belief.weighted).sample(seed=key)
        return belief._replace(episode=done, z=z)

    return Agent(
        init=lambda key: _init(key, spec, networks, context, config),
        begin=begin,
        act=act,
        observe=observe,
        adapt=adapt,
        update=lambda state, rollout, weights, key, progress: _update(
            state, networks, context, config, rollout, weights, key
        ),
        acting=_acting,
        # with slots, the number of rows must be a multiple of num_tasks and of slots
        storage=replay_field("buffer_visits", math.lcm(num_tasks, config.slots) if config.slots else 1),
        counters=("frames",),
        unadapted=config.context.prior_episodes,
    )
