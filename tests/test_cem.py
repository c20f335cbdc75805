"""The cross-entropy method against the PyPI package that the reference descends from."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cem.CEM import CEM as PackageCem
from cem.CEM import quantile as package_quantile
from scipy import stats

from roml_jax import cem, proposals, tasks

BOUND = 0.02
RNG = np.random.default_rng(1)


class PackageBeta(PackageCem):
    """The package's method with RoML's Beta family, fed with given samples, weights and tie choices."""

    def do_sample(self, dist):
        return self.queue.pop(0)

    def is_original_dist(self):
        return self.refs[self.sample_count]

    def get_weight(self, x, use_original_dist=False):
        weight = super().get_weight(x, use_original_dist)
        return self.given_weights.pop(0) if self.given_weights else weight

    def pdf(self, x, dist):
        return stats.beta.pdf(np.clip(x, BOUND, 1 - BOUND), 2 * dist, 2 - 2 * dist)

    def update_sample_distribution(self, samples, weights):
        w, s = np.array(weights), np.array(samples)
        return np.clip(np.mean(w * s) / np.mean(w), BOUND, 1 - BOUND)

    def feed(self, u, refs, tie_order, monkeypatch, weights=()):
        """Sets what the next draws are, which of a batch are references, and how ties are broken."""
        self.queue, self.refs, self.given_weights = list(u), [*list(refs), False], list(weights)

        def choose(candidates, n, replace):
            assert not replace
            return sorted(candidates, key=lambda i: tie_order[i])[:n]

        monkeypatch.setattr(np.random, "choice", choose)

    def batch(self, u, refs, scores, tie_order, monkeypatch):
        """Runs one whole batch; returns (phi, weights, selected)."""
        self.feed(u, refs, tie_order, monkeypatch)
        for _ in u:
            self.sample()
        weights = np.array(self.weights[-1])
        for score in scores:
            self.update(score, save=False)
        return self.sample_dist[-1], weights, np.array(self.selected_samples[-1])


@functools.cache
def updater(config):
    """The jitted update of a configuration with the tie order as an argument."""

    @jax.jit
    def update(state, draw, scores, alpha, tie_order):
        with mock.patch.object(jax.random, "uniform", return_value=tie_order):
            return cem.update(config, proposals.beta(1, BOUND), state, draw, scores, alpha, jax.random.key(1))

    return update


def _scores(kind, size, u):
    return {
        "distinct": RNG.normal(size=size),
        "ties": RNG.integers(0, 4, size=size).astype(float),
        "all_equal": np.full(size, 1.5),
        "of_the_task": -u,
        "one_selected": np.r_[-1.0, np.zeros(size - 1)],
    }[kind]


@pytest.mark.parametrize("refs", ["some", "all", "none"])
@pytest.mark.parametrize("kind", ["distinct", "ties", "all_equal", "of_the_task", "one_selected"])
@pytest.mark.parametrize("forced", [True, False])
def test_one_update_is_the_packages(x64, monkeypatch, kind, refs, forced):
    size, alpha, phi = 64, 0.05, 0.7
    min_share = 0.2 if forced else 1e-9  # with ties at the minimum and no share to fill, nothing is selected
    for trial in range(5):
        u = RNG.beta(2 * phi, 2 - 2 * phi, size=size)
        is_ref = {
            "some": np.arange(size) % 5 == trial % 5,
            "all": np.ones(size, bool),
            "none": np.zeros(size, bool),
        }
        is_ref = is_ref[refs]
        scores, tie_order = _scores(kind, size, u), RNG.permutation(size).astype(float)

        package = PackageBeta(0.5, batch_size=size, min_batch_update=min_share, n_orig_per_batch=1)
        package.sample_dist.append(phi)
        package.min_batch_update = min_share  # RoML takes the share of the whole batch
        # RoML's threshold is the weighted quantile of the whole batch, which the package takes as given
        weights = np.where(is_ref, 1.0, package.pdf(u, 0.5) / package.pdf(u, phi))
        package.ref_q = package_quantile(scores, alpha, weights, estimate_underlying_quantile=True)
        expected_phi, expected_w, expected_selected = package.batch(u, is_ref, scores, tie_order, monkeypatch)

        config = cem.CemConfig(batch_size=size, min_share=min_share, soft=0.0)
        proposal = proposals.beta(1, BOUND)
        phi_array, u_array = jnp.array([phi]), jnp.asarray(u)[:, None]
        log_w = proposal.log_prob(proposal.phi0.astype(float), u_array) - proposal.log_prob(
            phi_array, u_array
        )
        log_w = jnp.where(is_ref, 0.0, log_w)
        np.testing.assert_allclose(np.exp(log_w), expected_w, rtol=1e-6)
        q_ref = jnp.asarray(package.ref_quantile[-1])
        chosen, _ = cem.select(config, jnp.asarray(scores), q_ref, jnp.asarray(tie_order))
        np.testing.assert_array_equal(chosen, expected_selected)

        state = cem.init(config, proposal, jax.random.key(0))._replace(phi=phi_array)
        draw = (u_array, log_w, jnp.asarray(is_ref))
        state, metrics = updater(config)(state, draw, jnp.asarray(scores), alpha, jnp.asarray(tie_order))
        np.testing.assert_allclose(state.phi[0], expected_phi, atol=1e-6)
        np.testing.assert_allclose(metrics.q_int, package.internal_quantile[-1], atol=1e-6)
        np.testing.assert_allclose(metrics.q_ref, package.ref_quantile[-1], atol=1e-6)
        monkeypatch.undo()


def test_nothing_selected_leaves_phi(x64):
    config = cem.CemConfig(batch_size=8, min_share=1e-9)
    proposal = proposals.beta(1)
    state = cem.init(config, proposal, jax.random.key(0))._replace(phi=jnp.array([0.8]))
    u = jnp.full((8, 1), 0.3)
    draw = (u, jnp.zeros(8), jnp.zeros(8, bool))
    state, metrics = cem.update(config, proposal, state, draw, jnp.zeros(8), 0.05, jax.random.key(1))
    assert state.phi[0] == 0.8
    assert metrics.selected_share == 0


OPTIONS = {
    "references": ({}, {"ref_mode": "train_ref"}),
    "none": ({"ref_mode": "none"}, {"ref_mode": "none"}),
    "threshold": ({"ref_q": -0.6, "n_orig_per_batch": 0.2}, {"threshold": -0.6}),
    # the package multiplies a 'valid' level by 100 once too often, so it gets a hundredth of it
    "valid": ({"ref_mode": "valid", "ref_alpha": 0.001}, {"ref_mode": "valid"}),
    "weight_clip": ({"w_clip": 1.5}, {"ref_mode": "train_ref", "weight_clip": 1.5}),
    "unforced": ({"force_min_samples": False}, {"ref_mode": "train_ref", "force_min_share": False}),
    "share": ({"min_batch_update": 0.5}, {"ref_mode": "train_ref", "min_share": 0.5}),
}


@pytest.mark.parametrize("n", [40, 16, 100])
@pytest.mark.parametrize("name", OPTIONS)
def test_fifty_batches_are_the_packages(x64, monkeypatch, name, n):
    """Every option over sequences of batches; iterations equal to a batch, smaller and larger."""
    package_options, ours = OPTIONS[name]
    size, alpha, total = 40, 0.1, 50 * 40
    config = cem.CemConfig(batch_size=size, soft=0.0, **ours)
    proposal = proposals.beta(1, BOUND)
    is_first = np.arange(size) < config.num_ref
    monkeypatch.setattr(cem, "reference_slots", lambda *_: jnp.asarray(is_first))  # as the package: first
    tie_order = RNG.permutation(size).astype(float)
    package = PackageBeta(0.5, batch_size=size, **({"ref_alpha": alpha} | package_options))
    state = cem.init(config, proposal, jax.random.key(0))
    if name == "valid":
        outside = -RNG.uniform(size=200)
        package.update_ref_scores(outside)
        state = cem.set_reference(state, jnp.asarray(outside), alpha)
    draw = jax.jit(lambda state, key: cem.sample(config, proposal, state, key, n))
    for i in range(total // n):
        state, u, log_w, is_ref = draw(state, jax.random.key(i))
        flat = np.asarray(u)[:, 0]
        scores = np.round(-flat + 0.1 * RNG.normal(size=n), 1)  # ties
        weights = np.exp(np.asarray(log_w))
        clip = config.weight_clip
        package.feed(
            flat,
            is_first,
            tie_order,
            monkeypatch,
            weights if clip is None else np.clip(weights, 1 / clip, clip),
        )
        for score in scores:
            package.sample()
            package.update(score, save=False)
        state, _ = updater(config)(
            state, (u, log_w, is_ref), jnp.asarray(scores), alpha, jnp.asarray(tie_order)
        )
    batches = total // n * n // size
    assert int(state.batch) == package.batch_count == batches
    np.testing.assert_allclose(state.history.phi[:batches, 0], package.sample_dist[:batches], atol=1e-6)
    np.testing.assert_allclose(state.phi[0], package.sample_dist[-1], atol=1e-6)
    np.testing.assert_allclose(state.history.metrics.q_int[:batches], package.internal_quantile, atol=1e-6)
    np.testing.assert_allclose(state.history.metrics.q_ref[:batches], package.ref_quantile, atol=1e-6)
    selected = np.array(package.n_update_samples) / size
    np.testing.assert_allclose(state.history.metrics.selected_share[:batches], selected, atol=1e-12)


def test_weights_at_draw_time_are_the_packages(x64, monkeypatch):
    """Not injected: the package's own density ratio under the phi that the task was drawn with."""
    size = 40
    package = PackageBeta(0.5, batch_size=size)
    package.sample_dist.append(0.85)
    u = RNG.beta(1.7, 0.3, size=size)
    is_ref = np.arange(size) < 8
    _, weights, _ = package.batch(u, is_ref, -u, np.arange(size), monkeypatch)
    proposal = proposals.beta(1, BOUND)
    log_w = proposal.log_prob(jnp.array([0.5]), jnp.asarray(u)[:, None]) - proposal.log_prob(
        jnp.array([0.85]), jnp.asarray(u)[:, None]
    )
    np.testing.assert_allclose(np.where(is_ref, 1, np.exp(log_w)), weights, rtol=1e-9)


def test_soft_quantile_and_optimisation_mode(x64):
    u = jnp.linspace(0.01, 0.99, 20)[:, None]
    draw = (u, jnp.full(20, 3.0), jnp.zeros(20, bool))
    proposal = proposals.beta(1, BOUND)
    config = cem.CemConfig(batch_size=20, quantile_soft=0.75)
    state = cem.init(config, proposal, jax.random.key(0))
    seen = []
    for shift in (0.0, 1.0):
        state, metrics = cem.update(config, proposal, state, draw, u[:, 0] + shift, 0.3, jax.random.key(0))
        seen.append(float(metrics.q_ref))
    assert seen[1] == pytest.approx(seen[0] + 0.25)

    config = cem.CemConfig(batch_size=20, optimise=True, soft=0.0)
    state = cem.init(config, proposal, jax.random.key(0))
    assert config.num_ref == 0
    weighted = (u, jnp.linspace(-5, 5, 20), jnp.zeros(20, bool))
    state, metrics = cem.update(config, proposal, state, weighted, u[:, 0], 0.3, jax.random.key(0))
    assert float(metrics.q_ref) == -np.inf
    assert float(state.phi[0]) == pytest.approx(float(u[:4].mean()))  # unweighted mean of the lowest fifth


def test_scores_from_outside_may_be_infinite_but_not_none(x64):
    state = cem.init(cem.CemConfig(batch_size=4), proposals.beta(1), jax.random.key(0))
    scores = jnp.asarray([-np.inf] * 5 + [0.0, 1.0, 2.0, 3.0, np.nan])
    assert float(cem.set_reference(state, scores, 0.3).outside) < -1e100
    with pytest.raises(ValueError, match="at least one score"):
        cem.set_reference(state, jnp.zeros(0), 0.3)


def test_least_share_is_cut_as_the_package_cuts_it():
    """0.29 of 100 is 28.999... in binary: 28 of the tied tasks, not 29."""
    config = cem.CemConfig(batch_size=100, min_share=0.29)
    chosen, _ = cem.select(config, jnp.zeros(100), jnp.asarray(-jnp.inf), jnp.arange(100.0))
    assert int(chosen.sum()) == 28


def test_history_keeps_the_last_batches():
    config = cem.CemConfig(batch_size=4, history=3)
    proposal = proposals.beta(1)
    state = cem.init(config, proposal, jax.random.key(0))
    step = jax.jit(lambda s, d, r: cem.update(config, proposal, s, d, r, 0.5, jax.random.key(0))[0])
    phis = []
    for i in range(5):
        phis.append(float(state.phi[0]))
        u = jax.random.uniform(jax.random.key(i), (4, 1))
        state = step(state, (u, jnp.zeros(4), jnp.zeros(4, bool)), u[:, 0])
    np.testing.assert_allclose(state.history.phi[:, 0], [phis[3], phis[4], phis[2]])


@pytest.mark.parametrize("n", [1, 16, 40, 128, 300])
def test_any_number_per_call_gives_the_same_batches(x64, n):
    """Scores that come in pieces of any size close the same batches as single ones."""
    config = cem.CemConfig(batch_size=128, min_share=0.2)
    proposal = proposals.beta(1)
    total = 600
    u = RNG.uniform(size=(total, 1))
    draw = (
        jnp.asarray(u),
        jnp.asarray(RNG.normal(size=total) * 0.1),
        jnp.asarray(RNG.uniform(size=total) < 0.2),
    )
    scores = jnp.asarray(RNG.normal(size=total))  # distinct, so that no tie is broken by the key

    def feed(step):
        state = cem.init(config, proposal, jax.random.key(0))
        update = jax.jit(lambda s, d, r: cem.update(config, proposal, s, d, r, 0.05, jax.random.key(1))[0])
        for start in range(0, total, step):
            part = slice(start, min(start + step, total))
            state = update(state, tuple(x[part] for x in draw), scores[part])
        return state

    pieces, whole = feed(n), feed(total)
    assert int(pieces.batch) == total // 128
    assert int(pieces.cursor) == total % 128
    np.testing.assert_allclose(pieces.phi, whole.phi, rtol=1e-12)
    held = int(pieces.cursor)
    np.testing.assert_array_equal(pieces.score[:held], whole.score[:held])


def test_every_batch_has_its_reference_slots_whatever_the_calls():
    config = cem.CemConfig(batch_size=128)
    proposal = proposals.beta(1)
    state = cem.init(config, proposal, jax.random.key(3))
    flags = []
    draw = jax.jit(lambda state, key, n: cem.sample(config, proposal, state, key, n), static_argnums=2)
    for n in (50, 100, 300, 62):
        state, _, log_w, is_ref = draw(state, jax.random.key(n), n)
        flags.append(np.asarray(is_ref))
        assert (np.asarray(log_w)[flags[-1]] == 0).all()
    batches = np.concatenate(flags).reshape(4, 128)
    np.testing.assert_array_equal(batches.sum(axis=1), [25] * 4)
    assert not (batches[0] == batches[1]).all()


def test_diverged_task_is_left_out(x64):
    config = cem.CemConfig(batch_size=16, soft=0.0)
    proposal = proposals.beta(1)
    u = jnp.asarray(RNG.uniform(size=(16, 1)))
    scores = u[:, 0].at[5].set(jnp.nan)
    state = cem.init(config, proposal, jax.random.key(0))
    state, metrics = cem.update(
        config, proposal, state, (u, jnp.zeros(16), jnp.zeros(16, bool)), scores, 0.05, jax.random.key(1)
    )
    assert metrics.diverged == 1
    assert np.isfinite(state.phi).all()
    assert state.phi[0] < 0.5


def test_hardest_tasks_attract_the_distribution():
    """On return = -u the worst 5 % are u > 0.95: phi settles near their mean, 0.975, at the clip 0.98."""
    config = cem.CemConfig(batch_size=128)
    family = tasks.beta("x", 0.0, 1.0)
    state = cem.init(config, family.proposal, jax.random.key(0))

    @jax.jit
    def batch(state, key):
        state, u, log_w, is_ref = cem.sample(config, family.proposal, state, key, 128)
        return cem.update(config, family.proposal, state, (u, log_w, is_ref), -u[:, 0], 0.05, key)[0]

    for key in jax.random.split(jax.random.key(1), 40):
        state = batch(state, key)
    assert 0.9 < state.phi[0] <= 0.98


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 1},
        {"min_share": 0.0},
        {"soft": 1.5},
        {"ref_mode": "trian"},
        {"threshold": float("nan")},
        {"ref_mode": "train_ref", "ref_share": 0.0},
    ],
)
def test_impossible_options_are_refused(bad):
    with pytest.raises(ValueError, match=r"sampler\."):
        cem.CemConfig(**bad)
