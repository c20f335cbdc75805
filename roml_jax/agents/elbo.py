"""The loss of VariBAD's variational auto-encoder: what its beliefs decode, and the KL terms."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from roml_jax.agents.history import Trajectory
from roml_jax.agents.vae import Decoders, Encoder, Posterior, StepDecoder, TaskDecoder, VaeConfig
from roml_jax.types import Array, Metrics

_WHOLE, _BLOCK = 25_000, 10_000  # predictions: up to so many are made at once, and else so many per block


def kl_chain(posterior: Posterior) -> Array:
    """KL(q_t || q_{t-1}) along (B, T + 1, L), with q_{-1} the standard normal: (B, T + 1)."""
    zero = jnp.zeros_like(posterior.mean[:, :1])
    previous = jax.tree.map(lambda x: jnp.concatenate([zero, x[:, :-1]], axis=1), posterior)
    return cast(Array, posterior.distribution().kl_divergence(previous.distribution()))


@jax.custom_vjp
def take_steps(x: Array, index: Array) -> Array:
    """Rows ``x[b, index[b]]`` of x (B, T, F) at index (B, M): (B, M, F).

    The gradient is a segment sum per trajectory. The automatic gradient (a scatter-add over both axes) and a
    product with one-hot rows are both several times slower on a CPU.
    """
    return jnp.take_along_axis(x, index[..., None], axis=1)


def _take_steps_forward(x: Array, index: Array) -> tuple[Array, tuple[Array, int]]:
    return take_steps(x, index), (index, x.shape[1])


def _take_steps_backward(saved: tuple[Array, int], gradient: Array) -> tuple[Array, None]:
    index, steps = saved
    return jax.vmap(lambda g, i: jax.ops.segment_sum(g, i, steps))(gradient, index), None


take_steps.defvjp(_take_steps_forward, _take_steps_backward)


class Draws(NamedTuple):
    """The random choices of one evaluation of the ELBO.

    Attributes:
        noise: (B, T + 1, L) standard normal, one per belief.
        latents: (B, E) indices of the decoded beliefs, in 0..T.
        steps: (B, E, D) indices of the decoded steps, in 0..T - 1; None for all of them.
    """

    noise: Array
    latents: Array
    steps: Array | None


def _below(count: int, key: Array, shape: tuple[int, ...]) -> Array:
    """Integers below ``count``, uniform up to 2^-23; ``randint`` is exact and takes twenty kernels."""
    drawn = (jax.random.uniform(key, shape) * count).astype(jnp.int32)
    return jnp.minimum(drawn, count - 1)


def draw(config: VaeConfig, key: Array, batch: int, steps: int, dtype: jnp.dtype) -> Draws:
    """Draws the ELBO's random choices for trajectories of T = ``steps``."""
    noise_key, latent_key, step_key = jax.random.split(key, 3)
    noise = jax.random.normal(noise_key, (batch, steps + 1, config.latent), dtype)
    if config.latents is None:
        latents = jnp.broadcast_to(jnp.arange(steps + 1), (batch, steps + 1))
    else:
        latents = _below(steps + 1, latent_key, (batch, config.latents))
    if config.decodes is None:
        return Draws(noise, latents, None)
    return Draws(noise, latents, _below(steps, step_key, (*latents.shape, config.decodes)))


def _at_steps(per_step: Array, steps: Array | None, latents: int) -> Array:
    """Values at the drawn steps: per_step (B, T, F) to (B, E, D, F), or (B, 1, T, F) for all steps."""
    if steps is None:
        return per_step[:, None]
    batch, _, decodes = steps.shape
    return take_steps(per_step, steps.reshape(batch, -1)).reshape(batch, latents, decodes, -1)


def _targets(trajectory: Trajectory, name: str) -> Array:
    """Targets of a step decoder, (B, T, outputs)."""
    if name == "reward":
        return trajectory.reward[..., None]
    after = trajectory.obs[:, :, 1:]
    return after.reshape(*trajectory.reward.shape, after.shape[-1])


def _decodes(trajectory: Trajectory, steps: Array | None) -> int:
    """D, the steps that are decoded from each latent."""
    return trajectory.reward.shape[1] if steps is None else steps.shape[2]


def _blocks(x: Array, count: int) -> Array:
    """Cuts x (B, E, ...) into blocks of latents, (count, B, size, ...), filled up with zeros."""
    size = -(-x.shape[1] // count)
    filled = jnp.pad(x, [(0, 0), (0, count * size - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])
    return jnp.moveaxis(filled.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)


def _step_error(
    params: Any, decoder: StepDecoder, trajectory: Trajectory, target: Array, z: Array, steps: Array | None
) -> Array:
    """Squared errors of latents (B, E, L) at steps (B, E, D), mean over outputs, summed to (B,).

    Many errors are summed block by block, and the derivative computes a block's values again. On a CPU a
    block fits into the cache, and arrays of all values do not.

    Args:
        params: the decoder's.
        decoder: module.
        trajectory: leaves (B, ...); errors of steps that are not valid are 0.
        target: (B, T, outputs).
        z: latents.
        steps: of each latent; None for all T.
    """
    latent_part = decoder.apply(params, z, method="latent_part")
    step_part = decoder.apply(params, trajectory, method="step_part")
    (batch, latents, _), width = z.shape, target.shape[-1]
    target_and_valid = jnp.concatenate([target, trajectory.valid[..., None].astype(z.dtype)], axis=-1)

    def summed(latent_part: Array, steps: Array | None, counts: Array | None = None) -> Array:
        n = latent_part.shape[1]
        first = _at_steps(step_part, steps, n) + latent_part[:, :, None]
        predicted = decoder.apply(params, first, method="decode")
        seen = _at_steps(target_and_valid, steps, n)
        error = jnp.square(predicted - seen[..., :width]).mean(axis=-1) * seen[..., width]
        if counts is not None:
            error = error * counts[..., None]
        return error.reshape(batch, -1).sum(axis=1)

    values = batch * latents * _decodes(trajectory, steps)
    if values <= _WHOLE:
        return summed(latent_part, steps)
    count = -(-latents // max(1, latents * _BLOCK // values))
    counts = jnp.ones((batch, latents), z.dtype)
    blocks = jax.tree.map(lambda x: _blocks(x, count), (latent_part, steps, counts))

    def add(total: Array, block: tuple[Array, Array | None, Array]) -> tuple[Array, None]:
        return total + jax.checkpoint(summed)(*block), None

    return jax.lax.scan(add, jnp.zeros(batch, z.dtype), blocks)[0]


def negative_elbo(
    params: Any, encoder: Encoder, decoders: Decoders, trajectory: Trajectory, draws: Draws
) -> tuple[Array, Metrics]:
    """Weighted reconstruction errors plus weighted KL, averaged over trajectories (B, ...).

    Each drawn belief decodes the rewards (next observations) of the drawn steps, past and future, or the
    task. Squared errors are summed over beliefs and steps, KL terms over the same beliefs.

    Args:
        params: {"encoder": ..., "decoder": {name: ...}}.
        encoder: module.
        decoders: modules by target.
        trajectory: leaves (B, ...).
        draws: the drawn beliefs and steps.

    Returns:
        (loss (), metrics); the metric "loss" is per decoded value of a step.
    """
    config = encoder.config
    posterior = encoder.apply(params["encoder"], trajectory)
    z = posterior.mean + jnp.exp(0.5 * posterior.logvar) * draws.noise
    z = jnp.take_along_axis(z, draws.latents[..., None], axis=1)
    total, metrics = jnp.zeros((), z.dtype), {}
    latents, decodes = draws.latents.shape[1], _decodes(trajectory, draws.steps)
    for name, decoder in decoders.items():
        weights = params["decoder"][name]
        if isinstance(decoder, TaskDecoder):
            assert trajectory.task is not None, "trajectory_of(..., with_task=True) has the target"
            errors = jnp.square(decoder.apply(weights, z) - trajectory.task[:, None]).mean(axis=-1)
            summed, values = errors.sum(axis=1).mean(), latents
        else:
            target = _targets(trajectory, name)
            errors = _step_error(weights, decoder, trajectory, target, z, draws.steps)
            summed, values = errors.mean(), latents * decodes
        total = total + getattr(config, f"{name}_weight") * summed
        label = "reconstruction" if name == "reward" else f"{name}_reconstruction"
        metrics[label] = summed / values
    kl = jnp.take_along_axis(kl_chain(posterior), draws.latents, axis=1).sum(axis=1).mean()
    metrics["kl"] = kl / latents
    total = total + config.kl_weight * kl
    # per value: the limit at which a seed counts as diverged does not depend on how many are decoded
    metrics["loss"] = total / (latents * decodes)
    return total, metrics
