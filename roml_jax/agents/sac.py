"""Soft actor-critic as PEARL runs it: two Q networks, a value network, a target value network and a policy.

Every network's input contains the observation and a latent z; that of the Q and value networks also contains
the privileged parts, if the environment has any. The temperature is 1; ``reward_scale`` sets
the weight of rewards against entropy. Continuous actions are tanh of a Gaussian, rescaled to the action
range. For discrete actions, exact expectations replace samples. Source: Rakelly et al. 2019, and their code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from roml_jax import checks
from roml_jax.agents import common
from roml_jax.agents.ppo import weighted_mean
from roml_jax.networks import Network, choose_category, dense
from roml_jax.registry import leaf
from roml_jax.types import Array, Continuous, Discrete, Metrics

_LOG_STD = (-20.0, 2.0)
_OUT, _HEAD = 3e-3, 1e-3  # bounds of the initial weights of a last layer and of a policy head


@dataclass(frozen=True)
class SacConfig:
    """Options of the actor and the critics: networks and optimisation."""

    layers: tuple[int, ...] = (300, 300, 300)
    """Hidden sizes of every network."""
    lr: float = leaf(3e-4)
    """Adam's learning rate for all networks and the context encoder."""
    gamma: float = 0.99
    """Discount."""
    tau: float = 0.005
    """Step size of the target value network toward the value network, per gradient step."""
    reward_scale: float = 5.0
    """Factor on rewards; the entropy has weight 1."""
    regularisation: float = 1e-3
    """Weight of the penalty on the mean square of the policy's means (or logits) and of its log-stds."""
    updates: int = 2000
    """Gradient steps per meta-iteration."""
    meta_batch: int = 16
    """Tasks per gradient step."""
    batch: int = 256
    """Transitions per task and gradient step."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sac", 1, "layers", "updates", "meta_batch", "batch")
        checks.at_least(self, "sac", 0, "regularisation")
        checks.share(self, "sac", "gamma")
        checks.share(self, "sac", "tau", zero=False)
        checks.positive(self, "sac", "lr", "reward_scale")


class Batch(NamedTuple):
    """Transitions of B tasks, M of each.

    Attributes:
        obs: (B, M, D + P), of which the policy sees the first D numbers.
        action: (B, M, A) executed actions; a discrete one is one float.
        reward: (B, M) raw.
        next_obs: (B, M, D + P).
        terminal: (B, M) 1 at an early end, where the next value is 0; else 0.
        weight: (B, M) 0 for steps that do not count.
        policy_weight: (B, M) weight in the policy's loss.
    """

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    terminal: Array
    weight: Array
    policy_weight: Array


def _uniform(bound: float) -> Callable[..., Array]:
    return lambda key, shape, dtype=float: jax.random.uniform(key, shape, dtype, -bound, bound)


class Mlp(Network):
    """A ReLU network initialised as in rlkit: hidden weights within 1 / sqrt(outputs), hidden biases 0.1."""

    layers: Sequence[int]
    outputs: Sequence[int] = (1,)
    bound: float = _OUT

    @nn.compact
    def __call__(self, *parts: Array) -> tuple[Array, ...]:
        """One array (..., size) per output, for parts (..., F) that are concatenated."""
        x = jnp.concatenate(parts, axis=-1)
        for size in self.layers:
            init = _uniform(size**-0.5)
            x = nn.relu(dense(size, kernel_init=init, bias_init=nn.initializers.constant(0.1))(x))
        init = _uniform(self.bound)
        return tuple(dense(size, kernel_init=init, bias_init=init)(x) for size in self.outputs)


class Choice(NamedTuple):
    """A policy's action, or its distribution over discrete actions, at observations (...).

    Attributes:
        action: (..., A); None for discrete actions.
        log_prob: (...) of the action; (..., n) of every discrete action.
        entropy: (...) an estimate from the action; exact for discrete actions.
        penalty: (...) mean squares of the distribution's parameters.
    """

    action: Array | None
    log_prob: Array
    entropy: Array
    penalty: Array


class Networks(NamedTuple):
    """The modules for an action space; parameters are {"policy", "q", "value", "target"}.

    ``actor_obs`` is D if the critics see more than the policy, else None. Observations are (..., D + P); the
    policy also takes (..., D).
    """

    action: Discrete | Continuous
    policy: Mlp
    q: Mlp
    value: Mlp
    actor_obs: int | None = None

    @property
    def _scale(self) -> tuple[float | Array, float | Array]:
        assert isinstance(self.action, Continuous)
        low, high = self.action.bounds
        return (high + low) / 2, (high - low) / 2

    def actor_sees(self, obs: Array) -> Array:
        """The numbers (..., D) of an observation that the policy sees."""
        return obs if self.actor_obs is None else obs[..., : self.actor_obs]

    def init(self, key: Array, obs: Array, latent: Array) -> dict[str, Any]:
        """Initial parameters, for an example of an observation (D + P,) and of a latent (L,)."""
        policy_key, q_key, value_key = jax.random.split(key, 3)
        taken = () if isinstance(self.action, Discrete) else (jnp.zeros(self.action.size),)
        value = self.value.init(value_key, obs, latent)
        return {
            "policy": self.policy.init(policy_key, self.actor_sees(obs), latent),
            "q": jax.vmap(lambda k: self.q.init(k, obs, latent, *taken))(jax.random.split(q_key)),
            "value": value,
            "target": jax.tree.map(jnp.copy, value),
        }

    def act(self, policy: Any, obs: Array, latent: Array, key: Array, greedy: Array) -> Array:
        """Actions (N, A) for the environment: sampled, or the distribution's mode where ``greedy``."""
        if isinstance(self.action, Discrete):
            (logits,) = self.policy.apply(policy, self.actor_sees(obs), latent)
            chosen = choose_category(logits, key, greedy)
            return chosen[..., None].astype(obs.dtype)
        mean, std = self._gaussian(policy, obs, latent)
        middle, half = self._scale
        u = mean + jnp.where(greedy, 0.0, std) * jax.random.normal(key, mean.shape, mean.dtype)
        return middle + half * jnp.tanh(u)

    def _gaussian(self, policy: Any, obs: Array, latent: Array) -> tuple[Array, Array]:
        mean, log_std = self.policy.apply(policy, self.actor_sees(obs), latent)
        return mean, jnp.exp(jnp.clip(log_std, *_LOG_STD))

    def choose(self, policy: Any, obs: Array, latent: Array, key: Array) -> Choice:
        """A reparametrised action with its log-prob; for discrete actions, the log-prob of every action."""
        if isinstance(self.action, Discrete):
            (logits,) = self.policy.apply(policy, self.actor_sees(obs), latent)
            log_prob = jax.nn.log_softmax(logits)
            entropy = -(jnp.exp(log_prob) * log_prob).sum(axis=-1)
            return Choice(None, log_prob, entropy, jnp.square(logits).mean(axis=-1))
        mean, std = self._gaussian(policy, obs, latent)
        squashed = distrax.Transformed(
            distrax.MultivariateNormalDiag(mean, std), distrax.Block(distrax.Tanh(), 1)
        )
        action, log_prob = cast(tuple[Array, Array], squashed.sample_and_log_prob(seed=key))
        middle, half = self._scale
        penalty = jnp.square(mean).mean(axis=-1) + jnp.square(jnp.log(std)).mean(axis=-1)
        return Choice(middle + half * action, log_prob, -log_prob, penalty)

    def q_of(self, q: Any, obs: Array, latent: Array, action: Array) -> Array:
        """Both critics' values (2, ...) of actions (..., A)."""
        if isinstance(self.action, Continuous):
            return jax.vmap(lambda p: self.q.apply(p, obs, latent, action)[0][..., 0])(q)
        index = action.astype(jnp.int32)
        return jax.vmap(
            lambda p: jnp.take_along_axis(self.q.apply(p, obs, latent)[0], index, axis=-1)[..., 0]
        )(q)

    def soft_q(self, q: Any, obs: Array, latent: Array, choice: Choice) -> Array:
        """The smaller of both critics' values minus the log-prob, (...), in expectation over the choice."""
        if choice.action is not None:
            return self.q_of(q, obs, latent, choice.action).min(axis=0) - choice.log_prob
        every = jax.vmap(lambda p: self.q.apply(p, obs, latent)[0])(q).min(axis=0)
        return (jnp.exp(choice.log_prob) * every).sum(axis=-1) + choice.entropy

    def value_of(self, value: Any, obs: Array, latent: Array) -> Array:
        """The value network's output, (...)."""
        return self.value.apply(value, obs, latent)[0][..., 0]


def make_networks(action: Discrete | Continuous, config: SacConfig, actor_obs: int | None = None) -> Networks:
    """The modules for an action space, with the configured sizes; ``actor_obs`` as in ``Networks``.

    Raises:
        ValueError: for continuous actions without limits; one line.
    """
    discrete = isinstance(action, Discrete)
    if not discrete and not all(np.isfinite(end).all() for end in (action.low, action.high)):
        raise ValueError(
            f"this agent needs actions with limits, but the range is [{action.low}, {action.high}]: give "
            "every actuator a ctrlrange, or the environment an action= with a scale"
        )
    heads = (action.n,) if discrete else (action.size, action.size)
    return Networks(
        action,
        Mlp(config.layers, heads, _HEAD),
        Mlp(config.layers, (action.n if discrete else 1,)),
        Mlp(config.layers),
        actor_obs,
    )


def q_loss(networks: Networks, config: SacConfig, params: Any, batch: Batch, z: Array) -> Array:
    """Squared errors of both critics against targets from the target network; z (B, M, L) gets gradients."""
    follows = networks.value_of(params["target"], batch.next_obs, jax.lax.stop_gradient(z))
    target = config.reward_scale * batch.reward + config.gamma * (1 - batch.terminal) * follows
    error = networks.q_of(params["q"], batch.obs, z, batch.action) - jax.lax.stop_gradient(target)
    return weighted_mean(jnp.square(error).sum(axis=0), batch.weight)


def improve(
    networks: Networks, config: SacConfig, params: Any, opt_state: Any, batch: Batch, z: Array, key: Array,
    lr: Array,
) -> tuple[Any, Any, Metrics]:  # fmt: skip
    """One step of the value network, its target and the policy, after the critics' step.

    Args:
        networks: modules.
        config: options.
        params: {"policy", "q", "value", "target"}.
        opt_state: {"policy", "value"}.
        batch: transitions.
        z: (B, M, L) without gradient.
        key: randomness of the policy's actions, the same for both losses.
        lr: () learning rate.

    Returns:
        (params, opt_state, metrics).
    """

    def value_loss(value: Any) -> Array:
        choice = networks.choose(params["policy"], batch.obs, z, key)
        target = jax.lax.stop_gradient(networks.soft_q(params["q"], batch.obs, z, choice))
        return weighted_mean(jnp.square(networks.value_of(value, batch.obs, z) - target), batch.weight)

    def policy_loss(policy: Any) -> tuple[Array, Array]:
        choice = networks.choose(policy, batch.obs, z, key)
        loss = config.regularisation * choice.penalty - networks.soft_q(params["q"], batch.obs, z, choice)
        return weighted_mean(loss, batch.policy_weight), weighted_mean(choice.entropy, batch.weight)

    loss, grads = jax.value_and_grad(value_loss)(params["value"])
    value, value_opt = adam_step(params["value"], grads, opt_state["value"], lr)
    target = jax.tree.map(lambda slow, new: slow + config.tau * (new - slow), params["target"], value)
    (actor_loss, entropy), grads = jax.value_and_grad(policy_loss, has_aux=True)(params["policy"])
    before = params["policy"], opt_state["policy"]
    policy, policy_opt = common.if_weighed(
        batch.policy_weight, adam_step(before[0], grads, before[1], lr), before
    )
    params = {**params, "value": value, "target": target, "policy": policy}
    metrics = {"value_loss": loss, "policy_loss": actor_loss, "entropy": entropy}
    return params, {**opt_state, "value": value_opt, "policy": policy_opt}, metrics


ADAM = optax.scale_by_adam(eps=1e-8)


def adam_step(params: Any, grads: Any, opt_state: Any, lr: Array) -> tuple[Any, Any]:
    """One step of Adam with learning rate ``lr`` (); returns (params, opt_state)."""
    updates, opt_state = ADAM.update(grads, opt_state, params)
    return optax.apply_updates(params, jax.tree.map(lambda u: -lr * u, updates)), opt_state
