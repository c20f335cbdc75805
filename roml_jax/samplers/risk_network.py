"""The risk network of MPTS and PDTS: a neural process that predicts the loss of a task before it is run.

It maps pairs (task x, loss y) to a Gaussian over a latent z, and (x, z) to a predicted loss. It is trained on
the last batch alone; the Gaussian of one step is the prior of the next. Source: Wang et al., "Model
Predictive Task Sampling" (2025, arXiv 2501.11039); the sizes are those of the published code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from roml_jax import checks
from roml_jax.types import Array

_LEAST_STD, _STD_RANGE = 0.1, 0.9


@dataclass(frozen=True)
class RiskNetworkConfig:
    """Options of the risk network."""

    width: int = 10
    """Size of its layers and of its latent."""
    steps: int = 10
    """Gradient steps on each batch of tasks."""
    lr: float = 5e-3
    """Adam's learning rate."""
    kl_weight: float = 1e-4
    """Weight of the divergence of the latent's distribution from that of the step before."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler.network", 1, "width", "steps")
        checks.positive(self, "sampler.network", "lr")
        checks.at_least(self, "sampler.network", 0, "kl_weight")


class Layer(NamedTuple):
    """A linear layer.

    Attributes:
        weights: (inputs, outputs).
        bias: (outputs,).
    """

    weights: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        """Outputs (..., outputs) for x (..., inputs)."""
        y = x @ self.weights
        return y + self.bias.reshape((1,) * (y.ndim - 1) + (-1,))


class Params(NamedTuple):
    """Parameters of the risk network; W is the width.

    Attributes:
        encoder: three layers, from a pair (d + 1) to W numbers.
        summary: (W -> W), of the mean over pairs.
        mean: (W -> W), the latent's mean.
        std: (W -> W), the latent's std before it is squashed.
        decoder: four layers, from a task and a latent (d + W) to one number.
    """

    encoder: tuple[Layer, ...]
    summary: Layer
    mean: Layer
    std: Layer
    decoder: tuple[Layer, ...]


class Latent(NamedTuple):
    """Independent normals over the latent: mean (W,) and std (W,)."""

    mean: Array
    std: Array


class RiskState(NamedTuple):
    """State of the risk network.

    Attributes:
        params: its parameters.
        opt_state: Adam's.
        prior: the latent's distribution at the last gradient step, before its parameters changed.
        posterior: the latent's distribution given the last batch, under the present parameters.
    """

    params: Params
    opt_state: Any
    prior: Latent
    posterior: Latent


class RiskNetwork(NamedTuple):
    """Pure functions of a ``RiskState``.

    Attributes:
        init: (key) -> RiskState.
        update: (RiskState, x (n, d), y (n,), where (n,), key) -> (RiskState, mean squared error ()). Fits the
            pairs that count; without one it changes nothing.
    """

    init: Callable[[Array], RiskState]
    update: Callable[[RiskState, Array, Array, Array, Array], tuple[RiskState, Array]]


def _layer(key: Array, inputs: int, outputs: int, dtype: Any) -> Layer:
    """PyTorch's default initialisation, as in the published code."""
    bound, (weights_key, bias_key) = inputs**-0.5, jax.random.split(key)
    return Layer(
        jax.random.uniform(weights_key, (inputs, outputs), dtype, -bound, bound),
        jax.random.uniform(bias_key, (outputs,), dtype, -bound, bound),
    )


def _layers(key: Array, sizes: tuple[int, ...], dtype: Any) -> tuple[Layer, ...]:
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(_layer(k, *pair, dtype) for k, pair in zip(keys, itertools.pairwise(sizes), strict=True))


def init_params(key: Array, dims: int, width: int, dtype: Any) -> Params:
    """Random parameters for tasks of ``dims`` numbers."""
    keys = jax.random.split(key, 5)
    return Params(
        encoder=_layers(keys[0], (dims + 1, width, width, width), dtype),
        summary=_layer(keys[1], width, width, dtype),
        mean=_layer(keys[2], width, width, dtype),
        std=_layer(keys[3], width, width, dtype),
        decoder=_layers(keys[4], (dims + width, width, width, width, 1), dtype),
    )


def encode(params: Params, x: Array, y: Array, where: Array) -> Latent:
    """The latent's distribution given pairs.

    Args:
        params: of the network.
        x: (n, d) tasks.
        y: (n,) their losses; finite, also those that do not count.
        where: (n,) bool, which pairs count.
    """
    pair = jnp.concatenate([x, y[:, None]], axis=1)
    for layer in params.encoder[:-1]:
        pair = jax.nn.relu(layer(pair))
    pair = params.encoder[-1](pair)
    mean_pair = jnp.where(where[:, None], pair, 0).sum(axis=0) / jnp.maximum(where.sum(), 1)
    summary = jax.nn.relu(params.summary(mean_pair))
    return Latent(params.mean(summary), _LEAST_STD + _STD_RANGE * jax.nn.sigmoid(params.std(summary)))


def decode(params: Params, x: Array, z: Array) -> Array:
    """Predicted losses (s, m) of tasks x (m, d) under latents z (s, W)."""
    first, *rest = params.decoder
    of_task, of_latent = jnp.split(first.weights, [x.shape[1]])
    hidden = (x @ of_task)[None] + (z @ of_latent + first.bias[None])[:, None]
    for layer in rest:
        hidden = layer(jax.nn.relu(hidden))
    return hidden[..., 0]


def draw(latent: Latent, key: Array, n: int) -> Array:
    """Returns n draws (n, W) of the latent."""
    noise = jax.random.normal(key, (n, *latent.mean.shape), latent.mean.dtype)
    return latent.mean[None] + latent.std[None] * noise


def divergence(latent: Latent, prior: Latent) -> Array:
    """KL(latent || prior) () in nats, summed over the latent's numbers."""
    ratio, apart = latent.std / prior.std, (latent.mean - prior.mean) / prior.std
    return (0.5 * (jnp.square(ratio) + jnp.square(apart) - 1) - jnp.log(ratio)).sum()


def loss(
    params: Params, prior: Latent, x: Array, y: Array, where: Array, key: Array, kl_weight: float
) -> tuple[Array, tuple[Array, Latent]]:
    """Mean squared error plus weighted divergence, with one draw of the latent.

    Args:
        params: of the network.
        prior: the latent's distribution at the step before.
        x: (n, d) tasks.
        y: (n,) their losses.
        where: (n,) bool, which pairs count.
        key: of the draw.
        kl_weight: weight of the divergence.

    Returns:
        (loss (), (mean squared error (), the latent's distribution)).
    """
    latent = encode(params, x, y, where)
    apart = jnp.where(where, decode(params, x, draw(latent, key, 1))[0] - y, 0)
    error = jnp.square(apart).sum() / jnp.maximum(where.sum(), 1)
    return error + kl_weight * divergence(latent, prior), (error, latent)


def make(config: RiskNetworkConfig, dims: int, dtype: Any) -> RiskNetwork:
    """A risk network for tasks of ``dims`` numbers, with parameters of type ``dtype``."""
    import optax  # imported late: importing the samplers loads JAX and nothing else

    adam = optax.adam(config.lr)

    def standard() -> Latent:
        return Latent(jnp.zeros(config.width, dtype), jnp.ones(config.width, dtype))

    def init(key: Array) -> RiskState:
        params = init_params(key, dims, config.width, dtype)
        return RiskState(params, adam.init(params), standard(), standard())

    def update(state: RiskState, x: Array, y: Array, where: Array, key: Array) -> tuple[RiskState, Array]:
        def step(carry: tuple[Params, Any, Latent], key: Array) -> tuple[tuple[Params, Any, Latent], Array]:
            params, opt_state, prior = carry
            gradient = jax.grad(loss, has_aux=True)
            grads, (error, latent) = gradient(params, prior, x, y, where, key, config.kl_weight)
            updates, opt_state = adam.update(grads, opt_state, params)
            return (cast(Params, optax.apply_updates(params, updates)), opt_state, latent), error

        keys = jax.random.split(key, config.steps)
        (params, opt_state, prior), errors = jax.lax.scan(step, tuple(state)[:3], keys)
        after = RiskState(params, opt_state, prior, encode(params, x, y, where))
        counts = where.any()
        return jax.tree.map(lambda new, old: jnp.where(counts, new, old), after, state), errors[-1]

    return RiskNetwork(init, update)
