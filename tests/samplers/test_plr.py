"""Prioritised level replay: its distribution and buffer by hand, and what robust PLR learns from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import config, experiment, samplers, tasks
from roml_jax.errors import ConfigError
from roml_jax.samplers import buffer as buffers
from roml_jax.types import Feedback

FAMILY = tasks.beta("x", 0.0, 1.0)
SMALL = buffers.ReplayConfig(buffer=6, staleness=0.3, temperature=0.5, score="negative_return")
INF = np.inf
# one program for a shape, not one for every operation
probabilities, record = (jax.jit(f, static_argnums=0) for f in (buffers.probabilities, buffers.record))
replayed = jax.jit(buffers.replayed, static_argnums=(0, 3))


def empty(options):
    return jax.jit(lambda key: buffers.empty(options, FAMILY.proposal, key))(jax.random.key(0))


def held(score, visited, updates, best=None):
    score = np.asarray(score, np.float32)
    u = np.linspace(0.1, 0.6, score.size, dtype=np.float32)[:, None]
    best = -score if best is None else best
    return buffers.Buffer(
        *map(jnp.asarray, (u, score, np.asarray(best, np.float32), np.asarray(visited, np.int32))),
        jnp.int32(updates),
        jnp.int32(np.isfinite(score).sum()),
    )


def test_the_replay_distribution_is_the_formula_by_hand():
    """Ranks 2, 4, 1, 3 to the power of -2; tasks that wait for 1, 3, 0 and 4 updates; two empty places."""
    buffer = held([2.0, -1.0, 5.0, 0.0, -INF, -INF], [3, 1, 4, 0, 0, 0], 4)
    by_score = np.array([1 / 4, 1 / 16, 1, 1 / 9, 0, 0]) / (1 + 1 / 4 + 1 / 9 + 1 / 16)
    by_staleness = np.array([1, 3, 0, 4, 0, 0]) / 8
    expected = 0.7 * by_score + 0.3 * by_staleness
    np.testing.assert_allclose(probabilities(SMALL, buffer), expected, rtol=1e-6)
    # nobody has waited: staleness is spread evenly over the tasks that are held
    fresh = buffer._replace(visited=np.full(6, 4, np.int32))
    expected = 0.7 * by_score + 0.3 * np.array([1, 1, 1, 1, 0, 0]) / 4
    np.testing.assert_allclose(probabilities(SMALL, fresh), expected, rtol=1e-6)


def test_places_are_drawn_from_the_replay_distribution():
    buffer = held([2.0, -1.0, 5.0, 0.0, -INF, -INF], [3, 1, 4, 0, 0, 0], 4)
    place = np.asarray(replayed(SMALL, buffer, jax.random.key(0), 100_000))
    expected = np.asarray(probabilities(SMALL, buffer))
    drawn = np.bincount(place, minlength=6) / place.size
    assert (np.abs(drawn - expected) <= 4 * np.sqrt(expected / place.size)).all()
    assert not drawn[4:].any()


def test_equal_temperatures_of_very_low_ranks_do_not_vanish_or_overflow():
    cold = buffers.ReplayConfig(buffer=4000, temperature=0.01, staleness=0.0)
    buffer = held(np.arange(4000.0), np.zeros(4000), 0)
    chances = np.asarray(probabilities(cold, buffer))
    assert chances[-1] == pytest.approx(1.0)
    assert np.isfinite(chances).all()


class ByHand:
    """The buffer as a list of dictionaries; one task of one dimension per entry."""

    def __init__(self, options):
        self.options, self.entries, self.updates = options, [], 0

    def probability(self):
        order = sorted(range(len(self.entries)), key=lambda i: (-self.entries[i]["score"], i))
        weight = np.zeros(len(order))
        for rank, i in enumerate(order, start=1):
            weight[i] = rank ** (-1 / self.options.temperature)
        waited = np.array([self.updates - entry["visited"] for entry in self.entries], float)
        waited = waited if waited.any() else np.ones_like(waited)
        rho = self.options.staleness
        return (1 - rho) * weight / weight.sum() + rho * waited / waited.sum()

    def score(self, best, return_):
        return -return_ if self.options.score == "negative_return" else best - return_

    def record(self, u, returns):
        self.updates += 1
        known = {entry["u"]: entry for entry in self.entries}
        visits, new = {}, {}
        for task, return_ in zip(u.tolist(), returns.tolist(), strict=True):
            if task in known:
                known[task]["visited"] = self.updates
                if not np.isnan(return_):
                    best = max(known[task]["best"], return_)
                    visits.setdefault(task, []).append((self.score(best, return_), return_))
            elif not np.isnan(return_) and task not in new:
                new[task] = {"u": task, "score": self.score(return_, return_), "best": return_}
        for task, seen in visits.items():
            known[task]["score"] = np.mean([score for score, _ in seen])
            known[task]["best"] = max(known[task]["best"], *(return_ for _, return_ in seen))
        newcomers = sorted(new.values(), key=lambda entry: -entry["score"])[: self.options.buffer]
        for entry in newcomers:
            entry["visited"] = self.updates
        room = self.options.buffer - len(self.entries)
        victims = np.argsort(self.probability(), kind="stable") if self.entries else []
        self.entries += newcomers[:room]
        for entry, place in zip(newcomers[room:], victims, strict=False):
            if entry["score"] >= self.entries[place]["score"]:
                self.entries[place] = entry


@pytest.mark.parametrize("score", ["negative_return", "regret"])
def test_a_buffer_by_hand(score):
    """Thirty random batches, in which tasks are new, replayed, repeated and diverged."""
    options = buffers.ReplayConfig(buffer=12, staleness=0.3, temperature=0.5, score=score)
    rng, expected = np.random.default_rng(0), ByHand(options)
    buffer = empty(options)
    for _ in range(30):
        u = rng.uniform(size=8).astype(np.float32)
        if expected.entries:
            u[:4] = rng.choice([entry["u"] for entry in expected.entries], 4)
        u[7] = u[6]
        returns = (-u + rng.normal(size=8)).astype(np.float32)
        returns[rng.integers(8)] = np.nan
        buffer = record(options, buffer, u[:, None], Feedback(returns))
        expected.record(u, returns)
        at = np.asarray(buffer.held)
        assert at.sum() == len(expected.entries)
        order = np.argsort(np.asarray(buffer.u)[at, 0])
        wanted = sorted(expected.entries, key=lambda entry: entry["u"])
        for name in ("u", "score", "best", "visited"):
            mine = np.asarray(getattr(buffer, name))[at].reshape(-1)[order]
            np.testing.assert_allclose(mine, [entry[name] for entry in wanted], rtol=1e-5, atol=1e-6)
        chances = np.asarray(probabilities(options, buffer))[at]
        place = {entry["u"]: p for entry, p in zip(expected.entries, expected.probability(), strict=True)}
        mine = dict(zip(np.asarray(buffer.u)[at, 0].tolist(), chances.tolist(), strict=True))
        assert mine.keys() == place.keys()
        np.testing.assert_allclose([mine[u] for u in place], list(place.values()), rtol=1e-5)


def test_the_value_loss_is_the_score_and_a_diverged_simulation_has_none():
    options = buffers.ReplayConfig(buffer=6)
    feedback = Feedback(np.zeros(3), None, np.array([3.0, 1.0, 2.0]), np.array([False, False, True]))
    buffer = record(options, empty(options), np.array([[0.1], [0.2], [0.3]]), feedback)
    np.testing.assert_array_equal(np.asarray(buffer.score)[np.asarray(buffer.held)], [3.0, 1.0])
    with pytest.raises(ValueError, match="needs feedback with a value_score"):
        record(options, buffer, np.array([[0.1]]), Feedback(np.zeros(1)))


def test_tasks_are_replayed_one_by_one_once_the_buffer_is_filled():
    options = samplers.PlrConfig(buffer=64, filled=0.5, replay=0.3, score="negative_return", robust=True)
    sampler = samplers.make("plr", FAMILY, 0.2, options)
    init, update = jax.jit(sampler.init), jax.jit(sampler.update)
    jitted = jax.jit(sampler.sample, static_argnums=2)

    def sample(state, seed, n):
        state, draw = jitted(state, jax.random.key(seed), n)
        return state, jax.device_get(draw)

    state, draw = sample(init(jax.random.key(0)), 1, 31)
    state, _ = update(state, draw, -draw.u[:, 0], jax.random.key(2))
    assert bool(sample(state, 3, 500)[1].is_ref.all())  # 31 of 32
    state, draw = sample(state, 4, 1)
    state, _ = update(state, draw, -draw.u[:, 0], jax.random.key(2))
    _, draw = sample(state, 5, 5000)
    again = ~draw.is_ref
    assert again.mean() == pytest.approx(0.3, abs=0.03)
    kept = set(np.asarray(state.state.u)[np.asarray(state.state.held), 0].tolist())
    assert {u in kept for u in draw.u[again, 0].tolist()} == {True}
    assert not kept & set(draw.u[~again, 0].tolist())
    for weight in jax.jit(sampler.weights)(state, draw, -draw.u[:, 0]):
        np.testing.assert_array_equal(weight, again)
    plain = samplers.make("plr", FAMILY, 0.2, samplers.PlrConfig(buffer=64, score="negative_return"))
    assert bool(np.asarray(jax.jit(plain.weights)(state, draw, -draw.u[:, 0]).keep).all())


@functools.cache
def _training(robust):
    options = {"sampler.buffer": 24, "sampler.filled": 1.0, "sampler.robust": robust}
    small = {"num_tasks": 8, "frames": 1e4, "ppo.layers": 8, "ppo.minibatches": 2, "chunk": 8}
    parts = experiment.make(config.make("probe_memory", "plr", "multitask", **small, **options))
    return jax.jit(parts.train.init), jax.jit(parts.train.chunk)


def _trained(robust, iterations):
    init, chunk = _training(robust)
    state = init(jnp.stack([jax.random.key(0)]))
    before, after = state.learner.params, chunk(state, jnp.int32(iterations))[0]
    return jax.tree.map(np.asarray, (before, after.learner.params, after.sampler.state))


def test_robust_plr_learns_nothing_from_new_tasks():
    """Three iterations of eight tasks fill the buffer; the fourth is the first to replay any."""
    before, after, filled = _trained(True, 3)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert np.asarray(filled.held).all()
    _, robust, _ = _trained(True, 8)
    _, plain, _ = _trained(False, 8)
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (after, robust)), strict=True)]
    differ = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (plain, robust)), strict=True)]
    assert all(moved)
    assert all(differ)


@pytest.mark.parametrize("sampler", ["plr", "accel"])
def test_a_score_of_the_critic_needs_an_agent_that_has_one(sampler):
    wrong = config.make("probe_memory", sampler, "pearl", num_tasks=8)
    with pytest.raises(ConfigError, match=rf"sampler={sampler} .* needs the agent's value_score") as error:
        experiment.make(wrong)
    assert "\n" not in str(error.value)
    experiment.make(config.make(
        "probe_memory", sampler, "pearl", num_tasks=8, **{"sampler.score": "regret"}
    ))  # fmt: skip
