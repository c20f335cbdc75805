"""The cross-entropy method against the PyPI package: the same phi, quantiles and selections."""

import functools
from unittest import mock

import jax
import numpy as np
import pytest
from cross_entropy_method.CEM import CEM as PackageCem
from cross_entropy_method.CEM import quantile as package_quantile
from scipy import stats

from roml_jax import cem, proposals
from roml_jax.types import TaskDraw

OPTIMISED = True

BOUND = 0.02
RNG = np.random.default_rng(1)


class PackageBeta(PackageCem):
    """The package with RoML's Beta family, fed with given samples, reference slots and tie choices."""

    def start(self, refs_of, tie_order, monkeypatch):
        """Sets which slots of a batch are references, by its number, and the order that ties are taken in."""
        self.refs_of = refs_of
        self.ref_indices = refs_of(0)

        def choose(candidates, n, replace):
            assert not replace
            return sorted(candidates, key=lambda i: tie_order[i])[:n]

        def quantile(x, q, w=None, **options):
            """Its order of tied scores decides whose weights stand at a tie's ends."""
            if w is None:
                return package_quantile(x, q, **options)
            i = np.lexsort((tie_order, x))
            return package_quantile(np.array(x)[i], q, np.array(w)[i], is_sorted=True, **options)

        monkeypatch.setattr(np.random, "choice", choose)
        monkeypatch.setitem(PackageCem.select_samples.__globals__, "quantile", quantile)

    def feed(self, u, scores, ratios=None):
        """Takes tasks and scores one by one; density ratios are the package's own unless given."""
        for i, score in enumerate(scores):
            self.next = u[i], None if ratios is None else ratios[i]
            self.sample()
            self.update(score)

    def reset_batch(self):
        super().reset_batch()
        self.ref_indices = self.refs_of(self.batch_count)

    def do_sample(self, dist):
        return self.next[0]

    def likelihood_ratio(self, x, use_original_dist=False):
        return super().likelihood_ratio(x, use_original_dist) if self.next[1] is None else self.next[1]

    def pdf(self, x, dist):
        return stats.beta.pdf(np.clip(x, BOUND, 1 - BOUND), 2 * dist, 2 - 2 * dist)

    def update_sample_distribution(self, samples, weights):
        w, s = np.array(weights), np.array(samples)
        return np.clip(np.mean(w * s) / np.mean(w), BOUND, 1 - BOUND)


SELECTED = []  # one mask per closed batch, as the fit got it; emptied by each test


def _watched(proposal):
    """The family, noting which tasks each fit is given: those of positive weight."""

    def fit(u, weights):
        jax.debug.callback(lambda w: SELECTED.append(np.asarray(w) > 0), weights, ordered=True)
        return proposal.fit(u, weights)

    return proposal._replace(fit=fit)


@functools.cache
def updater(config):
    """The jitted update of a configuration with the tie order as an argument."""
    proposal = _watched(proposals.beta(1, BOUND))

    @jax.jit
    def update(state, draw, scores, alpha, tie_order):
        with mock.patch.object(jax.random, "uniform", return_value=tie_order):
            return cem.update(config, proposal, state, draw, scores, jax.random.key(1), alpha)

    return update


@functools.cache
def starter(config):
    """The jitted first state of a configuration."""
    return jax.jit(lambda key: cem.init(config, proposals.beta(1, BOUND), key))


@functools.cache
def log_weights():
    """The jitted log-weights of (phi, u); made in double precision."""
    proposal = proposals.beta(1, BOUND)
    phi0 = proposal.phi0.astype(float)
    return jax.jit(lambda phi, u: proposal.log_prob(phi0, u) - proposal.log_prob(phi, u))


@functools.cache
def slots_of(size, ref_share):
    """The jitted reference slots of (key, batch)."""
    config = cem.CemConfig(batch_size=size, ref_share=ref_share)
    return jax.jit(lambda key, batch: cem.reference_slots(config, key, batch))


@functools.cache
def drawer(size, ref_share, n):
    """The jitted draw; no other option has a part in it."""
    config = cem.CemConfig(batch_size=size, ref_share=ref_share)
    return jax.jit(lambda state, key: cem.sample(config, proposals.beta(1, BOUND), state, key, n))


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

        package = PackageBeta(0.5, batch_size=size, ref_alpha=alpha, min_batch_update=min_share)
        refs_at = set(np.flatnonzero(is_ref))
        package.start(lambda batch, refs_at=refs_at: refs_at, tie_order, monkeypatch)
        package.sample_dist.append(phi)
        package.feed(u, scores)

        config = cem.CemConfig(batch_size=size, min_share=min_share, soft=0.0)
        phi_array, u_array = np.array([phi]), u[:, None]
        log_w = np.where(is_ref, 0.0, log_weights()(phi_array, u_array))
        np.testing.assert_allclose(np.exp(log_w), package.weights[0], rtol=1e-9)

        SELECTED.clear()
        state = starter(config)(jax.random.key(0))._replace(phi=phi_array)
        draw = TaskDraw(u_array, u_array, log_w, is_ref)
        state, metrics = updater(config)(state, draw, scores, alpha, tie_order)
        jax.effects_barrier()
        np.testing.assert_array_equal(SELECTED, package.selected_samples[1:])
        np.testing.assert_allclose(np.asarray(state.phi)[0], package.sample_dist[-1], atol=1e-6)
        np.testing.assert_allclose(metrics.q_int, package.internal_quantile[-1], atol=1e-6)
        np.testing.assert_allclose(metrics.q_ref, package.ref_quantile[-1], atol=1e-6)
        monkeypatch.undo()


OPTIONS = {
    "train": ({}, {}),
    "train_ref": ({"ref_mode": "train_ref"}, {"ref_mode": "train_ref"}),
    # without a reference quantile the package draws no references unless told to
    "none": ({"ref_mode": "none", "n_orig_per_batch": 0.2}, {"ref_mode": "none"}),
    "threshold": ({"ref_thresh": -0.6, "n_orig_per_batch": 0.2}, {"threshold": -0.6}),
    # the package multiplies a 'valid' level by 100 once too often, so it gets a hundredth of it
    "valid": ({"ref_mode": "valid", "ref_alpha": 0.001}, {"ref_mode": "valid"}),
    "weight_clip": ({"w_clip": 1.5, "ref_mode": "train"}, {"weight_clip": 1.5}),
    # the package's own choice of ref_mode where weights are clipped
    "weight_clip_refs": ({"w_clip": 1.5}, {"weight_clip": 1.5, "ref_mode": "train_ref"}),
    "soft": ({"soft_update": 0.5}, {"soft": 0.5}),
    "quantile_soft": ({"soft_q_update": 0.5}, {"quantile_soft": 0.5}),
    "quantile_soft_refs": (
        {"soft_q_update": 0.75, "soft_update": 0.25, "ref_mode": "train_ref"},
        {"quantile_soft": 0.75, "soft": 0.25, "ref_mode": "train_ref"},
    ),
    "optimise": ({"optim_mode": True}, {"optimise": True}),
    "optimise_soft": (
        {"optim_mode": True, "soft_update": 0.5, "w_clip": 3},
        {"optimise": True, "soft": 0.5},
    ),
    "unforced": ({"force_min_samples": False}, {"force_min_share": False}),
    "share": ({"min_batch_update": 0.5}, {"min_share": 0.5}),
    "share_refs": (
        {"min_batch_update": 0.35, "ref_mode": "train_ref"},
        {"min_share": 0.35, "ref_mode": "train_ref"},
    ),
}


SIZES = [40, *(pytest.param(n, marks=pytest.mark.slow) for n in (16, 100))]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", OPTIONS)
def test_fifty_batches_are_the_packages(x64, monkeypatch, name, n):
    """Every option over sequences of batches; iterations equal to a batch, smaller and larger.

    Where an iteration is a batch the package computes its own density ratios, from its own phi.
    Elsewhere it would take its phi at the moment of each draw, so it gets the ratios under the phi that
    ours drew with; clipping stays its own.
    """
    package_options, ours = OPTIONS[name]
    size, alpha, total = 40, 0.1, 50 * 40
    config = cem.CemConfig(batch_size=size, **({"soft": 0.0} | ours))
    key = jax.random.key(5)
    state = starter(config)(key)
    ref_share = 0.0 if config.optimise else config.ref_share
    slots = slots_of(size, ref_share)
    tie_order = RNG.permutation(size).astype(float)
    package = PackageBeta(0.5, batch_size=size, **({"ref_alpha": alpha} | package_options))
    package.start(lambda batch: set(np.flatnonzero(slots(key, batch))), tie_order, monkeypatch)
    if name == "valid":
        outside = -RNG.uniform(size=200)
        package.update_ref_scores(outside)
        state = jax.jit(cem.set_reference)(state, outside, alpha)
    draw = drawer(size, ref_share, n)
    SELECTED.clear()
    for i in range(total // n):
        state, (u, _, log_w, is_ref) = draw(state, jax.random.key(i))
        flat = np.asarray(u)[:, 0]
        hardest = 0.5 + 0.4 * np.sin(8 * np.pi * i * n / total)  # moves, so that phi never rests
        scores = np.round(np.abs(flat - hardest) - 1 + 0.1 * RNG.normal(size=n), 1)  # ties
        package.feed(flat, scores, None if n == size else np.exp(np.asarray(log_w)))
        state, _ = updater(config)(state, TaskDraw(u, u, log_w, is_ref), scores, alpha, tie_order)
    jax.effects_barrier()
    batches = total // n * n // size
    assert int(state.batch) == package.batch_count == len(SELECTED) == batches
    np.testing.assert_array_equal(SELECTED, package.selected_samples[1:])
    history = jax.device_get(state.history)
    past, figures = history.phi[:batches, 0], history.metrics
    np.testing.assert_allclose(past, package.sample_dist[:batches], atol=1e-6)
    np.testing.assert_allclose(np.asarray(state.phi)[0], package.sample_dist[-1], atol=1e-6)
    np.testing.assert_allclose(figures.q_int[:batches], package.internal_quantile, atol=1e-6)
    np.testing.assert_allclose(figures.q_ref[:batches], package.ref_quantile, atol=1e-6)
    assert len(set(np.round(package.sample_dist, 3))) > 20


def test_weights_at_draw_time_are_the_packages(x64, monkeypatch):
    """Not injected: the package's own density ratio under the phi that the task was drawn with."""
    size = 40
    config = cem.CemConfig(batch_size=size)
    state = starter(config)(jax.random.key(0))._replace(phi=np.array([0.85]))
    _, (u, _, log_w, is_ref) = drawer(size, config.ref_share, size)(state, jax.random.key(1))
    package = PackageBeta(0.5, batch_size=size)
    package.start(lambda batch: set(np.flatnonzero(is_ref)), np.arange(size), monkeypatch)
    package.sample_dist.append(0.85)
    package.feed(np.asarray(u)[:, 0], -np.asarray(u)[:, 0])
    np.testing.assert_allclose(np.exp(log_w), package.weights[0], rtol=1e-9)
    assert np.std(package.weights[0]) > 0.1
