"""Proximal policy optimisation: advantages, losses and the epochs of updates, as small functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from roml_jax import checks
from roml_jax.agents import common
from roml_jax.networks import TrunkInit
from roml_jax.registry import leaf
from roml_jax.types import Array, Metrics, Table

Credit = Literal["episode", "task"]


@dataclass(frozen=True)
class PpoConfig:
    """Options of the policy: its networks and its optimisation by PPO."""

    lr: float = leaf(7e-4)
    """Adam's learning rate."""
    anneal_lr: bool = False
    """Decrease the learning rate linearly to 0 over the training."""
    epochs: int = 2
    """Passes over each iteration's transitions."""
    minibatches: int = 8
    """Minibatches per pass, from a new permutation of the transitions."""
    clip: float = 0.1
    """Clip range of the probability ratio and of the value's change."""
    value_coef: float = 0.5
    """Weight of the value loss (which is half a Huber loss)."""
    entropy_coef: float = leaf(0.01)
    """Weight of the entropy bonus."""
    gamma: float = 0.97
    """Discount."""
    gae_lambda: float = 0.9
    """Decay of generalised advantage estimation."""
    credit: Credit = "episode"
    """Range of rewards in an action's advantage: 'episode', to the end of its episode without the last reward
    (the reference for VariBAD); 'task', over all episodes, so that exploration is credited with later
    returns."""
    max_grad_norm: float = 0.5
    """Maximum norm of the joint gradient of all parameters that the losses train."""
    layers: tuple[int, ...] = (128, 128)
    """Hidden sizes of the actor's and of the critic's trunk."""
    obs_embedding: int | None = 64
    """Size of the observation's tanh embedding; None for none."""
    latent_embedding: int | None = 64
    """Size of the latent's tanh embedding; None for none."""
    init: TrunkInit = "normc"
    """Initialisation of the trunks."""
    normalise_latent: bool = True
    """Normalise the policy's latent by its running statistics."""

    def __post_init__(self) -> None:
        checks.at_least(
            self, "ppo", 1, "epochs", "minibatches", "layers", "obs_embedding", "latent_embedding"
        )
        checks.at_least(self, "ppo", 0, "value_coef", "entropy_coef")
        checks.share(self, "ppo", "gamma", "gae_lambda")
        checks.positive(self, "ppo", "lr", "clip", "max_grad_norm")


class Judged(NamedTuple):
    """Log-probs, entropies and values of a policy for recorded actions, (...) each."""

    log_prob: Array
    entropy: Array
    value: Array


Judge = Callable[[Any, Any, Array], Judged]
"""(parameters, inputs, actions (..., A)) -> Judged."""


class PpoBatch(NamedTuple):
    """Training data, leaves (M, ...): M transitions, or M tasks with all their T steps.

    Attributes:
        inputs: pytree of the policy's inputs, or of data from which ``Judge`` computes them.
        action: (M, A) or (M, T, A).
        log_prob: (M,) or (M, T), as all fields below; under the policy that acted.
        value: value predicted when the action was chosen.
        return_: value target.
        advantage: normalised over the batch.
        weight: weight of each transition in the losses; 1 unless the sampler weighs tasks, 0 where not valid.
        valid: whether the transition happened.
    """

    inputs: Any
    action: Array
    log_prob: Array
    value: Array
    return_: Array
    advantage: Array
    weight: Array
    valid: Array


def gae(reward: Array, value: Array, keep: Array, gamma: float, gae_lambda: float) -> Array:
    """Generalised advantage estimation within episodes.

    Advantages do not cross an episode's end, and values are not bootstrapped across it. Where ``keep`` is 0
    the advantage is 0, so the value target is the predicted value (the reference treats time limits this
    way, which drops each episode's last reward). ``keep`` must be 0 at the last step of an episode.

    Args:
        reward: (..., H).
        value: (..., H) of the observations that actions were chosen from.
        keep: (..., H) 0 or 1.
        gamma: discount.
        gae_lambda: decay.

    Returns:
        (..., H) advantages.
    """
    next_value = jnp.concatenate([value[..., 1:], jnp.zeros_like(value[..., :1])], axis=-1)
    delta = reward + gamma * next_value - value
    return _sums_backward(delta * keep, gamma * gae_lambda * keep)


def _sums_backward(x: Array, decay: Array) -> Array:
    """Sums s (..., T) with s_t = x_t + decay_t * s_(t+1), for x and decay (..., T).

    By doubling: after k rounds, a sum covers 2^k steps. On a GPU, a turn of a loop over steps is a launch.
    """
    steps, reach = x.shape[-1], 1

    def later(y: Array) -> Array:
        return jnp.concatenate([y[..., reach:], jnp.zeros_like(y[..., :reach])], axis=-1)

    while reach < steps:
        x, decay, reach = x + decay * later(x), decay * later(decay), 2 * reach
    return x


def gae_over_task(
    reward: Array, value: Array, valid: Array, cut: Array, gamma: float, gae_lambda: float
) -> Array:
    """Generalised advantage estimation over all episodes of a task; an episode's end is an ordinary step.

    The value after the last step of the last episode is 0. Steps after an early end are skipped: the last
    valid step is followed by the first step of the next episode.

    Args:
        reward: (..., T) over all episodes in sequence.
        value: (..., T) of the observations that actions were chosen from.
        valid: (..., T) bool.
        cut: (..., T) bool, steps after which nothing is known: their advantage is 0, as at a time limit of
            ``gae``, and no advantage crosses them.
        gamma: discount.
        gae_lambda: decay.

    Returns:
        (..., T) advantages, 0 where not valid or cut.
    """
    skip = jnp.where(valid, 0.0, 1.0).astype(value.dtype)
    following = _sums_backward(jnp.where(valid, value, 0.0), skip)  # the next valid value, from here on
    next_value = jnp.concatenate([following[..., 1:], jnp.zeros_like(value[..., :1])], axis=-1)
    delta = reward + gamma * next_value - value
    decay = jnp.where(cut, 0.0, jnp.where(valid, gamma * gae_lambda, 1.0)).astype(value.dtype)
    return jnp.where(valid, _sums_backward(jnp.where(valid & ~cut, delta, 0.0), decay), 0.0)


def weighted_mean(x: Array, weight: Array) -> Array:
    """Weighted mean of x, with weights of the same shape; 0 if all weights are 0."""
    return (x * weight).sum() / jnp.maximum(weight.sum(), 1e-8)


def normalise_advantage(advantage: Array, weight: Array) -> Array:
    """Advantages with weighted mean 0 and (unbiased) weighted std 1 over the whole batch; one shape."""
    apart = advantage - weighted_mean(advantage, weight)
    variance = (weight * jnp.square(apart)).sum() / jnp.maximum(weight.sum() - 1, 1)
    return apart / (jnp.sqrt(variance) + 1e-5)


def value_losses(value: Array, old_value: Array, return_: Array, clip: float) -> Array:
    """Half the larger of two Huber losses, of the value and of the clipped value, (M,)."""
    clipped = old_value + jnp.clip(value - old_value, -clip, clip)
    return 0.5 * jnp.maximum(optax.huber_loss(value, return_), optax.huber_loss(clipped, return_))


def loss(
    params: Any, judge: Judge, batch: PpoBatch, config: PpoConfig, entropy_coef: Array
) -> tuple[Array, Metrics]:
    """PPO's clipped surrogate loss with value and entropy terms, on a minibatch (M, ...)."""
    log_prob, entropies, value = judge(params, batch.inputs, batch.action)
    log_ratio = log_prob - batch.log_prob
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    policy = -weighted_mean(jnp.minimum(ratio * batch.advantage, clipped * batch.advantage), batch.weight)
    critic = weighted_mean(value_losses(value, batch.value, batch.return_, config.clip), batch.weight)
    entropy = weighted_mean(entropies, batch.weight)
    metrics = {
        "policy_loss": policy,
        "value_loss": critic,
        "entropy": entropy,
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_share": (jnp.abs(ratio - 1) > config.clip).mean(dtype=ratio.dtype),
    }
    return policy + config.value_coef * critic - entropy_coef * entropy, metrics


def optimiser(config: PpoConfig) -> optax.GradientTransformation:
    """Norm clipping and Adam without the learning rate, which is a leaf and may be vmapped over."""
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=1e-8))


def init_optimiser(config: PpoConfig, params: Any) -> Any:
    """The optimiser's state for parameters as one vector.

    Leaf by leaf, an optimiser's operations would be a kernel for every leaf, to compile and to launch.
    """
    return optimiser(config).init(ravel_pytree(params)[0])


def _share(part: PpoBatch, batch: PpoBatch) -> Array:
    """The mean weight of a minibatch's steps relative to that of the batch, ().

    The losses are means within a minibatch, in which a task's weight cancels if it is alone. Transitions of
    all tasks together have nearly the batch's mean weight; their share is 1.
    """
    if batch.weight.ndim == 1:
        return jnp.ones((), batch.weight.dtype)

    def mean(of: PpoBatch) -> Array:
        return of.weight.sum() / jnp.maximum(of.valid.sum(), 1)

    whole = mean(batch)
    return jnp.where(whole > 0, mean(part) / whole, 0.0)


def update(
    params: Any,
    opt_state: Any,
    judge: Judge,
    batch: PpoBatch,
    config: PpoConfig,
    *,
    lr: Array,
    entropy_coef: Array,
    key: Array,
) -> tuple[Any, Any, Metrics]:
    """Runs all epochs on a batch of M transitions or tasks; M must be a multiple of ``config.minibatches``.

    A minibatch in which every weight is 0 changes nothing.

    Returns:
        (params, opt_state, metrics averaged over the gradient steps).
    """
    total = batch.action.shape[0]
    size = total // config.minibatches
    transform = optimiser(config)
    grad = jax.value_and_grad(loss, has_aux=True)

    vector, params_of = ravel_pytree(params)

    def minibatch(carry: tuple[Array, Any], index: Array) -> tuple[tuple[Array, Any], Table]:
        vector, opt_state = carry
        part = jax.tree.map(lambda x: x[index], batch)
        (_, metrics), grads = grad(params_of(vector), judge, part, config, entropy_coef)
        flat = _share(part, batch) * ravel_pytree(grads)[0]
        update, after = transform.update(flat, opt_state, vector)
        metrics = Table.of(metrics | {"grad_norm": optax.global_norm(flat)})
        return common.if_weighed(part.weight, (vector - lr * cast(Array, update), after), carry), metrics

    keys = jax.random.split(key, config.epochs)
    # one sort by 32 random bits; ``permutation`` sorts twice, for ties, which one batch of 4,096 in 500 has
    order = jax.vmap(lambda k: jnp.argsort(jax.random.bits(k, (total,))))(keys)
    index = order.reshape(config.epochs * config.minibatches, size)
    (vector, opt_state), metrics = jax.lax.scan(minibatch, (vector, opt_state), index)
    return params_of(vector), opt_state, common.averaged(metrics)
