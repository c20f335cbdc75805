"""PEARL's pieces against straightforward versions, and posterior sampling on probes with known optima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import train
from scipy import stats

from roml_jax import agents, config, envs, experiment
from roml_jax.agents import pearl, sac
from roml_jax.agents import replay as replays
from roml_jax.types import Continuous, Discrete, EnvSpec, Transition

OPTIMISED = True

RNG = np.random.default_rng(0)

draw_rows = jax.jit(pearl.draw_rows, static_argnums=(2, 3, 4))


@jax.jit
def _posterior(precision, weighted):
    """Mean and standard deviation."""
    got = pearl.posterior(precision, weighted)
    return got.mean(), got.stddev()


def _agent(action, **context):
    spec = EnvSpec("toy", {"all": slice(0, 3)}, action, horizon=4, episodes=3)
    options = pearl.PearlConfig(
        sac=sac.SacConfig(layers=(8,)), context=pearl.ContextConfig(latent=2, layers=(8,), **context),
        buffer_visits=4,
    )  # fmt: skip
    agent = pearl.make(spec, 2, options)
    return agent._replace(
        init=jax.jit(agent.init), begin=jax.jit(agent.begin, static_argnums=2),
        observe=jax.jit(agent.observe), adapt=jax.jit(agent.adapt),
    )  # fmt: skip


@pytest.mark.parametrize("action", [Discrete(4), Continuous(2)])
@pytest.mark.parametrize("next_obs", [False, True])
def test_the_belief_is_the_product_of_all_transitions_gaussians(action, next_obs, x64):
    """Step by step or at once; steps after an early end are no factors."""
    agent = _agent(action, size=5, prior_episodes=1, next_obs=next_obs)
    state = agent.init(jax.random.key(0))
    belief = agent.begin(state, jax.random.key(1), 2)
    means, variances = [], []
    encode = jax.jit(sac.Mlp((8,), (2, 2)).apply)
    valid = np.array([[True, True]] * 3 + [[False, True]])
    for t in range(4):
        chosen = RNG.integers(0, 4, (2, 1)) if isinstance(action, Discrete) else RNG.normal(size=(2, 2))
        step = Transition(
            RNG.normal(size=(2, 3)), chosen.astype(float), RNG.normal(size=2), RNG.normal(size=(2, 3)),
            valid[t],
        )  # fmt: skip
        belief = agent.observe(state, belief, step)
        coded = np.eye(4)[chosen[:, 0]] if isinstance(action, Discrete) else chosen
        parts = [step.obs, coded, step.reward[:, None]] + ([step.next_obs] if next_obs else [])
        mean, spread = encode(state.params["encoder"], *parts)
        means.append(np.asarray(mean))
        variances.append(np.log1p(np.exp(np.asarray(spread))))
    means, variances, counts = np.array(means), np.array(variances), valid[..., None]
    precision = (counts / variances).sum(axis=0)
    mean, stddev = _posterior(belief.precision, belief.weighted)
    np.testing.assert_allclose(stddev, precision**-0.5, rtol=1e-7)
    np.testing.assert_allclose(mean, (counts * means / variances).sum(axis=0) / precision, rtol=1e-7)
    np.testing.assert_array_equal(belief.seen, [3, 4])


def test_z_comes_from_the_prior_until_enough_episodes_then_from_a_posterior_worth_size_transitions():
    agent = _agent(Continuous(1), size=10, prior_episodes=2)
    state, n = agent.init(jax.random.key(0)), 4000
    belief = agent.begin(state, jax.random.key(1), n)
    assert stats.kstest(np.asarray(belief.z).ravel(), "norm").pvalue > 1e-3
    seen = belief._replace(
        precision=np.full((n, 2), 8.0, np.float32), weighted=np.full((n, 2), 16.0, np.float32),
        seen=np.full(n, 20.0, np.float32),
    )  # fmt: skip
    first = agent.adapt(state, seen, None, jax.random.key(2))
    assert stats.kstest(np.asarray(first.z).ravel(), "norm").pvalue > 1e-3
    assert not np.array_equal(first.z, belief.z)
    second = np.asarray(agent.adapt(state, first, None, jax.random.key(3)).z)
    # 20 transitions of 0.4 each, worth 10 of them: precision 4
    assert stats.kstest((second.ravel() - 2.0) * 2.0, "norm").pvalue > 1e-3


def test_learning_counts_as_many_transitions_as_acting_where_episodes_end_early():
    """A context of one transition again and again, of which three quarters of the draws are not valid."""
    action = Continuous(1)
    spec = EnvSpec("toy", {"all": slice(0, 3)}, action, horizon=4, episodes=3)
    options = pearl.PearlConfig(
        sac=sac.SacConfig(layers=(8,), meta_batch=64, batch=4),
        context=pearl.ContextConfig(latent=2, layers=(8,), size=50), buffer_visits=4,
    )  # fmt: skip
    networks, encoder = sac.make_networks(action, options.sac), sac.Mlp((8,), (2, 2))
    context = pearl._Context(options.context, action, encoder, spec.obs_size)
    state = pearl._init(jax.random.key(0), spec, networks, context, options)

    @jax.jit
    def deviation(valid):
        seen = pearl.Visit(
            jnp.ones((4, 3, 5, 3)), jnp.ones((4, 3, 4, 1)), jnp.ones((4, 3, 4)), valid,
            jnp.zeros((4, 3), bool), jnp.ones(4),
        )  # fmt: skip
        ring = replays.add(state.replay, seen)
        learner = state._replace(replay=())
        _, metrics = pearl._gradient_step(learner, networks, context, options, ring, jax.random.key(1))
        return metrics["z_deviation"]

    whole = np.ones((4, 3, 4), bool)
    short = whole & (np.arange(4) == 0)
    assert float(deviation(short)) == pytest.approx(float(deviation(whole)), rel=1e-5)


def test_an_early_end_is_terminal_and_a_diverged_simulation_is_not():
    """Two visits of one episode of four steps, which stop after the second; the second visit diverges."""
    valid = jnp.tile(jnp.arange(4) < 2, (2, 1, 1))
    rows = pearl.Visit(
        jnp.zeros((2, 1, 5, 3)), jnp.zeros((2, 1, 4, 1)), -jnp.ones((2, 1, 4)), valid,
        jnp.array([[False], [True]]), jnp.ones(2),
    )  # fmt: skip
    visit, step = jnp.arange(2)[:, None], jnp.arange(4)[None]
    *_, terminal, found = pearl._steps(rows, jnp.broadcast_to(visit, (2, 4)), jnp.broadcast_to(step, (2, 4)))
    np.testing.assert_array_equal(terminal, [[0, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found, valid[:, 0])


def test_nothing_seen_is_the_standard_normal():
    mean, stddev = _posterior(np.zeros((1, 2)), np.zeros((1, 2)))
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(stddev, 1)


@pytest.mark.parametrize(("size", "cursor"), [(7, 7), (12, 12), (12, 4), (2, 2), (1, 1)])
def test_rows_of_slots_against_a_list_of_visits(size, cursor):
    """12 rows, 3 slots: after 16 visits the cursor stands at 4 and all rows hold something."""
    slots, capacity = 3, 12
    visits = size if cursor == size else capacity + cursor
    by_slot = {s: [] for s in range(slots)}
    for visit in range(visits):
        row = visit % capacity
        by_slot[row % slots] = [r for r in by_slot[row % slots] if r != row] + [row]
    newest, every = draw_rows(jnp.int32(size), jnp.int32(cursor), slots, 500, 8, jax.random.key(0))
    newest, every = np.asarray(newest), np.asarray(every)
    assert {int(r) % slots for r in newest} == {s for s in by_slot if by_slot[s]}
    for one, rows in zip(newest, every, strict=True):
        assert one == by_slot[one % slots][-1]
        assert set(rows) <= set(by_slot[one % slots])
    for s, rows in by_slot.items():
        if rows:
            assert set(every[newest % slots == s].ravel()) == set(rows)


def test_each_visit_by_itself_is_a_slot_of_its_own():
    newest, every = draw_rows(jnp.int32(5), jnp.int32(5), 12, 200, 4, jax.random.key(0))
    assert set(np.asarray(newest)) == set(range(5))
    np.testing.assert_array_equal(every, np.repeat(np.asarray(newest)[:, None], 4, axis=1))


@pytest.mark.parametrize("action", [Discrete(3), Continuous(2, low=-0.4, high=0.4)])
def test_soft_values_are_expectations_over_the_policy(action, x64):
    """Discrete: exactly. Continuous: many actions, their log-probability by change of variables."""
    options = sac.SacConfig(layers=(6,))
    networks = sac.make_networks(action, options)
    params = jax.eval_shape(networks.init, jax.random.key(0), np.zeros(3), np.zeros(2))
    params = jax.tree.map(lambda p: RNG.normal(size=p.shape) * 0.3, params)
    obs, z = jnp.asarray(RNG.normal(size=(1, 3))), jnp.asarray(RNG.normal(size=(1, 2)))
    if isinstance(action, Discrete):
        choice = jax.jit(networks.choose)(params["policy"], obs, z, jax.random.key(1))
        got = float(jax.jit(networks.soft_q)(params["q"], obs, z, choice)[0])
        q_of = jax.jit(networks.q_of)
        prob = np.exp(np.asarray(choice.log_prob[0]))
        q = np.array([
            np.asarray(q_of(params["q"], obs, z, np.full((1, 1), float(a)))).min(axis=0)[0]
            for a in range(3)
        ])  # fmt: skip
        assert prob.sum() == pytest.approx(1)
        assert got == pytest.approx(float((prob * (q - np.log(prob))).sum()), rel=1e-9)
        return
    many = lambda x: np.broadcast_to(x, (20_000, x.shape[-1]))  # noqa: E731
    choice = jax.jit(networks.choose)(params["policy"], many(obs), many(z), jax.random.key(1))
    actions = np.asarray(choice.action)
    assert abs(actions).max() <= 0.4
    mean, log_std = (np.asarray(x)[0] for x in jax.jit(networks.policy.apply)(params["policy"], obs, z))
    u = np.arctanh(actions / 0.4)
    log_prob = stats.norm.logpdf(u, mean, np.exp(log_std)) - np.log1p(-np.square(actions / 0.4))
    np.testing.assert_allclose(choice.log_prob, log_prob.sum(axis=1), rtol=1e-5, atol=1e-5)
    greedy = jax.jit(networks.act)(params["policy"], obs, z, jax.random.key(2), jnp.asarray(True))
    np.testing.assert_allclose(greedy[0], 0.4 * np.tanh(mean), rtol=1e-9)


def test_a_task_that_the_sampler_filters_out_does_not_teach_the_policy():
    """CVaR-PEARL: its transitions train critics and encoder, and are kept with their weight."""
    parts = experiment.make(config.make(
        "probe_target", "tail", "pearl", num_tasks=8, frames=1024, alpha=0.2, learning_starts=0,
        **{"sac.updates": 1, "buffer_visits": 16},
    ))  # fmt: skip
    state = jax.jit(parts.train.init)(jnp.stack([jax.random.key(0)]))
    state, metrics = jax.jit(parts.train.chunk)(state, jnp.int32(1))
    weight = np.asarray(state.learner.replay.rows.weight)[:8]
    returns = np.asarray(state.learner.replay.rows.reward)[:8].sum(axis=(1, 2))
    assert set(weight) == {0.0, 1.0}
    assert weight[returns.argmin()] == 1
    assert weight[returns.argmax()] == 0
    assert np.isfinite(metrics["sac/q_loss"][0]).all()


def test_two_kinds_of_squashing_are_one_too_many():
    with pytest.raises(config.ConfigError, match=r"--protocol\.action-map raw"):
        experiment.make(config.make("probe_target", "uniform", "pearl", **{"protocol.action_map": "tanh"}))


@pytest.mark.parametrize("env", [name for name in envs.names() if name != "sine"])
def test_starts_on_every_environment_as_shipped(env):
    made = config.make(env, "cem", "pearl")
    spec = made.protocol.agent_spec(envs.from_options(env, made.env_options).spec)
    agents.make("pearl", spec, made.num_tasks, made.agent_options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"buffer_visits": 5}, "at least num_tasks"),
        ({"buffer_visits": 12, "slots": 4}, "multiple of num_"),
        (
            {"context.prior_episodes": 2, "protocol.episodes": 2},
            "the belief is never used: raise protocol.epi",
        ),
        ({"protocol.test_episodes": 1}, "test_episodes=1 is too few: .* of a task after 1 episodes"),
    ],
)
def test_what_an_iteration_or_a_belief_does_not_fit_is_refused(options, said):
    with pytest.raises(config.ConfigError, match=said):
        experiment.make(config.make("probe_target", "uniform", "pearl", num_tasks=8, **options))


@pytest.mark.slow
def test_posterior_sampling_finds_which_action_pays():
    """A discrete head. Prior episode: a coin is thrown once, 4 on average; posterior episode: all 8."""
    first, second = train("probe_memory", "uniform", agent="pearl", frames=12e3).mean(axis=0)
    assert second > 7.8
    assert first < 5.5


@pytest.mark.slow
def test_posterior_sampling_hits_the_target():
    """Acting as if a z from the prior were true costs twice the variance, 16/3; not adapting costs 8/3."""
    first, second = train("probe_target", "uniform", agent="pearl").mean(axis=0)
    assert first == pytest.approx(-16 / 3, abs=1.3)
    assert second > -4 / 3
