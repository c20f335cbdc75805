"""MAML's gradient against an enumeration of everything that can happen, and adaptation on a known optimum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import train

from roml_jax import config, experiment
from roml_jax.agents import maml
from roml_jax.networks import ActorCritic
from roml_jax.types import Discrete

OPTIMISED = True

LR, GAMMA, H, K = 0.7, 0.8, 3, 2
TIMES = [np.array(actions) for actions in itertools.product((0, 1), repeat=H)]
PAID = np.array([0.3, 1.0])  # what each action pays; later steps pay more
RNG = np.random.default_rng(0)


def _rewards(actions):
    return PAID[actions] * (1 + np.arange(H))


def _advantage(reward):
    to_come = [sum(GAMMA**j * reward[t + j] for j in range(H - t)) for t in range(H)]
    return to_come - np.polyval(np.polyfit(np.arange(H), to_come, 1), np.arange(H))


SEEN = np.array([0.5, -1.0, 2.0])  # the observation at each step


def _policy(theta):
    """Probabilities (H, 2) under theta, weights and biases (2, 2)."""
    logits = SEEN[:, None] * theta[0] + theta[1]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _likelihood(p, actions):
    return np.prod(p[np.arange(H), actions])


def _expected(theta):
    """Expected return of the second episode, by enumeration."""
    total = 0.0
    for first in TIMES:
        p = _policy(theta)
        score = _advantage(_rewards(first))[:, None] * (np.eye(2)[first] - p)
        gradient = np.stack([(SEEN[:, None] * score).mean(axis=0), score.mean(axis=0)])
        adapted = _policy(theta + LR * gradient)
        later = sum(_likelihood(adapted, second) * _rewards(second).sum() for second in TIMES)
        total += _likelihood(p, first) * later
    return total


def _surrogate_gradient(theta, first_order=False):
    """Our meta-gradient, averaged over all outcomes by their probability."""
    options = maml.MamlConfig(inner_lr=LR, inner_normalise=False, first_order=first_order)
    policy = ActorCritic(Discrete(2), (), None, None, "normc")
    params = jax.jit(policy.init)(jax.random.key(0), jnp.ones(1), jnp.zeros(0))
    params["params"]["logits"] = {"kernel": jnp.asarray(theta[:1]), "bias": jnp.asarray(theta[1])}
    outcomes = list(itertools.product(TIMES, TIMES))
    actions = np.array([np.stack(outcome) for outcome in outcomes])
    rewards = jnp.asarray(np.array([[_rewards(a) for a in outcome] for outcome in outcomes]))
    valid = jnp.ones(rewards.shape, bool)
    episodes = maml.Episode(
        jnp.broadcast_to(SEEN[:, None], (*rewards.shape, 1)), jnp.asarray(actions[..., None], float),
        jax.jit(lambda *x: maml.inner_advantage(*x, GAMMA, normalise=False))(rewards, valid), valid,
    )  # fmt: skip

    def surrogate(params):
        judged = jax.vmap(lambda e: maml.judge_task(policy, options, jnp.asarray(LR), params, e))(episodes)
        log_prob = judged.log_prob.sum(axis=1)
        return (jax.lax.stop_gradient(jnp.exp(log_prob)) * log_prob * rewards[:, 1].sum(axis=1)).sum()

    gradient = jax.jit(jax.grad(surrogate))(params)["params"]["logits"]
    return np.concatenate([gradient["kernel"], gradient["bias"][None]])


def test_the_meta_gradient_is_that_of_the_expected_return_after_adaptation(x64):
    """The exploring episode's score and the second-order term included; finite differences in float64."""
    theta, step = np.array([[0.3, -0.4], [0.2, -0.5]]), 1e-5
    expected = np.zeros((2, 2))
    for index in np.ndindex(2, 2):
        e = np.zeros((2, 2))
        e[index] = step
        expected[index] = (_expected(theta + e) - _expected(theta - e)) / (2 * step)
    np.testing.assert_allclose(_surrogate_gradient(theta), expected, rtol=1e-6)
    # with one observation alone the advantages, which sum to 0, would leave no second order
    assert abs(_surrogate_gradient(theta, first_order=True) / expected - 1).max() > 0.01


def test_inner_advantages_against_numpy(x64):
    reward, valid = RNG.normal(size=(2, 6)), np.array([[True] * 6, [True] * 4 + [False] * 2])
    got = np.asarray(maml.inner_advantage(jnp.asarray(reward * valid), jnp.asarray(valid), 0.9, True))
    for i, length in enumerate((6, 4)):
        r = reward[i, :length]
        to_come = np.array([sum(0.9**j * r[t + j] for j in range(length - t)) for t in range(length)])
        apart = to_come - np.polyval(np.polyfit(np.arange(length), to_come, 1), np.arange(length))
        np.testing.assert_allclose(got[i, :length], apart / (apart.std() + 1e-5), rtol=1e-8)
        assert not got[i, length:].any()


@pytest.mark.parametrize(
    "inner",
    [
        {},
        pytest.param({"inner_steps": 2}, marks=pytest.mark.slow),
        pytest.param({"inner_episodes": 3, "inner_normalise": False}, marks=pytest.mark.slow),
    ],
)
def test_what_is_differentiated_is_what_acted(inner):
    """In the first minibatch no ratio has moved: the adaptation written out again gives the same policy."""
    parts = experiment.make(config.make(
        "probe_target", "uniform", "maml", num_tasks=4, frames=1e3, chunk=3,
        **({"protocol.episodes": 4, "ppo.epochs": 1, "ppo.minibatches": 1, "inner_lr": 0.5} | inner),
    ))  # fmt: skip
    state = jax.jit(parts.train.init)(jnp.stack([jax.random.key(0)]))
    _, metrics = jax.jit(parts.train.chunk)(state, jnp.int32(3))
    assert abs(np.asarray(metrics["ppo/approx_kl"])).max() < 1e-5
    assert not np.asarray(metrics["ppo/clip_share"]).any()
    assert np.asarray(metrics["ppo/grad_norm"]).min() > 1e-3


def test_an_episode_must_follow_the_last_inner_step():
    with pytest.raises(config.ConfigError, match=r"raise protocol\.episodes"):
        experiment.make(config.make("probe_target", "uniform", "maml", inner_steps=2))
    with pytest.raises(config.ConfigError, match=r"test_episodes=1 is too few: .* after 1 episodes"):
        experiment.make(config.make("probe_target", "uniform", "maml", **{"protocol.test_episodes": 1}))


def test_a_line_needs_three_steps():
    with pytest.raises(config.ConfigError, match=r"needs episodes of at least 3 steps.* these have 2"):
        experiment.make(config.make("probe_target", "uniform", "maml", **{"protocol.horizon": 2}))


@pytest.mark.parametrize(
    ("agent", "options", "said"),
    [
        ("multitask", {"protocol.horizon": 1}, "ppo.credit=episode drops the last reward of an episode"),
        ("rl2", {"protocol.horizon": 1, "protocol.episodes": 1}, "a task of one episode of one step"),
    ],
)
def test_what_policies_cannot_learn_from_is_refused(agent, options, said):
    with pytest.raises(config.ConfigError, match=said):
        experiment.make(config.make("probe_target", "uniform", agent, **options))


@pytest.mark.slow
def test_one_gradient_step_is_the_whole_adaptation():
    """Not adapted the best is -8/3; one step can reach 0, and eight noisy samples of it most of the way."""
    first, second = train("probe_target", "uniform", agent="maml", frames=60e3).mean(axis=0)
    assert first < -8 / 3  # it still explores
    assert second > -4 / 3
