"""VariBAD's variational auto-encoder over trajectories, which infers beliefs about the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from roml_jax import checks
from roml_jax.agents.history import HistoryConfig, Recurrent, Trajectory
from roml_jax.networks import Linear, Network, default_dense, fan_in_uniform, joined
from roml_jax.registry import leaf
from roml_jax.types import Array, Metrics

_WHOLE, _BLOCK = 25_000, 10_000  # predictions: up to so many are made at once, and else so many per block


@dataclass(frozen=True)
class VaeConfig(HistoryConfig):
    """Options of the belief: its networks and their training."""

    latent: int = 5
    """Size of the latent; the policy gets its means and log-variances."""
    decoder_layers: tuple[int, int] = (64, 32)
    """Hidden sizes of each decoder."""
    reward_weight: float = 1.0
    """Weight of decoding rewards; 0 for no reward decoder."""
    state_weight: float = 0.0
    """Weight of decoding next observations from observation and action (mean over their dimensions); 0 for no
    such decoder (the reference, even where tasks change the dynamics)."""
    task_weight: float = 0.0
    """Weight of decoding the task, once per belief (mean over its dimensions); 0 for no such decoder. The
    task is used in training only."""
    lr: float = leaf(1e-3)
    """Adam's learning rate."""
    updates: int = 1
    """Gradient steps per meta-iteration."""
    batch_trajectories: int = 10
    """Trajectories (all episodes of a task) per gradient step."""
    buffer_trajectories: int = 10_000
    """Size of the replay buffer in trajectories; the oldest are overwritten."""
    draw_newest: bool = True
    """Let gradient steps draw trajectories of their own iteration; the reference does not until its replay
    buffer is full."""
    replay_dtype: Literal["full", "bfloat16"] = "full"
    """Type of the stored observations; bfloat16 halves them. The replay is the largest array in memory."""
    latents: int | None = 50
    """Beliefs decoded per trajectory, drawn with replacement; None for all of them."""
    decodes: int | None = 50
    """Steps decoded per belief, drawn with replacement; None for all of them."""
    tbptt: int | None = 50
    """Steps between truncations of the gradient through time; None for no truncation."""
    kl_weight: float = 1.0
    """Weight of the KL term per trajectory. The reference sets 0.1, but sums the KL over its 10 trajectories
    and averages the reconstruction, which is equal to a weight of 1."""
    max_grad_norm: float = 1.0
    """Maximum gradient norm of the encoder and of each decoder, clipped separately."""

    def __post_init__(self) -> None:
        self.check("vae")
        counts = ("updates", "batch_trajectories", "buffer_trajectories", "latents", "decodes")
        checks.at_least(self, "vae", 1, "latent", "decoder_layers", *counts)
        weights = ("reward_weight", "state_weight", "task_weight")
        checks.at_least(self, "vae", 0, "kl_weight", *weights)
        checks.positive(self, "vae", "lr", "max_grad_norm")
        if not any(getattr(self, name) > 0 for name in weights):
            raise ValueError(
                "vae needs a decoder: set vae.reward_weight, vae.state_weight or vae.task_weight above 0"
            )
        if self.buffer_trajectories < self.batch_trajectories:
            raise ValueError(
                f"vae.buffer_trajectories ({self.buffer_trajectories}) must be at least "
                f"vae.batch_trajectories ({self.batch_trajectories})"
            )


class Posterior(NamedTuple):
    """Diagonal Gaussian over the latent: mean and log-variance, (..., L)."""

    mean: Array
    logvar: Array

    def distribution(self) -> distrax.MultivariateNormalDiag:
        """The posterior as a distribution."""
        return distrax.MultivariateNormalDiag(self.mean, jnp.exp(0.5 * self.logvar))

    def features(self) -> Array:
        """The policy's latent: means and log-variances, (..., 2L)."""
        return jnp.concatenate([self.mean, self.logvar], axis=-1)


class Encoder(Recurrent[VaeConfig]):
    """A memory with a posterior at every step."""

    def setup(self) -> None:
        """Creates the layers."""
        super().setup()
        self.mean = Linear(self.config.latent, self.config.hidden)
        self.logvar = Linear(self.config.latent, self.config.hidden)

    def posterior(self, hidden: Array) -> Posterior:
        """The posterior for a hidden state; for the zero state, the prior."""
        return Posterior(*jnp.split(self.features(hidden), 2, axis=-1))

    def features(self, hidden: Array) -> Array:
        """The posterior's means and log-variances (..., 2L), the policy's latent."""
        return joined((self.mean, self.logvar), hidden)

    def posteriors(self, trajectory: Trajectory) -> Posterior:
        """Posteriors (B, T + 1, L) along trajectories (B, ...); index 0 is the prior."""
        return self.posterior(self.unroll(trajectory))

    def __call__(self, trajectory: Trajectory) -> Posterior:
        """As ``posteriors``."""
        return self.posteriors(trajectory)


class StepDecoder(Network):
    """Predicts a reward or an observation of any step from a latent: an MLP on (z, next obs, action, obs).

    The first layer is applied in two parts, the latent's and the step's, so that decoding E latents
    at D steps costs E + D first-layer products, not E * D.

    Attributes:
        config: sizes.
        obs_size: D.
        action_size: A.
        outputs: number of predicted values: 1 for a reward, D for the next observation.
        sees_next: whether the next observation is an input.
    """

    config: VaeConfig
    obs_size: int
    action_size: int
    outputs: int = 1
    sees_next: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        c = self.config
        self.embed_obs = default_dense(c.obs_embedding, self.obs_size)
        self.embed_action = default_dense(c.action_embedding, self.action_size)
        inputs = c.latent + (1 + self.sees_next) * c.obs_embedding + c.action_embedding
        first, second = c.decoder_layers
        init = fan_in_uniform(inputs)
        self.kernel = self.param("kernel", init, (inputs, first), jnp.result_type(float))
        self.bias = self.param("bias", init, (first,), jnp.result_type(float))
        self.second = default_dense(second, first)
        self.out = default_dense(self.outputs, second)

    def latent_part(self, z: Array) -> Array:
        """First-layer products of latents (..., L)."""
        return z @ self.kernel[: self.config.latent]

    def step_part(self, trajectory: Trajectory) -> Array:
        """First-layer products (B, T, first) of every step of the trajectories."""
        obs = nn.relu(self.embed_obs(trajectory.obs))
        batch, steps = trajectory.action.shape[:2]
        before = obs[:, :, :-1].reshape(batch, steps, -1)
        after = [obs[:, :, 1:].reshape(batch, steps, -1)] if self.sees_next else []
        action = nn.relu(self.embed_action(trajectory.action))
        parts = jnp.concatenate([*after, action, before], axis=-1)
        return parts @ self.kernel[self.config.latent :] + self.bias

    def decode(self, first: Array) -> Array:
        """Predictions (..., outputs) of summed first-layer products (..., first)."""
        return self.out(nn.relu(self.second(nn.relu(first))))

    def __call__(self, z: Array, trajectory: Trajectory) -> Array:
        """Predictions (B, T, outputs) for all steps, from one latent (B, L) per trajectory."""
        return self.decode(self.latent_part(z)[:, None] + self.step_part(trajectory))


class TaskDecoder(Network):
    """Predicts the task from a latent: an MLP."""

    config: VaeConfig
    task_size: int

    @nn.compact
    def __call__(self, z: Array, trajectory: Trajectory | None = None) -> Array:
        """Predicted tasks (..., d) for latents (..., L)."""
        del trajectory
        for size in self.config.decoder_layers:
            z = nn.relu(default_dense(size, z.shape[-1])(z))
        return default_dense(self.task_size, z.shape[-1])(z)


Decoders = Mapping[str, StepDecoder | TaskDecoder]
"""Decoders with a positive weight, by their target: "reward", "state" or "task"."""


def make_decoders(config: VaeConfig, obs_size: int, action_size: int, task_size: int) -> Decoders:
    """The decoders with a positive weight in the options.

    Raises:
        ValueError: if the task is decoded and ``task_size`` is 0.
    """
    if config.task_weight and not task_size:
        raise ValueError("vae.task_weight decodes the task: EnvSpec.task_size must be set")
    every = {
        "reward": StepDecoder(config, obs_size, action_size),
        "state": StepDecoder(config, obs_size, action_size, obs_size, sees_next=False),
        "task": TaskDecoder(config, task_size),
    }
    return {name: module for name, module in every.items() if getattr(config, f"{name}_weight") > 0}


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
        (loss (), metrics).
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
    return total + config.kl_weight * kl, metrics
