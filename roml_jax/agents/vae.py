"""VariBAD's variational auto-encoder over trajectories, which infers beliefs about the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import distrax
import flax.linen as nn
import jax.numpy as jnp

from roml_jax import checks
from roml_jax.agents.history import HistoryConfig, Recurrent, Trajectory
from roml_jax.networks import (
    JOINED,
    Linear,
    Network,
    default_dense,
    fan_in_uniform,
    joined,
    linear,
    side_by_side,
)
from roml_jax.registry import leaf
from roml_jax.types import Array


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

    def prepared(self, params: Any) -> Any:
        """As ``Recurrent.prepared``, and with one layer for all readers of the hidden state."""
        layers, variables = params["params"], super().prepared(params)
        gru = {"kernel": layers["gru"]["kernel_h"], "bias": layers["gru"]["bias_h"]}
        readout = side_by_side(gru, layers["mean"], layers["logvar"])
        return {**variables, JOINED: variables[JOINED] | {"readout": readout}}

    def _read(self, hidden: Array) -> tuple[Array, Array]:
        """The GRU's recurrent products and the posterior's features, with ``prepared`` parameters.

        A program that asks for both, one after the other, computes one product.
        """
        both = linear(self.get_variable(JOINED, "readout"), hidden)
        return both[..., : 3 * self.config.hidden], both[..., 3 * self.config.hidden :]

    def observe(self, hidden: Array, action: Array, next_obs: Array, reward: Array) -> Array:
        """The hidden state (N, hidden) after one step."""
        recurrent = self._read(hidden)[0] if self.has_variable(JOINED, "readout") else None
        return self.gru.step(hidden, self.project(action, next_obs, reward), recurrent)

    def posterior(self, hidden: Array) -> Posterior:
        """The posterior for a hidden state; for the zero state, the prior."""
        return Posterior(*jnp.split(self.features(hidden), 2, axis=-1))

    def features(self, hidden: Array) -> Array:
        """The posterior's means and log-variances (..., 2L), the policy's latent."""
        if self.has_variable(JOINED, "readout"):
            return self._read(hidden)[1]
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
