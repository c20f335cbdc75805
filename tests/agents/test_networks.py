"""Networks and their initialisers, against loops and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from roml_jax import networks
from roml_jax.types import Continuous, Discrete

RNG = np.random.default_rng(0)


def init(gru, x):
    """Parameters, from one program."""
    return jax.jit(lambda key, x: gru.init(key, x, method="project"))(jax.random.key(0), x)


def test_gru_over_a_sequence_is_its_steps_and_so_is_its_gradient(x64):
    steps, n, features = 7, 3, 4
    gru = networks.Gru(features=features, inputs=3)
    params = init(gru, np.zeros((n, 3)))
    params = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape)), params)
    start, projected = RNG.normal(size=(n, features)), RNG.normal(size=(steps, n, 3 * features))
    valid, cut = RNG.random((steps, n)) < 0.8, np.arange(steps) % 3 == 0
    outer = RNG.normal(size=(steps, n, features))

    def one_by_one(params, start, projected):
        hidden, each = start, []
        for x, is_valid, is_cut in zip(projected, valid, cut, strict=True):
            hidden = jax.lax.stop_gradient(hidden) if is_cut else hidden
            after = gru.apply(params, hidden, x, method="step")
            hidden = jnp.where(is_valid[:, None], after, hidden)
            each.append(hidden)
        return jnp.stack(each)

    def unrolled(params, start, projected):
        return gru.apply(params, start, projected, valid, cut, method="unroll")

    arguments = params, jnp.asarray(start), jnp.asarray(projected)
    np.testing.assert_allclose(jax.jit(unrolled)(*arguments), jax.jit(one_by_one)(*arguments), rtol=1e-12)
    got, expected = (
        jax.jit(jax.grad(lambda *x, f=f: (f(*x) * outer).sum(), argnums=(0, 1, 2)))(*arguments)
        for f in (unrolled, one_by_one)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12), got, expected)
    leaves = jax.tree.leaves((got[0]["params"]["kernel_h"], got[2]))
    assert all(np.abs(np.asarray(leaf)).max() > 0 for leaf in leaves)
    assert not np.asarray(got[1]).any()  # cut before the first step


def test_gru_is_torchs_form(x64):
    """Gates r, z, n; n = tanh(W_n x + b_n + r (U_n h + c_n)); h' = (1 - z) n + z h."""
    gru = networks.Gru(features=4, inputs=3)
    x, h = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 4))
    params = init(gru, x)
    params = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape)), params)
    p = {name: np.asarray(value) for name, value in params["params"].items()}
    gx, gh = x @ p["kernel_x"] + p["bias_x"], h @ p["kernel_h"] + p["bias_h"]
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    r, z = sigmoid(gx[:, :4] + gh[:, :4]), sigmoid(gx[:, 4:8] + gh[:, 4:8])
    new = np.tanh(gx[:, 8:] + r * gh[:, 8:])
    got = jax.jit(lambda params, h, gx: gru.apply(params, h, gx, method="step"))(params, h, gx)
    np.testing.assert_allclose(got, (1 - z) * new + z * h, rtol=1e-10)


def test_initialisers_have_the_stated_scales():
    key = jax.random.key(0)
    normc = jax.jit(networks.normc(5 / 3), static_argnums=1)
    columns = np.linalg.norm(normc(key, (40, 30)), axis=0)
    np.testing.assert_allclose(columns, 5 / 3, rtol=1e-5)
    fan_in_uniform = jax.jit(networks.fan_in_uniform(100), static_argnums=1)
    uniform = np.asarray(fan_in_uniform(key, (100, 300)))
    assert abs(uniform).max() <= 0.1
    assert uniform.std() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    gru = init(networks.Gru(128, 64), np.zeros((1, 64)))["params"]
    kernel = np.asarray(gru["kernel_h"])
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(128), atol=1e-5)
    assert kernel.std() == pytest.approx(0.051, abs=0.001)
    assert not np.asarray(gru["bias_x"]).any()


@pytest.mark.parametrize("space", [Discrete(4), Continuous(3)])
def test_policy_log_prob_and_entropy_are_scipys(space):
    policy = networks.ActorCritic(space, (8,), 5, 4, "normc")
    obs, latent = jnp.asarray(RNG.normal(size=(6, 7))), jnp.asarray(RNG.normal(size=(6, 4)))

    @jax.jit
    def chosen(obs, latent):
        distribution, value = policy.apply(policy.init(jax.random.key(0), obs, latent), obs, latent)
        action = networks.choose_action(space, distribution, jax.random.key(1), False)
        greedy = networks.choose_action(space, distribution, jax.random.key(2), True)
        log_prob = networks.action_log_prob(space, distribution, action)
        numbers = distribution.probs if isinstance(space, Discrete) else distribution.mode()
        return value, action, greedy, log_prob, distribution.entropy(), distribution.mode(), numbers

    value, action, greedy, log_prob, entropy, best, numbers = map(np.asarray, chosen(obs, latent))
    assert value.shape == (6,)
    assert action.shape == (6, space.size)
    if isinstance(space, Discrete):
        expected = np.log(numbers[np.arange(6), action[:, 0].astype(int)])
        of_scipy = stats.entropy(numbers, axis=1)
    else:
        expected = stats.norm.logpdf(action, numbers, 1.0).sum(axis=1)  # log-std starts at 0
        of_scipy = np.full(6, 3 * stats.norm.entropy())
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4)
    np.testing.assert_allclose(entropy, of_scipy, rtol=1e-4)
    np.testing.assert_array_equal(greedy if greedy.ndim == best.ndim else greedy[:, 0], best)
