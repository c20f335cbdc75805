"""What must hold whatever the scores: hypothesis searches for scores that break it."""

import functools

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from roml_jax import cem, proposals
from roml_jax.types import TaskDraw

OPTIMISED = True

SIZE, ALPHA = 16, 0.2
PROPOSALS = {
    "beta": proposals.beta(1),
    "beta_exact_3": proposals.beta(3, bound=None),
    "exponential": proposals.exponential(0.1),
    "gaussian": proposals.gaussian((0.0, 1.0), (1.0, 2.0)),
    "gaussian_full": proposals.gaussian_full((0.0, 0.0), ((1.0, 0.5), (0.5, 1.0))),
    "categorical": proposals.categorical((0.5, 0.25, 0.25)),
    "mixture": proposals.with_prior(proposals.beta(1), 0.1),
    "product": proposals.product([proposals.beta(1), proposals.exponential(2.0)]),
}
OPTIONS = {
    "default": {},
    "train_ref": {"ref_mode": "train_ref"},
    "none": {"ref_mode": "none", "force_min_share": False},
    "clipped": {"weight_clip": 2.0, "quantile_soft": 0.5},
    "optimise": {"optimise": True, "soft": 0.0},
    "threshold": {"threshold": 0.0},
    "exact": {"density": "exact", "quantile_soft": 0.5, "ref_mode": "train_ref"},
}


def first_state(config, proposal):
    """By one program."""
    return jax.jit(lambda key: cem.init(config, proposal, key))(jax.random.key(0))


@functools.cache
def batch_of(proposal_name, option):
    """A jitted batch: draws at the state's phi, takes the given scores; draws at a phi; the first state."""
    config, proposal = cem.CemConfig(batch_size=SIZE, history=2, **OPTIONS[option]), PROPOSALS[proposal_name]

    @jax.jit
    def batch(state, scores, key):
        state, draw = cem.sample(config, proposal, state, key, SIZE)
        return cem.update(config, proposal, state, draw, scores, key, ALPHA)

    @jax.jit
    def drawn(phi):
        u = proposal.sample(phi, jax.random.key(0), 32)
        return u, proposal.log_prob(phi, u)

    return batch, drawn, first_state(config, proposal)


numbers = st.floats(width=32) | st.sampled_from([0.0, 1.0, np.nan, -np.inf])
anything = hnp.arrays(np.float32, (3, SIZE), elements=numbers)


# the options do not know the family: all of them on one family, the default on all, weights on two more
PAIRS = [
    (n, o)
    for n in PROPOSALS
    for o in OPTIONS
    if o == "default" or n == "beta" or (o in ("clipped", "exact") and n in ("gaussian_full", "product"))
]


@pytest.mark.parametrize(("name", "option"), PAIRS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scores=anything, seed=st.integers(0, 1000))
def test_phi_stays_finite_and_inside_its_bounds(name, option, scores, seed):
    batch, drawn, state = batch_of(name, option)
    proposal = PROPOSALS[name]
    for row, key in zip(scores, jax.random.split(jax.random.key(seed), 3), strict=True):
        state, figures = batch(state, row, key)
        assert int(figures.diverged) == np.isnan(row).sum()
    phi = np.asarray(state.phi)
    assert np.isfinite(phi).all()
    assert (phi >= np.asarray(proposal.low) - 1e-5).all()
    assert (phi <= np.asarray(proposal.high) + 1e-5).all()
    u, log_prob = drawn(state.phi)
    assert np.isfinite(np.asarray(u)).all()
    assert np.isfinite(np.asarray(log_prob)).all()


def close(scores, u, log_w, is_ref, **options):
    config = cem.CemConfig(batch_size=SIZE, soft=0.0, **options)
    u = u[:, None]
    return float(np.asarray(_updater(config)(TaskDraw(u, u, log_w, is_ref), scores))[0])


@functools.cache
def _updater(config):
    """(draw, scores) -> phi after a batch."""
    proposal = proposals.beta(1)
    state = first_state(config, proposal)

    @jax.jit
    def update(state, draw, scores):
        return cem.update(config, proposal, state, draw, scores, jax.random.key(1), ALPHA)[0].phi

    return functools.partial(update, state)


distinct = st.lists(st.integers(-1000, 1000), min_size=SIZE, max_size=SIZE, unique=True)


@pytest.mark.parametrize("mode", ["train", "train_ref", "none"])
@settings(max_examples=25, deadline=None)
@given(scores=distinct, seed=st.integers(0, 1000))
def test_neither_the_order_of_tasks_nor_a_monotone_map_of_the_scores_matters(mode, scores, seed):
    rng, scores = np.random.default_rng(seed), np.array(scores, np.float32)
    u, log_w = rng.uniform(size=SIZE).astype(np.float32), rng.normal(size=SIZE).astype(np.float32)
    is_ref = rng.permutation(np.arange(SIZE) < 5)
    plain = close(scores, u, log_w, is_ref, ref_mode=mode)
    order = rng.permutation(SIZE)
    shuffled = close(scores[order], u[order], log_w[order], is_ref[order], ref_mode=mode)
    assert shuffled == pytest.approx(plain, abs=1e-5)
    if mode == "train_ref":
        return  # its threshold lies between two references, and other tasks may lie there too
    mapped = np.sign(scores) * np.sqrt(np.abs(scores)) * 10 + 3
    assert close(mapped, u, log_w, is_ref, ref_mode=mode) == pytest.approx(plain, abs=1e-5)


def _normal(phi, u):
    return stats.norm.logpdf(u, phi[:2], np.exp(phi[2:])).sum(axis=1)


def _full_normal(phi, u):
    lower = np.array([[phi[2], 0], [phi[3], phi[4]]])
    return stats.multivariate_normal.logpdf(u, phi[:2], lower @ lower.T)


def _beta(phi, u, bound=0.0):
    return stats.beta.logpdf(np.clip(u, bound, 1 - bound), 2 * phi, 2 - 2 * phi).sum(axis=1)


def _mixture(phi, u):
    clipped = np.clip(u[:, 0], 0.02, 0.98)
    return np.log(0.1 + 0.9 * stats.beta.pdf(clipped, 2 * phi[0], 2 - 2 * phi[0]))


def _product(phi, u):
    return _beta(phi[:1], u[:, :1], 0.02) + stats.expon.logpdf(u[:, 1], scale=phi[1])


# what each family's density is by scipy, and between which numbers phi may lie
share, means, log_stds = st.floats(0.03, 0.97), st.floats(-1.0, 1.0), st.floats(-0.7, 0.7)
SCIPY = {
    "beta": (lambda phi, u: _beta(phi, u, 0.02), (share,)),
    "beta_exact_3": (_beta, (share,) * 3),
    "exponential": (lambda phi, u: stats.expon.logpdf(u[:, 0], scale=phi[0]), (st.floats(0.02, 3.0),)),
    "gaussian": (_normal, (means, means, log_stds, log_stds)),
    "gaussian_full": (_full_normal, (means, means, st.floats(0.5, 2.0), means, st.floats(0.5, 2.0))),
    "categorical": (lambda phi, u: np.log(phi[u[:, 0].astype(int)]), (st.floats(0.05, 0.45),) * 2),
    "mixture": (_mixture, (share,)),
    "product": (_product, (share, st.floats(0.5, 5.0))),
}


@functools.cache
def _drawer(name, density):
    """A jitted draw, and the first state."""
    config = cem.CemConfig(batch_size=SIZE, density=density)
    draw = jax.jit(lambda state, key: cem.sample(config, PROPOSALS[name], state, key, SIZE))
    return draw, first_state(config, PROPOSALS[name])


@pytest.mark.parametrize("name", SCIPY)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_log_weights_are_scipys_density_ratios(name, data, seed):
    proposal, (logpdf, values) = PROPOSALS[name], SCIPY[name]
    phi = [data.draw(value) for value in values]
    phi = np.asarray([*phi, 1 - sum(phi)] if name == "categorical" else phi, np.float32)
    draw, state = _drawer(name, "clipped")
    _, (u, _, log_w, is_ref) = draw(state._replace(phi=phi), jax.random.key(seed))
    u64 = np.asarray(u, np.float64)
    expected = np.where(is_ref, 0.0, logpdf(np.asarray(proposal.phi0), u64) - logpdf(phi, u64))
    np.testing.assert_allclose(log_w, expected, atol=2e-3, rtol=2e-3)


@settings(max_examples=25, deadline=None)
@given(phi=share, seed=st.integers(0, 1000))
def test_the_exact_density_is_scipys_where_it_is_asked_for(phi, seed):
    phi = np.asarray([phi], np.float32)
    draw, state = _drawer("beta", "exact")
    _, (u, _, log_w, is_ref) = draw(state._replace(phi=phi), jax.random.key(seed))
    u64 = np.asarray(u, np.float64)
    expected = np.where(is_ref, 0.0, _beta(np.array([0.5]), u64) - _beta(phi, u64))
    np.testing.assert_allclose(log_w, expected, atol=2e-3, rtol=2e-3)
