"""What the cross-entropy method promises: batches of any pieces, shares, fixed points, refusals."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from roml_jax import cem, proposals, tasks
from roml_jax.types import TaskDraw

BOUND = 0.02
RNG = np.random.default_rng(1)


def functions(config, proposal, alpha=0.05):
    """``init``, ``sample`` and ``update`` of the method, each in one program."""
    return (
        jax.jit(lambda key: cem.init(config, proposal, key)),
        jax.jit(lambda state, key, n: cem.sample(config, proposal, state, key, n), static_argnums=2),
        jax.jit(lambda state, draw, score, key: cem.update(config, proposal, state, draw, score, key, alpha)),
    )


def of_phi(u):
    """Draws of weight 1, no references."""
    return TaskDraw(u, u, np.zeros(len(u)), np.zeros(len(u), bool))


def test_nothing_selected_leaves_phi(x64):
    config = cem.CemConfig(batch_size=8, min_share=1e-9)
    init, _, update = functions(config, proposals.beta(1))
    state = init(jax.random.key(0))._replace(phi=np.array([0.8]))
    state, metrics = update(state, of_phi(np.full((8, 1), 0.3)), np.zeros(8), jax.random.key(1))
    assert np.asarray(state.phi)[0] == 0.8
    assert metrics.selected_share == 0


def test_scores_from_outside_may_be_infinite_but_not_none(x64):
    init, *_ = functions(cem.CemConfig(batch_size=4), proposals.beta(1))
    state = init(jax.random.key(0))
    scores = np.array([-np.inf] * 5 + [0.0, 1.0, 2.0, 3.0, np.nan])
    assert float(jax.jit(cem.set_reference)(state, scores, 0.3).outside) < -1e100
    with pytest.raises(ValueError, match="at least one score"):
        cem.set_reference(state, np.zeros(0), 0.3)


def test_least_share_is_cut_as_the_package_cuts_it():
    """0.29 of 100 is 28.999... in binary: 28 of the tied tasks, not 29."""
    config = cem.CemConfig(batch_size=100, min_share=0.29)
    chosen = jax.jit(lambda score, threshold: cem.select(config, score, threshold))(np.zeros(100), 0.0)
    assert int(np.asarray(chosen).sum()) == 28


def test_ties_are_broken_at_random():
    """Every one of 64 tied tasks is as likely to be among the 16 that fill the share."""
    config = cem.CemConfig(batch_size=64, min_share=0.25, ref_mode="none")
    proposal = proposals.categorical(np.full(64, 1 / 64), floor=1e-9)
    init, _, update = functions(config, proposal, 0.5)

    @jax.jit
    def phis(first, others, draw, scores):
        updated = jax.vmap(update, in_axes=(None, None, None, 0))
        return updated(init(first), draw, scores, jax.random.split(others, 2000))[0].phi

    draw = of_phi(np.arange(64.0)[:, None])
    filled = np.asarray(phis(jax.random.key(0), jax.random.key(1), draw, np.zeros(64))) > 1 / 64
    np.testing.assert_array_equal(filled.sum(axis=1), 16)
    np.testing.assert_allclose(filled.mean(axis=0), 0.25, atol=4 * (0.25 * 0.75 / 2000) ** 0.5)


def test_history_keeps_the_last_batches():
    init, _, update = functions(cem.CemConfig(batch_size=4, history=3), proposals.beta(1), 0.5)
    state = init(jax.random.key(0))
    phis = []
    for i in range(5):
        phis.append(float(np.asarray(state.phi)[0]))
        u = np.asarray(jax.random.uniform(jax.random.key(i), (4, 1)))
        state, _ = update(state, of_phi(u), u[:, 0], jax.random.key(0))
    np.testing.assert_allclose(np.asarray(state.history.phi)[:, 0], [phis[3], phis[4], phis[2]])


@functools.cache
def in_pieces():
    """Functions for all sizes of a piece; made in double precision."""
    return functions(cem.CemConfig(batch_size=128, min_share=0.2), proposals.beta(1))


@pytest.mark.parametrize("n", [1, 16, 40, 128, 300])
def test_any_number_per_call_gives_the_same_batches(x64, n):
    """Scores that come in pieces of any size close the same batches as single ones."""
    total = 600
    u = RNG.uniform(size=(total, 1))
    draw = TaskDraw(u, u, RNG.normal(size=total) * 0.1, RNG.uniform(size=total) < 0.2)
    scores = RNG.normal(size=total)  # distinct, so that no tie is broken by the key
    init, _, update = in_pieces()

    def feed(step):
        state = init(jax.random.key(0))
        for start in range(0, total, step):
            part = slice(start, min(start + step, total))
            state, _ = update(state, TaskDraw(*(x[part] for x in draw)), scores[part], jax.random.key(1))
        return state

    pieces, whole = feed(n), feed(total)
    assert int(pieces.batch) == total // 128
    assert int(pieces.cursor) == total % 128
    np.testing.assert_allclose(pieces.phi, whole.phi, rtol=1e-12)
    held = int(pieces.cursor)
    np.testing.assert_array_equal(np.asarray(pieces.score)[:held], np.asarray(whole.score)[:held])


def test_every_batch_has_its_reference_slots_whatever_the_calls():
    init, draw, _ = functions(cem.CemConfig(batch_size=128), proposals.beta(1))
    state = init(jax.random.key(3))._replace(phi=np.array([0.9], np.float32))
    flags = []
    for n in (50, 100, 300, 62):
        state, (_, _, log_w, is_ref) = draw(state, jax.random.key(n), n)
        flags.append(np.asarray(is_ref))
        assert (np.asarray(log_w)[flags[-1]] == 0).all()
        assert (np.asarray(log_w)[~flags[-1]] != 0).mean() > 0.9  # phi is away from the prior
    batches = np.concatenate(flags).reshape(4, 128)
    np.testing.assert_array_equal(batches.sum(axis=1), [25] * 4)
    assert not (batches[0] == batches[1]).all()


def test_diverged_task_is_left_out(x64):
    config = cem.CemConfig(batch_size=16, soft=0.0)
    init, _, update = functions(config, proposals.beta(1))
    u = RNG.uniform(size=(16, 1))
    scores = np.where(np.arange(16) == 5, np.nan, u[:, 0])
    state, metrics = update(init(jax.random.key(0)), of_phi(u), scores, jax.random.key(1))
    assert metrics.diverged == 1
    assert np.isfinite(state.phi).all()
    assert np.asarray(state.phi)[0] < 0.5


FIXED_POINTS = {
    # uniform on [0, 1], the worst 5 % are u > 0.95
    "beta": (tasks.beta("x", 0.0, 1.0, bound=None), 0.975, 0.004),
    # exponential without memory: the worst 5 % lie above mean * log 20, by one mean on average
    "exponential": (tasks.exponential("x", 0.1), 0.1 * (np.log(20) + 1), 0.008),
}


@pytest.mark.parametrize("name", FIXED_POINTS)
def test_phi_settles_at_the_mean_of_the_hardest_tasks(name):
    """On return = -u the fixed point is the prior's mean over its worst 5 %, in closed form."""
    family, fixed_point, tolerance = FIXED_POINTS[name]
    config = cem.CemConfig(batch_size=2048)

    def batch(state, key):
        state, (u, _, log_w, is_ref) = cem.sample(config, family.proposal, state, key, 2048)
        return cem.update(config, family.proposal, state, TaskDraw(u, u, log_w, is_ref), -u[:, 0], key, 0.05)

    @jax.jit
    def run(first, others):
        start = cem.init(config, family.proposal, first)
        return jax.lax.scan(batch, start, jax.random.split(others, 80))[0]

    state = run(jax.random.key(0), jax.random.key(1))
    assert float(np.asarray(state.history.phi)[20:80, 0].mean()) == pytest.approx(fixed_point, abs=tolerance)


@pytest.mark.parametrize(
    "family", [tasks.beta("x", 0.0, 1.0), tasks.with_prior(tasks.disk(("x", "y"), 5.0), 0.1)]
)
def test_density_chooses_between_clipped_and_exact_weights(family):
    """By scipy: the ratio at u itself, or at u clipped to [0.02, 0.98] as the reference takes it."""
    for density in ("clipped", "exact"):
        config = cem.CemConfig(batch_size=16, density=density, ref_share=0.0)
        init, sample, _ = functions(config, family.proposal)
        state = init(jax.random.key(0))
        state = state._replace(phi=np.full_like(state.phi, 0.95))
        _, (u, _, log_w, _) = sample(state, jax.random.key(1), 5_000)
        at = np.asarray(u) if density == "exact" else np.clip(u, BOUND, 1 - BOUND)
        f = stats.beta.pdf(at.astype(float), 1.9, 0.1).prod(axis=1)
        f = 0.1 + 0.9 * f if len(family.names) == 2 else f
        np.testing.assert_allclose(log_w, -np.log(f), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 1},
        {"min_share": 0.0},
        {"soft": 1.5},
        {"ref_mode": "trian"},
        {"threshold": float("nan")},
        {"ref_mode": "train_ref", "ref_share": 0.0},
        {"ref_share": 1.0},
        {"soft": 1.0},
        {"density": "clip"},
        {"optimise": True, "ref_mode": "none"},
        {"optimise": True, "quantile_soft": 0.5},
        {"optimise": True, "weight_clip": 2.0},
    ],
)
def test_impossible_options_are_refused(bad):
    with pytest.raises(ValueError, match=r"sampler\."):
        cem.CemConfig(**bad)


@pytest.mark.parametrize(
    "proposal",
    [proposals.beta(1), proposals.beta(3), proposals.beta(2, None), proposals.exponential(0.1)],
    ids=["one", "three", "exact", "exponential"],
)
def test_no_rank_is_promoted_unasked(proposal):
    """Every broadcast is written out: sampling, densities, fits, quantiles and the update of a batch."""
    config = cem.CemConfig(batch_size=8, density="exact")
    with jax.numpy_rank_promotion("raise"):
        init, sample, update = functions(config, proposal, 0.2)
        state = init(jax.random.key(0))
        for i in range(2):
            state, draw = sample(state, jax.random.key(i), 12)
            state, metrics = update(state, draw, -np.asarray(draw.u)[:, 0], jax.random.key(i))
    assert np.isfinite(state.phi).all()
    assert np.isfinite(metrics.q_ref)
