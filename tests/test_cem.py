"""The cross-entropy method against the PyPI package that the reference descends from."""

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
    """The package's method with RoML's Beta family, fed with given samples and tie choices."""

    def do_sample(self, dist):
        return self.queue.pop(0)

    def is_original_dist(self):
        return self.refs[self.sample_count]

    def pdf(self, x, dist):
        return stats.beta.pdf(np.clip(x, BOUND, 1 - BOUND), 2 * dist, 2 - 2 * dist)

    def update_sample_distribution(self, samples, weights):
        w, s = np.array(weights), np.array(samples)
        return np.clip(np.mean(w * s) / np.mean(w), BOUND, 1 - BOUND)

    def batch(self, u, refs, scores, tie_order, monkeypatch):
        """Runs one whole batch; returns (phi, weights, selected)."""
        self.queue, self.refs = list(u), [*list(refs), False]

        def choose(candidates, n, replace):
            assert not replace
            return sorted(candidates, key=lambda i: tie_order[i])[:n]

        monkeypatch.setattr(np.random, "choice", choose)
        for _ in u:
            self.sample()
        weights = np.array(self.weights[-1])
        for score in scores:
            self.update(score, save=False)
        return self.sample_dist[-1], weights, np.array(self.selected_samples[-1])


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

        monkeypatch.setattr(jax.random, "uniform", lambda *_, **__: jnp.asarray(tie_order))  # noqa: B023
        state = cem.init(config, proposal, jax.random.key(0))._replace(phi=phi_array)
        state, metrics = cem.update(
            config,
            proposal,
            state,
            (u_array, log_w, jnp.asarray(is_ref)),
            jnp.asarray(scores),
            alpha,
            jax.random.key(1),
        )
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


def test_reference_mode_of_the_package_over_batches(x64, monkeypatch):
    """ref_mode='train_ref': the package as published, references first, ten batches in sequence."""
    size, num_ref = 40, 8
    package = PackageBeta(0.5, batch_size=size, ref_alpha=0.1, n_orig_per_batch=num_ref, min_batch_update=0.2)
    config = cem.CemConfig(batch_size=size, ref_share=0.2, min_share=0.2, soft=0.0, ref_mode="train_ref")
    proposal = proposals.beta(1, BOUND)
    state = cem.init(config, proposal, jax.random.key(0))
    is_ref = np.arange(size) < num_ref
    for _ in range(10):
        phi = float(state.phi[0])
        u = np.where(is_ref, RNG.uniform(size=size), RNG.beta(2 * phi, 2 - 2 * phi, size=size))
        scores = -u + 0.1 * RNG.normal(size=size)
        expected, weights, _ = package.batch(u, is_ref, scores, np.arange(size), monkeypatch)
        draw = (jnp.asarray(u)[:, None], jnp.log(jnp.asarray(weights)), jnp.asarray(is_ref))
        state, _ = cem.update(config, proposal, state, draw, jnp.asarray(scores), 0.1, jax.random.key(1))
        np.testing.assert_allclose(state.phi[0], expected, atol=1e-6)


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
    "bad", [{"batch_size": 1}, {"min_share": 0.0}, {"soft": 1.5}, {"ref_mode": "train_ref", "ref_share": 0.0}]
)
def test_impossible_options_are_refused(bad):
    with pytest.raises(ValueError, match=r"sampler\."):
        cem.CemConfig(**bad)
