"""Networks and initialisers that match the reference's PyTorch layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from roml_jax.types import Array, Continuous, Discrete

Init = Callable[..., Array]
TrunkInit = Literal["normc", "orthogonal"]
_MIN_STD = 1e-6
_TANH_GAIN = 5 / 3
# steps in one turn of a GRU's loops: on a GPU, a turn's results and its counter are launches
_UNROLL, _UNROLL_BACK = 2, 4


class Network(nn.Module):
    """A linen module, for type checkers: the type of its outputs is its own."""

    if TYPE_CHECKING:

        def apply(self, variables: Any, *args: Any, **options: Any) -> Any:
            """The outputs alone: with ``mutable``, which is not used here, linen adds changed variables."""


JOINED = "joined"
"""Collection of a module's variables: layers made of those of "params", for many steps with the same ones."""


def side_by_side(*layers: Mapping[str, Array]) -> dict[str, Array]:
    """Linear layers of one input, as one layer: their outputs in sequence."""
    kernels, biases = ([layer[name] for layer in layers] for name in ("kernel", "bias"))
    return {"kernel": jnp.concatenate(kernels, axis=-1), "bias": jnp.concatenate(biases)}


def block_diagonal(*layers: Mapping[str, Array]) -> dict[str, Array]:
    """Linear layers of an input each, as one layer: inputs and outputs in sequence."""
    kernels, biases = ([layer[name] for layer in layers] for name in ("kernel", "bias"))
    return {"kernel": jax.scipy.linalg.block_diag(*kernels), "bias": jnp.concatenate(biases)}


def linear(layer: Mapping[str, Array], *inputs: Array) -> Array:
    """The outputs (..., O) of a layer for inputs (..., I) in sequence."""
    return jnp.concatenate(inputs, axis=-1) @ layer["kernel"] + layer["bias"]


def fan_in_uniform(fan_in: int) -> Init:
    """Uniform on +-1 / sqrt(fan_in), PyTorch's default for a layer's weights and biases."""
    bound = fan_in**-0.5

    def init(key: Array, shape: Sequence[int], dtype: Any = float) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normc(gain: float) -> Init:
    """Normal weights, scaled so that each unit's incoming weights have norm ``gain``."""

    def init(key: Array, shape: Sequence[int], dtype: Any = float) -> Array:
        weights = jax.random.normal(key, shape, dtype)
        return gain * weights / jnp.linalg.norm(weights, axis=0, keepdims=True)

    return init


def dense(features: int, **options: Any) -> nn.Dense:
    """A linear layer whose parameters have JAX's default float type (flax's are float32)."""
    return nn.Dense(features, param_dtype=jnp.result_type(float), **options)


def default_dense(features: int, fan_in: int, name: str | None = None) -> nn.Dense:
    """A linear layer with PyTorch's default initialisation."""
    init = fan_in_uniform(fan_in)
    return dense(features, kernel_init=init, bias_init=init, name=name)


class Linear(Network):
    """A linear layer as ``default_dense``, whose parameters a module that owns several can join.

    Attributes:
        features: outputs.
        inputs: their number, which the initialisation depends on.
    """

    features: int
    inputs: int

    def setup(self) -> None:
        """Creates the parameters."""
        init, dtype = fan_in_uniform(self.inputs), jnp.result_type(float)
        self.kernel = self.param("kernel", init, (self.inputs, self.features), dtype)
        self.bias = self.param("bias", init, (self.features,), dtype)


def joined(layers: Sequence[Linear], x: Array) -> Array:
    """The outputs of layers of the same input x (..., inputs) in sequence, by one product."""
    return linear(side_by_side(*({"kernel": layer.kernel, "bias": layer.bias} for layer in layers)), x)


class Gru(Network):
    """A GRU in PyTorch's form: gates r, z, n; input and recurrent biases; reset after the recurrent product.

    The products with the inputs (``project``) are separate from the recurrence (``step``), so that a whole
    sequence needs one matrix product for its inputs. Initial weights are orthogonal over the stacked
    gates, initial biases 0.
    """

    features: int
    inputs: int

    def setup(self) -> None:
        """Creates the parameters."""
        stacked, orthogonal = 3 * self.features, nn.initializers.orthogonal()
        dtype = jnp.result_type(float)
        self.kernel_x = self.param("kernel_x", orthogonal, (self.inputs, stacked), dtype)
        self.kernel_h = self.param("kernel_h", orthogonal, (self.features, stacked), dtype)
        self.bias_x = self.param("bias_x", nn.initializers.zeros, (stacked,), dtype)
        self.bias_h = self.param("bias_h", nn.initializers.zeros, (stacked,), dtype)

    def project(self, x: Array) -> Array:
        """Input products of x (..., inputs): (..., 3 * features)."""
        return x @ self.kernel_x + self.bias_x

    def step(self, hidden: Array, projected: Array, recurrent: Array | None = None) -> Array:
        """One step from hidden (..., features) on projected inputs (..., 3 * features).

        ``recurrent`` (..., 3 * features) are the hidden state's products, if the caller has them.
        """
        if recurrent is None:
            recurrent = hidden @ self.kernel_h + self.bias_h
        return _gru_step(hidden, projected, recurrent)[0]

    def unroll(self, start: Array, projected: Array, valid: Array, cut: Array) -> Array:
        """Hidden states (T, B, features) after each step of sequences.

        Args:
            start: (B, features) before the first step.
            projected: (T, B, 3 * features).
            valid: (T, B) bool; an invalid step leaves the hidden state unchanged.
            cut: (T,) bool; where True, no gradient passes to the hidden state before that step.
        """
        return _gru_unroll(self.kernel_h, self.bias_h, start, projected, valid, cut)


class _Gates(NamedTuple):
    """Gates of a GRU step and the new gate's recurrent product, (..., features)."""

    reset: Array
    update: Array
    new: Array
    new_h: Array


def _gru_step(hidden: Array, projected: Array, recurrent: Array) -> tuple[Array, _Gates]:
    reset_x, update_x, new_x = jnp.split(projected, 3, axis=-1)
    reset_h, update_h, new_h = jnp.split(recurrent, 3, axis=-1)
    reset = nn.sigmoid(reset_x + reset_h)
    update = nn.sigmoid(update_x + update_h)
    new = jnp.tanh(new_x + reset * new_h)
    return new + update * (hidden - new), _Gates(reset, update, new, new_h)


def _gru_step_if_valid(
    kernel: Array, bias: Array, hidden: Array, now: tuple[Array, Array]
) -> tuple[Array, _Gates]:
    """A step on (projected (B, 3 * features), valid (B,)) that leaves the state unchanged where not valid."""
    projected, valid = now
    after, gates = _gru_step(hidden, projected, hidden @ kernel + bias)
    return jnp.where(valid[:, None], after, hidden), gates


@jax.custom_vjp
def _gru_unroll(
    kernel: Array, bias: Array, start: Array, projected: Array, valid: Array, cut: Array
) -> Array:
    """As ``Gru.unroll``.

    The derivative is custom: the automatic one sums the kernel's gradient step by step, this one computes
    it as one product over all steps.
    """
    del cut

    def step(hidden: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, _ = _gru_step_if_valid(kernel, bias, hidden, now)
        return hidden, hidden

    return jax.lax.scan(step, start, (projected, valid), unroll=_UNROLL)[1]


def _gru_unroll_forward(
    kernel: Array, bias: Array, start: Array, projected: Array, valid: Array, cut: Array
) -> tuple[Array, tuple[Any, ...]]:
    def step(hidden: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, gates = _gru_step_if_valid(kernel, bias, hidden, now)
        return hidden, jnp.stack([hidden, *gates])

    # one result, since on a GPU a loop writes each result with a kernel of its own
    stacked = jax.lax.scan(step, start, (projected, valid), unroll=_UNROLL)[1]
    hidden, *gates = (stacked[:, i] for i in range(5))
    before = jnp.concatenate([start[None], hidden[:-1]])
    return hidden, (kernel, before, _Gates(*gates), valid, cut)


def _gru_unroll_backward(saved: tuple[Any, ...], gradient: Array) -> tuple[Array | None, ...]:
    kernel, before, (reset, update, new, new_h), valid, cut = saved
    # what a step does is linear in its gradient; the factors are those of all steps at once
    by_new = (1 - update) * (1 - new * new)
    by_reset = by_new * new_h * reset * (1 - reset)
    by_update = (before - new) * update * (1 - update)
    by_recurrent = jnp.concatenate([by_reset, by_update, by_new * reset], axis=-1)
    transposed = jax.lax.optimization_barrier(kernel.T)  # else every step transposes it

    def step(carried: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
        outer, by_recurrent, update, valid, cut = now
        valid = valid[:, None]
        total = carried + outer
        after = jnp.where(valid, total, 0.0)
        in_recurrent = jnp.tile(after, 3) * by_recurrent
        back = jnp.where(valid, in_recurrent @ transposed, total) + after * update
        return jnp.where(cut, 0.0, back), after

    sequence = (gradient, by_recurrent, update, valid, cut)
    start, after = jax.lax.scan(step, jnp.zeros_like(before[0]), sequence, reverse=True, unroll=_UNROLL_BACK)
    projected = jnp.tile(after, 3) * jnp.concatenate([by_reset, by_update, by_new], axis=-1)
    recurrent = jnp.tile(after, 3) * by_recurrent
    kernel_gradient = jnp.einsum("tbh,tbg->hg", before, recurrent)
    return kernel_gradient, recurrent.sum(axis=(0, 1)), start, projected, None, None


_gru_unroll.defvjp(_gru_unroll_forward, _gru_unroll_backward)


class ActorCritic(Network):
    """Actor and critic over a normalised observation and latent.

    Actor and critic share the optional tanh embeddings of both inputs; each has its own tanh trunk.

    Attributes:
        action: the action space.
        layers: hidden sizes of each trunk.
        obs_embedding: size of the observation's embedding; None for no embedding.
        latent_embedding: size of the latent's embedding; None for no embedding.
        trunk_init: initialiser of the trunks, with gain 5/3.
        actor_obs: D, if the critic sees P more numbers than the actor (embedded as the observation, apart
            from it); None if both see the same.
    """

    action: Discrete | Continuous
    layers: Sequence[int]
    obs_embedding: int | None
    latent_embedding: int | None
    trunk_init: TrunkInit
    actor_obs: int | None = None

    def prepared(self, params: Any) -> Any:
        """The parameters, with one layer for both embeddings; for many steps with the same parameters."""
        layers = params["params"]
        both = [layers[name] for name in ("obs_embedding", "latent_embedding") if name in layers]
        return {**params, JOINED: {"embedding": block_diagonal(*both)}} if len(both) == 2 else params

    @nn.compact
    def __call__(self, obs: Array, latent: Array) -> tuple[distrax.Distribution, Array | None]:
        """Returns (distribution over actions, value (...)) for obs (..., D) and latent (..., L).

        With ``actor_obs``, obs is (..., D + P), or (..., D) for acting, which gives no value (None).
        """
        privileged = None
        if self.actor_obs is not None:
            obs, privileged = obs[..., : self.actor_obs], obs[..., self.actor_obs :]

        def embed(x: Array, size: int | None, name: str) -> Array:
            return x if size is None else jnp.tanh(default_dense(size, x.shape[-1], name)(x))

        if self.has_variable(JOINED, "embedding"):
            x = jnp.tanh(linear(self.get_variable(JOINED, "embedding"), obs, latent))
        else:
            parts = (
                embed(obs, self.obs_embedding, "obs_embedding"),
                embed(latent, self.latent_embedding, "latent_embedding"),
            )
            x = jnp.concatenate(parts, axis=-1)
        hidden_init = (
            normc(_TANH_GAIN) if self.trunk_init == "normc" else nn.initializers.orthogonal(_TANH_GAIN)
        )

        def trunk(name: str, y: Array) -> Array:
            for i, size in enumerate(self.layers):
                y = jnp.tanh(dense(size, kernel_init=hidden_init, name=f"{name}_{i}")(y))
            return y

        value = None
        if privileged is None or privileged.shape[-1]:
            seen = x
            if privileged is not None:
                more = embed(privileged, self.obs_embedding, "privileged_embedding")
                seen = jnp.concatenate([x, more], axis=-1)
            critic = trunk("critic", seen)
            value = default_dense(1, critic.shape[-1], "value")(critic)[..., 0]
        return self._head(trunk("actor", x)), value

    def _head(self, x: Array) -> distrax.Distribution:
        if isinstance(self.action, Discrete):
            logits = dense(self.action.n, kernel_init=nn.initializers.orthogonal(0.01), name="logits")(x)
            return distrax.Categorical(logits=logits)
        mean = dense(self.action.size, kernel_init=normc(1.0), name="mean")(x)
        log_std = self.param("log_std", nn.initializers.zeros, (self.action.size,), jnp.result_type(float))
        std = jnp.maximum(jnp.exp(log_std), _MIN_STD)
        return distrax.MultivariateNormalDiag(mean, jnp.broadcast_to(std, mean.shape))


def choose_category(logits: Array, key: Array, greedy: Array | bool) -> Array:
    """A sampled category, or the most likely one where ``greedy``; (...) integers for logits (..., n)."""
    return jnp.where(greedy, logits.argmax(axis=-1), jax.random.categorical(key, logits))


def choose_action(
    action: Discrete | Continuous, distribution: distrax.Distribution, key: Array, greedy: Array | bool
) -> Array:
    """A sampled action, or the distribution's mode where ``greedy``; (..., A) floats."""
    if isinstance(action, Discrete):
        logits = cast(Array, cast(distrax.Categorical, distribution).logits)
        return choose_category(logits, key, greedy)[..., None].astype(jnp.result_type(float))
    return jnp.where(greedy, distribution.mode(), distribution.sample(seed=key))


def action_log_prob(
    action_space: Discrete | Continuous, distribution: distrax.Distribution, action: Array
) -> Array:
    """Log-probabilities (...) of actions (..., A), summed over the A numbers, in nats."""
    if isinstance(action_space, Discrete):
        return cast(Array, distribution.log_prob(action[..., 0].astype(jnp.int32)))
    return cast(Array, distribution.log_prob(action))
