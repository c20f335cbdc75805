"""VariBAD's variational auto-encoder over trajectories: beliefs about the task from what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from roml_jax import checks
from roml_jax.agents.history import History, HistoryConfig, Trajectory
from roml_jax.networks import default_dense, fan_in_uniform
from roml_jax.types import Array, Metrics


@dataclass(frozen=True)
class VaeConfig(HistoryConfig):
    """The belief: its networks and how they are trained."""

    latent: int = 5
    """Numbers in the latent; the policy gets their means and log-variances."""
    decoder_layers: tuple[int, int] = (64, 32)
    """Hidden sizes of the reward decoder."""
    lr: float = 1e-3
    """Adam's learning rate."""
    updates: int = 1
    """Gradient steps per meta-iteration."""
    batch_trajectories: int = 10
    """Trajectories (all episodes of a task) per gradient step."""
    buffer_trajectories: int = 10_000
    """Trajectories kept; the newest replace the oldest."""
    replay_dtype: Literal["full", "bfloat16"] = "full"
    """How the kept observations are stored; bfloat16 halves the largest thing in memory."""
    latents: int | None = 50
    """Beliefs decoded per trajectory, drawn with replacement; None for all of them."""
    decodes: int | None = 50
    """Steps that each belief is decoded at, drawn with replacement; None for all of them."""
    tbptt: int | None = 50
    """Steps between cuts of the gradient through time; None for none."""
    kl_weight: float = 1.0
    """Weight of the KL term per trajectory. The reference writes 0.1 but sums the KL over its 10
    trajectories where it averages the reconstruction; this is the weight that comes out."""
    max_grad_norm: float = 1.0
    """Gradient norms of the encoder and of the decoder are each clipped to this."""

    def __post_init__(self) -> None:
        self.check("vae")
        counts = ("updates", "batch_trajectories", "buffer_trajectories", "latents", "decodes")
        checks.at_least(self, "vae", 1, "latent", "decoder_layers", *counts)
        checks.at_least(self, "vae", 0, "kl_weight")
        checks.positive(self, "vae", "lr", "max_grad_norm")
        if self.buffer_trajectories < self.batch_trajectories:
            raise ValueError(
                f"vae.buffer_trajectories ({self.buffer_trajectories}) must hold a batch of "
                f"vae.batch_trajectories ({self.batch_trajectories})"
            )


class Posterior(NamedTuple):
    """Diagonal Gaussian over the latent: mean and log-variance, (..., L)."""

    mean: Array
    logvar: Array

    def distribution(self) -> distrax.MultivariateNormalDiag:
        """As a distribution."""
        return distrax.MultivariateNormalDiag(self.mean, jnp.exp(0.5 * self.logvar))

    def features(self) -> Array:
        """What the policy gets, (..., 2L)."""
        return jnp.concatenate([self.mean, self.logvar], axis=-1)


class Encoder(History):
    """A memory that gives a posterior at every step."""

    config: VaeConfig

    def setup(self) -> None:
        """Makes the layers."""
        super().setup()
        self.mean = default_dense(self.config.latent, self.config.hidden)
        self.logvar = default_dense(self.config.latent, self.config.hidden)

    def posterior(self, hidden: Array) -> Posterior:
        """The belief of a hidden state; of the zero state, the prior."""
        return Posterior(self.mean(hidden), self.logvar(hidden))

    def posteriors(self, trajectory: Trajectory) -> Posterior:
        """Posteriors (B, T + 1, L) along trajectories (B, ...); index 0 is the prior."""
        return self.posterior(self.unroll(trajectory))

    def __call__(self, trajectory: Trajectory) -> Posterior:
        """As ``posteriors``."""
        return self.posteriors(trajectory)


class RewardDecoder(nn.Module):
    """Predicts the reward of any step from a latent: an MLP on (z, next obs, action, obs).

    Its first layer is applied in two parts, the latent's and the step's, so that decoding E latents
    at D steps costs E + D first-layer products, not E * D.
    """

    config: VaeConfig
    obs_size: int
    action_size: int

    def setup(self) -> None:
        """Makes the layers."""
        c = self.config
        self.embed_obs = default_dense(c.obs_embedding, self.obs_size)
        self.embed_action = default_dense(c.action_embedding, self.action_size)
        inputs = c.latent + 2 * c.obs_embedding + c.action_embedding
        first, second = c.decoder_layers
        init = fan_in_uniform(inputs)
        self.kernel = self.param("kernel", init, (inputs, first), jnp.result_type(float))
        self.bias = self.param("bias", init, (first,), jnp.result_type(float))
        self.second = default_dense(second, first)
        self.out = default_dense(1, second)

    def latent_part(self, z: Array) -> Array:
        """First-layer products of latents (..., L)."""
        return z @ self.kernel[: self.config.latent]

    def step_part(self, trajectory: Trajectory) -> Array:
        """First-layer products (B, T, first) of every step of trajectories."""
        obs = nn.relu(self.embed_obs(trajectory.obs))
        batch, steps = trajectory.action.shape[:2]
        before = obs[:, :, :-1].reshape(batch, steps, -1)
        after = obs[:, :, 1:].reshape(batch, steps, -1)
        action = nn.relu(self.embed_action(trajectory.action))
        parts = jnp.concatenate([after, action, before], axis=-1)
        return parts @ self.kernel[self.config.latent :] + self.bias

    def decode(self, first: Array) -> Array:
        """Rewards (...) of summed first-layer products (..., first)."""
        return self.out(nn.relu(self.second(nn.relu(first))))[..., 0]

    def __call__(self, z: Array, trajectory: Trajectory) -> Array:
        """Rewards (B, T) that one latent (B, L) per trajectory predicts for its steps."""
        return self.decode(self.latent_part(z)[:, None] + self.step_part(trajectory))


def kl_chain(posterior: Posterior) -> Array:
    """KL(q_t || q_{t-1}) along (B, T + 1, L), with q_{-1} the standard normal: (B, T + 1)."""
    zero = jnp.zeros_like(posterior.mean[:, :1])
    previous = jax.tree.map(lambda x: jnp.concatenate([zero, x[:, :-1]], axis=1), posterior)
    return posterior.distribution().kl_divergence(previous.distribution())


@jax.custom_vjp
def take_steps(x: Array, index: Array) -> Array:
    """Rows ``x[b, index[b]]`` of x (B, T, F) at index (B, M): (B, M, F).

    The gradient sums the rows' gradients with a matrix product: a scatter-add of this many short
    rows is the slowest part of the whole update on a CPU.
    """
    return jnp.take_along_axis(x, index[..., None], axis=1)


def _take_steps_forward(x: Array, index: Array) -> tuple[Array, tuple[Array, int]]:
    return take_steps(x, index), (index, x.shape[1])


def _take_steps_backward(saved: tuple[Array, int], gradient: Array) -> tuple[Array, None]:
    index, steps = saved
    one_hot = jax.nn.one_hot(index, steps, dtype=gradient.dtype)
    return jnp.einsum("bmt,bmf->btf", one_hot, gradient), None


take_steps.defvjp(_take_steps_forward, _take_steps_backward)


class Draws(NamedTuple):
    """The random choices of one evaluation of the ELBO.

    Attributes:
        noise: (B, T + 1, L) standard normal, one per belief.
        latents: (B, E) which beliefs are decoded, in 0..T.
        steps: (B, E, D) at which steps, in 0..T - 1; None for all of them.
    """

    noise: Array
    latents: Array
    steps: Array | None


def draw(config: VaeConfig, key: Array, batch: int, steps: int, dtype: jnp.dtype) -> Draws:
    """Draws the ELBO's random choices for trajectories of T = ``steps``."""
    noise_key, latent_key, step_key = jax.random.split(key, 3)
    noise = jax.random.normal(noise_key, (batch, steps + 1, config.latent), dtype)
    if config.latents is None:
        latents = jnp.broadcast_to(jnp.arange(steps + 1), (batch, steps + 1))
    else:
        latents = jax.random.randint(latent_key, (batch, config.latents), 0, steps + 1)
    if config.decodes is None:
        return Draws(noise, latents, None)
    return Draws(noise, latents, jax.random.randint(step_key, (*latents.shape, config.decodes), 0, steps))


def _at_steps(per_step: Array, steps: Array | None, latents: int) -> Array:
    """What stands at the drawn steps: per_step (B, T, F) to (B, E, D, F), or (B, 1, T, F) for all."""
    if steps is None:
        return per_step[:, None]
    batch, _, decodes = steps.shape
    return take_steps(per_step, steps.reshape(batch, -1)).reshape(batch, latents, decodes, -1)


def negative_elbo(
    params: Any, encoder: Encoder, decoder: RewardDecoder, trajectory: Trajectory, draws: Draws
) -> tuple[Array, Metrics]:
    """Reconstruction error plus weighted KL, averaged over trajectories (B, ...).

    Each chosen belief decodes the rewards of chosen steps of the whole trajectory, past and future;
    squared errors are summed over beliefs and steps, KL terms over the same beliefs.

    Args:
        params: {"encoder": ..., "decoder": ...}.
        encoder: module.
        decoder: module.
        trajectory: leaves (B, ...).
        draws: the random choices.
    """
    posterior = encoder.apply(params["encoder"], trajectory)
    z = posterior.mean + jnp.exp(0.5 * posterior.logvar) * draws.noise
    z = jnp.take_along_axis(z, draws.latents[..., None], axis=1)
    latent_part = decoder.apply(params["decoder"], z, method="latent_part")
    step_part = decoder.apply(params["decoder"], trajectory, method="step_part")
    latents = draws.latents.shape[1]
    first = _at_steps(step_part, draws.steps, latents) + latent_part[:, :, None]
    predicted = decoder.apply(params["decoder"], first, method="decode")
    facts = jnp.stack([trajectory.reward, trajectory.valid.astype(predicted.dtype)], axis=-1)
    target, counts = jnp.moveaxis(_at_steps(facts, draws.steps, latents), -1, 0)
    reconstruction = (jnp.square(predicted - target) * counts).sum(axis=(1, 2)).mean()
    kl = jnp.take_along_axis(kl_chain(posterior), draws.latents, axis=1).sum(axis=1).mean()
    metrics = {"reconstruction": reconstruction / predicted[0].size, "kl": kl / latents}
    return reconstruction + encoder.config.kl_weight * kl, metrics


def clip_parts(config: VaeConfig) -> optax.GradientTransformation:
    """Clips the gradient norms of the encoder and of the decoder apart from each other."""
    clip = optax.clip_by_global_norm(config.max_grad_norm)
    return optax.partition({"encoder": clip, "decoder": clip}, {"encoder": "encoder", "decoder": "decoder"})


def optimiser(config: VaeConfig) -> optax.GradientTransformation:
    """Separate norm clips and Adam, without the learning rate: that is a leaf."""
    return optax.chain(clip_parts(config), optax.scale_by_adam(eps=1e-8))
