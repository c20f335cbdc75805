"""The positive value loss that an agent with a critic reports, in closed form."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from roml_jax import config, experiment
from roml_jax.agents import multitask, on_policy, ppo
from roml_jax.types import Rollout

RNG = np.random.default_rng(0)
GAMMA, LAMBDA = 0.9, 0.8


def options(credit="episode"):
    return ppo.PpoConfig(
        gamma=GAMMA, gae_lambda=LAMBDA, credit=credit, layers=(4,), minibatches=1, obs_embedding=None,
    )  # fmt: skip


def settled(stats):
    """Statistics of so many returns, of standard deviation 1, that a rollout does not change them."""
    count = replace(stats.return_.count, lo=jnp.asarray(2**30, stats.return_.count.lo.dtype))
    return stats._replace(return_=replace(stats.return_, count=count, summed_variance=jnp.float32(2.0**30)))


def scored(expects, reward, credit="episode", valid=None):
    """The scores of the baseline agent on toy tasks, with a critic that always expects this value."""
    agent = multitask.multitask(toys.spec(), toys.N, multitask.MultitaskConfig(options(credit)))
    state = jax.jit(agent.init)(jax.random.key(0))
    critic = state.params["params"]["value"]
    fixed = {"kernel": jnp.zeros_like(critic["kernel"]), "bias": jnp.full_like(critic["bias"], expects)}
    params = {"params": {**state.params["params"], "value": fixed}}
    state = state._replace(params=params, statistics=settled(state.statistics))
    met = toys.rollout(RNG, reward, valid)._replace(extras=np.zeros((toys.N, toys.K, toys.H, 0)))
    return np.asarray(jax.jit(agent.value_score)(state, met))


def test_a_critic_that_expects_exactly_the_return_scores_nothing():
    """A constant reward c is worth c / (1 - gamma) at every step, which the last step is not judged by."""
    constant = np.full((toys.N, toys.K, toys.H), 0.3)
    np.testing.assert_allclose(scored(0.3 / (1 - GAMMA), constant), 0.0, atol=1e-6)
    # one that expects too much is never surprised; one that expects too little is, on every task alike
    np.testing.assert_allclose(scored(0.4 / (1 - GAMMA), constant), 0.0, atol=1e-6)
    low = scored(0.2 / (1 - GAMMA), constant)
    assert (low > 0.01).all()
    np.testing.assert_allclose(low, low[0], rtol=1e-6)


def by_hand(reward, valid, credit):
    """The mean over valid steps of the positive part of sum (gamma lambda)^k r, with values of 0."""
    total = np.zeros(toys.N)
    for n in range(toys.N):
        steps = [(k, h) for k in range(toys.K) for h in range(toys.H) if valid[n, k, h]]
        for i, (k, _) in enumerate(steps):
            later = steps[i:] if credit == "task" else [step for step in steps[i:] if step[0] == k]
            counted = [step for step in later if credit == "task" or step[1] < toys.H - 1]
            advantage = sum((GAMMA * LAMBDA) ** j * reward[n][step] for j, step in enumerate(counted))
            total[n] += max(advantage, 0.0) / len(steps)
    return total


@pytest.mark.parametrize("credit", ["episode", "task"])
def test_a_critic_that_expects_nothing_gives_the_mean_positive_advantage(credit):
    reward = RNG.normal(size=(toys.N, toys.K, toys.H)) * np.array([0.1, 1.0, 3.0])[:, None, None]
    valid = np.ones(reward.shape, bool)
    valid[1, 0, 2:] = False
    np.testing.assert_allclose(scored(0.0, reward, credit, valid), by_hand(reward, valid, credit), rtol=1e-4)


def test_any_critic_that_predicts_every_step_scores_nothing():
    """Values by backward recursion from arbitrary rewards, through the function that agents share."""
    reward = RNG.normal(size=(toys.N, toys.K, toys.H))
    value = np.zeros_like(reward)
    value[:, :, -1] = RNG.normal(size=reward.shape[:2])
    for h in reversed(range(toys.H - 1)):
        value[:, :, h] = reward[:, :, h] + GAMMA * value[:, :, h + 1]

    class Critic:
        def __init__(self, value):
            self.apply = lambda params, obs, latent: (None, jnp.asarray(value, jnp.float32))

    met: Rollout = toys.rollout(RNG, reward)
    stats = settled(on_policy.init_statistics(toys.D, met.extras.shape[-1]))
    exact = on_policy.value_score(Critic(value), options(), (), stats, met)
    np.testing.assert_allclose(exact, 0.0, atol=1e-5)
    # below by one: every judged step is short by 1 - gamma, and by what follows it
    below = on_policy.value_score(Critic(value - 1), options(), (), stats, met)
    short = [1 - GAMMA] * (toys.H - 1)
    advantages = [sum((GAMMA * LAMBDA) ** j * x for j, x in enumerate(short[h:])) for h in range(toys.H - 1)]
    np.testing.assert_allclose(below, np.full(toys.N, sum(advantages) / toys.H), rtol=1e-4)


def test_a_runs_first_scores_have_the_unit_of_later_ones():
    """Before anything is known of the returns, rewards a hundred times as large give the same scores."""
    reward = RNG.normal(size=(toys.N, toys.K, toys.H))
    stats = on_policy.init_statistics(toys.D, 0)

    class Critic:
        apply = staticmethod(lambda params, obs, latent: (None, jnp.zeros(reward.shape, jnp.float32)))

    met = toys.rollout(RNG, reward)._replace(extras=np.zeros((*reward.shape, 0)))
    scores = [
        on_policy.value_score(Critic(), options(), (), stats, met._replace(reward=factor * reward))
        for factor in (1.0, 100.0)
    ]
    assert (np.asarray(scores[0]) > 0).any()
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4)


def test_agents_that_have_a_critic_report_it_by_task():
    """Those that have none say so, on which a sampler that needs it is refused."""
    small = {"num_tasks": 6, "frames": 1e4, "ppo.layers": 8, "ppo.minibatches": 2}
    for agent in ("multitask", "varibad"):
        parts = experiment.make(config.make("probe_memory", "uniform", agent, **small))
        shapes = jax.eval_shape(parts.learner.init, jax.random.key(0))
        _, _, feedback = jax.eval_shape(parts.learner.collect, shapes, jnp.zeros((5, 1)), jax.random.key(0))
        assert feedback.value_score.shape == (5,)
        assert "value_score" in parts.learner.reports
    for agent in ("maml", "pearl"):
        parts = experiment.make(config.make("probe_memory", "uniform", agent, num_tasks=8))
        assert parts.learner.reports == ("episode_returns", "diverged")
