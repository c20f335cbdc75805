"""The policy's networks: how they are wired and how they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from scipy import special

from roml_jax import networks
from roml_jax.types import Continuous, Discrete

RNG = np.random.default_rng(0)
LATENT = 2 * toys.SIZES["latent"]


def _policy(action, embedding=4, trunk="normc", layers=(6, 5)):
    """A policy and the shapes of its parameters."""
    policy = networks.ActorCritic(action, layers, embedding, embedding, trunk)
    return policy, lambda key: policy.init(key, jnp.zeros(toys.D), jnp.zeros(LATENT))


@pytest.mark.parametrize(
    ("action", "embedding"), [(Discrete(4), 4), (Continuous(2), 4), (Continuous(2), None)]
)
def test_the_policy_is_tanh_embeddings_that_both_share_and_a_tanh_trunk_for_each(action, embedding, x64):
    policy, init = _policy(action, embedding)
    params = toys.random(RNG, jax.eval_shape(init, jax.random.key(0)))
    p, obs, latent = params["params"], RNG.normal(size=(6, toys.D)), RNG.normal(size=(6, LATENT))
    linear = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    x = [obs, latent]
    if embedding:
        x = [
            np.tanh(linear(f"{name}_embedding", part))
            for name, part in zip(("obs", "latent"), x, strict=True)
        ]
    trunk = {}
    for name in ("actor", "critic"):
        y = np.concatenate(x, axis=1)
        for i in range(2):
            y = np.tanh(linear(f"{name}_{i}", y))
        trunk[name] = y

    @jax.jit
    def told(params):
        distribution, value = policy.apply(params, obs, latent)
        return value, distribution.probs if embedding and action == Discrete(4) else distribution.mode()

    value, chosen = told(params)
    np.testing.assert_allclose(value, linear("value", trunk["critic"])[:, 0], rtol=1e-10)
    if isinstance(action, Discrete):
        np.testing.assert_allclose(
            chosen, special.softmax(linear("logits", trunk["actor"]), axis=1), rtol=1e-9
        )
    else:
        np.testing.assert_allclose(chosen, linear("mean", trunk["actor"]), rtol=1e-10)
    assert ("obs_embedding" in p) == ("latent_embedding" in p) == bool(embedding)


def _starts_as_torchs(layer, fan_in):
    largest = [abs(np.asarray(x)).max() * fan_in**0.5 for x in layer.values()]
    return all(0.6 < x <= 1 for x in largest)


def test_trunks_start_with_units_of_norm_five_thirds_and_small_or_unit_heads():
    _, init = _policy(Continuous(3), embedding=20, layers=(10, 9))
    _, init_discrete = _policy(Discrete(4), trunk="orthogonal", layers=(8, 8))
    key = jax.random.key(0)
    normc, orthogonal = jax.tree.map(np.asarray, jax.jit(lambda: (init(key), init_discrete(key)))())
    p, q = normc["params"], orthogonal["params"]
    for name, gain in (("actor", 5 / 3), ("critic", 5 / 3)):
        for i in range(2):
            kernel = p[f"{name}_{i}"]["kernel"]
            np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), gain, rtol=1e-5)
            assert abs(kernel.T @ kernel - gain**2 * np.eye(len(kernel.T))).max() > 0.1  # not orthogonal
    np.testing.assert_allclose(np.linalg.norm(p["mean"]["kernel"], axis=0), 1, rtol=1e-5)
    for name in ("actor_1", "critic_1"):  # of 8 inputs and 8 units
        kernel = q[name]["kernel"]
        np.testing.assert_allclose(kernel.T @ kernel, (5 / 3) ** 2 * np.eye(8), atol=1e-5)
    kernel = q["logits"]["kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, 1e-4 * np.eye(4), atol=1e-9)
    for one, head in ((p, "mean"), (q, "logits")):
        for name in ("actor_0", "actor_1", "critic_0", "critic_1", head):
            assert not one[name]["bias"].any(), name
        assert not np.array_equal(one["actor_1"]["kernel"], one["critic_1"]["kernel"])
    assert _starts_as_torchs(p["obs_embedding"], toys.D)
    assert _starts_as_torchs(p["latent_embedding"], LATENT)
    assert 0.6 < abs(p["value"]["kernel"]).max() * 9**0.5 <= 1
    assert 0 < abs(p["value"]["bias"][0]) * 9**0.5 <= 1


def test_the_policys_deviation_never_falls_below_a_millionth(x64):
    policy, init = _policy(Continuous(2), embedding=None)
    params = toys.random(RNG, jax.eval_shape(init, jax.random.key(0)))
    params["params"]["log_std"] = np.array([-100.0, 0.5])
    inputs = np.zeros((1, toys.D)), np.zeros((1, LATENT))
    std = jax.jit(lambda params: policy.apply(params, *inputs)[0].stddev())(params)
    np.testing.assert_allclose(std[0], [1e-6, np.exp(0.5)], rtol=1e-9)
