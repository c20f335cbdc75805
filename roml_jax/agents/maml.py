"""MAML: a policy that adapts to a task by gradient steps between episodes, meta-learned through these steps.

The policy of a later episode depends on the earlier episodes, as a recurrent policy's does: its memory is
its parameters, and its memory update is a policy-gradient step. The meta-gradient is the policy gradient of
this history-dependent policy, d/d theta of sum_t log pi(a_t | history; theta) A_t, differentiated through
the gradient steps inside log pi. This is E-MAML's surrogate (Stadie et al. 2018), which is unbiased for the
adaptation that runs here, by sampled gradients. It contains MAML's second-order term and, unlike MAML, the
score function of the exploring episodes times the later returns that they lead to. DiCE-like surrogates
differentiate the expected inner gradient instead, which is not the adaptation that runs here.

Source: Finn et al. 2017; PPO for the outer steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks
from roml_jax.agents import common, on_policy, ppo
from roml_jax.agents.base import Agent, register
from roml_jax.agents.ppo import PpoConfig
from roml_jax.networks import ActorCritic, action_log_prob, choose_action
from roml_jax.registry import leaf
from roml_jax.types import Array, EnvSpec, Metrics, Rollout, TaskWeights, Transition

_LEAST_STEPS = 3  # of an episode; a line through two returns leaves nothing


def _ppo_config() -> PpoConfig:
    """MAML's defaults: credit crosses episodes, since exploring episodes pay off in later ones."""
    return PpoConfig(credit="task")


@dataclass(frozen=True)
class MamlConfig:
    """Options of MAML's inner steps and of the outer optimisation."""

    ppo: PpoConfig = field(default_factory=_ppo_config)
    inner_lr: float = leaf(0.1)
    """Learning rate of the inner gradient steps."""
    inner_steps: int = 1
    """Inner gradient steps per task; the episodes after the last step use the adapted policy."""
    inner_episodes: int = 1
    """Episodes per inner step."""
    inner_normalise: bool = True
    """Divide a task's inner advantages by their standard deviation."""
    first_order: bool = False
    """Treat the inner gradients as constants in the meta-gradient (first-order MAML)."""
    exploration_counts: bool = False
    """Maximise the return of all episodes, not only of those after the last inner step."""

    def __post_init__(self) -> None:
        checks.at_least(self, "", 1, "inner_steps", "inner_episodes")
        checks.positive(self, "", "inner_lr")

    @property
    def exploring(self) -> int:
        """Number of episodes before the last inner step."""
        return self.inner_steps * self.inner_episodes


class Adapted(NamedTuple):
    """The state of a task's adaptation.

    Attributes:
        params: the current, adapted parameters.
        gradient: sum over the episodes since the last inner step.
        episodes: () number of episodes so far.
    """

    params: Any
    gradient: Any
    episodes: Array


class Episode(NamedTuple):
    """One task's episode, as an inner step uses it.

    Attributes:
        obs: (H, D) normalised; (H, D + P) in learning, whose last P numbers only the critic sees.
        action: (H, A).
        advantage: (H,).
        valid: (H,) bool.
    """

    obs: Array
    action: Array
    advantage: Array
    valid: Array


def inner_advantage(reward: Array, valid: Array, gamma: float, normalise: bool) -> Array:
    """Discounted returns to the episode's end, minus their least-squares line in time.

    The baseline comes from the episode itself, since the critic predicts the returns after adaptation.
    (MAML's own code also fits features of the observations, over many episodes; here a step may have only
    one episode.)

    Args:
        reward: (..., H), 0 where not valid.
        valid: (..., H) bool.
        gamma: discount.
        normalise: divide by the standard deviation.

    Returns:
        (..., H), 0 where not valid.
    """

    def backward(later: Array, now: Array) -> tuple[Array, Array]:
        total = now + gamma * later
        return total, total

    _, to_come = jax.lax.scan(
        backward, jnp.zeros_like(reward[..., 0]), jnp.moveaxis(reward, -1, 0), reverse=True
    )
    to_come, weight = jnp.moveaxis(to_come, 0, -1), valid.astype(reward.dtype)
    count = jnp.maximum(weight.sum(axis=-1, keepdims=True), 1)

    def centred(x: Array) -> Array:
        return weight * (x - (weight * x).sum(axis=-1, keepdims=True) / count)

    time = centred(jnp.broadcast_to(jnp.arange(reward.shape[-1], dtype=reward.dtype), reward.shape))
    apart = centred(to_come)
    spread = jnp.maximum(jnp.square(time).sum(axis=-1, keepdims=True), 1e-8)
    advantage = apart - time * (time * apart).sum(axis=-1, keepdims=True) / spread
    if not normalise:
        return advantage
    return advantage / (jnp.sqrt(jnp.square(advantage).sum(axis=-1, keepdims=True) / count) + 1e-5)


def _nothing(x: Array) -> Array:
    """An empty latent (..., 0) for observations (..., D)."""
    return x[..., :0]


def inner_objective(policy: ActorCritic, params: Any, episode: Episode) -> Array:
    """Mean of log-probability times advantage; its gradient in ``params`` is a policy gradient."""
    distribution, _ = policy.apply(params, episode.obs, _nothing(episode.obs))
    log_prob = action_log_prob(policy.action, distribution, episode.action)
    return ppo.weighted_mean(log_prob * episode.advantage, episode.valid.astype(log_prob.dtype))


def start(params: Any) -> Adapted:
    """The state before adaptation."""
    return Adapted(params, jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32))


def adapt(policy: ActorCritic, config: MamlConfig, lr: Array, adapted: Adapted, episode: Episode) -> Adapted:
    """Adds the gradient of one task's episode, and takes an inner step after ``inner_episodes`` episodes."""
    gradient = jax.grad(lambda p: inner_objective(policy, p, episode))(adapted.params)
    if config.first_order:
        gradient = jax.lax.stop_gradient(gradient)
    gradient = jax.tree.map(jnp.add, adapted.gradient, gradient)
    episodes = adapted.episodes + 1
    due = (episodes % config.inner_episodes == 0) & (episodes <= config.exploring)
    step = jnp.where(due, lr / config.inner_episodes, 0.0)
    params = jax.tree.map(lambda p, g: p + step * g, adapted.params, gradient)
    return Adapted(params, jax.tree.map(lambda g: jnp.where(due, 0.0, g), gradient), episodes)


def judge_task(
    policy: ActorCritic, config: MamlConfig, lr: Array, params: Any, episodes: Episode
) -> ppo.Judged:
    """Evaluates the adapting policy on one task's episodes, leaves (K, H, ...); results are (K H,) each.

    Values come from the parameters before adaptation.
    """

    def one(adapted: Adapted, episode: Episode) -> tuple[Adapted, tuple[Array, Array]]:
        distribution, _ = policy.apply(adapted.params, episode.obs, _nothing(episode.obs))
        log_prob = action_log_prob(policy.action, distribution, episode.action)
        return adapt(policy, config, lr, adapted, episode), (log_prob, distribution.entropy())

    _, (log_prob, entropy) = jax.lax.scan(one, start(params), episodes)
    _, value = policy.apply(params, episodes.obs, _nothing(episodes.obs))
    return ppo.Judged(log_prob.reshape(-1), entropy.reshape(-1), value.reshape(-1))


def _update(
    state: on_policy.Learned, policy: ActorCritic, config: MamlConfig, rollout: Rollout, weights: TaskWeights,
    key: Array, progress: Array,
) -> tuple[on_policy.Learned, Metrics]:  # fmt: skip
    """PPO on whole tasks, with the statistics that acted; the statistics are updated afterwards."""
    n, k, h = rollout.reward.shape
    acted = state.statistics
    stats, reward = on_policy.scaled_rewards(acted, rollout, config.ppo.gamma)
    counts = jnp.arange(k) >= (0 if config.exploration_counts else config.exploring)
    reward = reward * counts[:, None]
    obs = on_policy.normalise_obs(acted, rollout.critic_obs[:, :, :-1])
    raw = on_policy.scale_reward(acted.return_, rollout.reward * rollout.valid)
    advantage = inner_advantage(raw, rollout.valid, config.ppo.gamma, config.inner_normalise)
    _, value = policy.apply(state.params, obs, _nothing(obs))
    batch = on_policy.make_batch(
        config.ppo, rollout, reward, weights, (obs, advantage, rollout.valid),
        rollout.extras.reshape(n, k * h), value,
    )  # fmt: skip

    def judge(params: Any, inputs: tuple[Array, Array, Array], action: Array) -> ppo.Judged:
        obs, advantage, valid = inputs
        episodes = Episode(obs, action.reshape(*valid.shape, -1), advantage, valid)
        one = lambda task: judge_task(policy, config, state.rates["inner_lr"], params, task)  # noqa: E731
        return jax.vmap(one)(episodes)

    learned, metrics = on_policy.run_ppo(config.ppo, state, judge, batch, key, progress)
    stats = on_policy.update_statistics(stats, rollout, _nothing(rollout.obs[:, :, :-1]))
    gained = rollout.outcome.returns[:, -1] - rollout.outcome.returns[:, 0]
    metrics = {f"ppo/{name}": value for name, value in metrics.items()}
    return learned._replace(statistics=stats), metrics | {"train/gained": gained.mean()}


def _check(spec: EnvSpec, config: MamlConfig) -> None:
    if spec.episodes <= config.exploring:
        raise ValueError(
            f"{config.inner_steps} inner step(s) of {config.inner_episodes} episode(s) use all "
            f"{spec.episodes} episodes of a task, and none is left after adaptation: raise protocol.episodes"
        )
    if spec.horizon < _LEAST_STEPS:
        raise ValueError(
            f"agent=maml needs episodes of at least {_LEAST_STEPS} steps, since a line through the returns "
            f"is taken off, and these have {spec.horizon}: use another agent"
        )


@register("maml")
def make(spec: EnvSpec, num_tasks: int, config: MamlConfig) -> Agent:
    """MAML for an environment, on N = ``num_tasks`` tasks per meta-iteration.

    Raises:
        ValueError: if no episode follows the last inner step, episodes have fewer than three steps, or tasks
            do not divide into minibatches.
    """
    on_policy.check_minibatches(spec, num_tasks, config.ppo, whole_tasks=True)
    _check(spec, config)
    policy = on_policy.make_policy(spec, config.ppo, 0)

    def init(key: Array) -> on_policy.Learned:
        params = policy.init(key, jnp.zeros(spec.critic_size), jnp.zeros(0))
        stats = on_policy.init_statistics(spec.critic_size, 0)
        return on_policy.init_learned(params, config.ppo, stats, common.init_rates(config))

    def begin(state: on_policy.Learned, key: Array, n: int) -> Adapted:
        del key
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), start(state.params))

    def act(
        state: on_policy.Learned, belief: Adapted, obs: Array, key: Array, greedy: Array
    ) -> tuple[Array, Array]:
        obs = on_policy.normalise_obs(state.statistics, obs)

        def one(params: Any, obs: Array, key: Array) -> tuple[Array, Array]:
            distribution, _ = policy.apply(params, obs, _nothing(obs))
            action = choose_action(policy.action, distribution, key, greedy)
            return action, action_log_prob(policy.action, distribution, action)

        return jax.vmap(one)(belief.params, obs, jax.random.split(key, obs.shape[0]))

    def between(
        state: on_policy.Learned, belief: Adapted, episode: tuple[Transition, Any], key: Array
    ) -> Adapted:
        del key
        seen = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), episode[0])
        reward = on_policy.scale_reward(state.statistics.return_, seen.reward * seen.valid)
        advantage = inner_advantage(reward, seen.valid, config.ppo.gamma, config.inner_normalise)
        obs = on_policy.normalise_obs(state.statistics, seen.obs)
        lr = state.rates["inner_lr"]
        return jax.vmap(lambda b, e: adapt(policy, config, lr, b, e))(
            belief, Episode(obs, seen.action, advantage, seen.valid)
        )

    return Agent(
        init=init,
        begin=begin,
        act=act,
        observe=lambda state, belief, step: belief,
        adapt=between,
        update=lambda state, rollout, weights, key, progress: _update(
            state, policy, config, rollout, weights, key, progress
        ),
        acting=lambda state: state._replace(opt_state=()),
        exploring=config.exploring,
        unadapted=config.exploring,
    )
