"""What the cross-entropy method promises: batches of any pieces, shares, fixed points, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from roml_jax import cem, proposals, tasks
from roml_jax.types import TaskDraw

BOUND = 0.02
RNG = np.random.default_rng(1)


def test_nothing_selected_leaves_phi(x64):
    config = cem.CemConfig(batch_size=8, min_share=1e-9)
    proposal = proposals.beta(1)
    state = cem.init(config, proposal, jax.random.key(0))._replace(phi=jnp.array([0.8]))
    u = jnp.full((8, 1), 0.3)
    draw = TaskDraw(u, u, jnp.zeros(8), jnp.zeros(8, bool))
    state, metrics = cem.update(config, proposal, state, draw, jnp.zeros(8), jax.random.key(1), 0.05)
    assert state.phi[0] == 0.8
    assert metrics.selected_share == 0


def test_scores_from_outside_may_be_infinite_but_not_none(x64):
    state = cem.init(cem.CemConfig(batch_size=4), proposals.beta(1), jax.random.key(0))
    scores = jnp.asarray([-np.inf] * 5 + [0.0, 1.0, 2.0, 3.0, np.nan])
    assert float(cem.set_reference(state, scores, 0.3).outside) < -1e100
    with pytest.raises(ValueError, match="at least one score"):
        cem.set_reference(state, jnp.zeros(0), 0.3)


def test_least_share_is_cut_as_the_package_cuts_it():
    """0.29 of 100 is 28.999... in binary: 28 of the tied tasks, not 29."""
    config = cem.CemConfig(batch_size=100, min_share=0.29)
    chosen = cem.select(config, jnp.zeros(100), jnp.zeros(()))
    assert int(chosen.sum()) == 28


def test_ties_are_broken_at_random():
    """Every one of 64 tied tasks is as likely to be among the 16 that fill the share."""
    config = cem.CemConfig(batch_size=64, min_share=0.25, ref_mode="none")
    proposal = proposals.categorical(np.full(64, 1 / 64), floor=1e-9)
    state = cem.init(config, proposal, jax.random.key(0))
    u = jnp.arange(64.0)[:, None]
    draw = TaskDraw(u, u, jnp.zeros(64), jnp.zeros(64, bool))

    def phi(key):
        return cem.update(config, proposal, state, draw, jnp.zeros(64), key, 0.5)[0].phi

    phis = jax.jit(jax.vmap(phi))(jax.random.split(jax.random.key(1), 2000))
    filled = np.asarray(phis) > 1 / 64
    np.testing.assert_array_equal(filled.sum(axis=1), 16)
    np.testing.assert_allclose(filled.mean(axis=0), 0.25, atol=4 * (0.25 * 0.75 / 2000) ** 0.5)


def test_history_keeps_the_last_batches():
    config = cem.CemConfig(batch_size=4, history=3)
    proposal = proposals.beta(1)
    state = cem.init(config, proposal, jax.random.key(0))
    step = jax.jit(lambda s, d, r: cem.update(config, proposal, s, d, r, jax.random.key(0), 0.5)[0])
    phis = []
    for i in range(5):
        phis.append(float(state.phi[0]))
        u = jax.random.uniform(jax.random.key(i), (4, 1))
        state = step(state, TaskDraw(u, u, jnp.zeros(4), jnp.zeros(4, bool)), u[:, 0])
    np.testing.assert_allclose(state.history.phi[:, 0], [phis[3], phis[4], phis[2]])


@pytest.mark.parametrize("n", [1, 16, 40, 128, 300])
def test_any_number_per_call_gives_the_same_batches(x64, n):
    """Scores that come in pieces of any size close the same batches as single ones."""
    config = cem.CemConfig(batch_size=128, min_share=0.2)
    proposal = proposals.beta(1)
    total = 600
    u = RNG.uniform(size=(total, 1))
    u = jnp.asarray(u)
    draw = TaskDraw(
        u,
        u,
        jnp.asarray(RNG.normal(size=total) * 0.1),
        jnp.asarray(RNG.uniform(size=total) < 0.2),
    )
    scores = jnp.asarray(RNG.normal(size=total))  # distinct, so that no tie is broken by the key

    def feed(step):
        state = cem.init(config, proposal, jax.random.key(0))
        update = jax.jit(lambda s, d, r: cem.update(config, proposal, s, d, r, jax.random.key(1), 0.05)[0])
        for start in range(0, total, step):
            part = slice(start, min(start + step, total))
            state = update(state, TaskDraw(*(x[part] for x in draw)), scores[part])
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
    state = cem.init(config, proposal, jax.random.key(3))._replace(phi=jnp.array([0.9]))
    flags = []
    draw = jax.jit(lambda state, key, n: cem.sample(config, proposal, state, key, n), static_argnums=2)
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
    proposal = proposals.beta(1)
    u = jnp.asarray(RNG.uniform(size=(16, 1)))
    scores = u[:, 0].at[5].set(jnp.nan)
    state = cem.init(config, proposal, jax.random.key(0))
    state, metrics = cem.update(
        config,
        proposal,
        state,
        TaskDraw(u, u, jnp.zeros(16), jnp.zeros(16, bool)),
        scores,
        jax.random.key(1),
        0.05,
    )
    assert metrics.diverged == 1
    assert np.isfinite(state.phi).all()
    assert state.phi[0] < 0.5


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

    start = cem.init(config, family.proposal, jax.random.key(0))
    state, _ = jax.jit(lambda s, k: jax.lax.scan(batch, s, k))(start, jax.random.split(jax.random.key(1), 80))
    assert float(state.history.phi[20:80, 0].mean()) == pytest.approx(fixed_point, abs=tolerance)


@pytest.mark.parametrize(
    "family", [tasks.beta("x", 0.0, 1.0), tasks.with_prior(tasks.disk(("x", "y"), 5.0), 0.1)]
)
def test_density_chooses_between_clipped_and_exact_weights(family):
    """By scipy: the ratio at u itself, or at u clipped to [0.02, 0.98] as the reference takes it."""
    for density in ("clipped", "exact"):
        config = cem.CemConfig(batch_size=16, density=density, ref_share=0.0)
        state = cem.init(config, family.proposal, jax.random.key(0))
        state = state._replace(phi=jnp.full_like(state.phi, 0.95))
        _, (u, _, log_w, _) = cem.sample(config, family.proposal, state, jax.random.key(1), 5_000)
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
        sample = jax.jit(lambda state, key: cem.sample(config, proposal, state, key, 12))
        update = jax.jit(lambda *arguments: cem.update(config, proposal, *arguments, 0.2))
        state = cem.init(config, proposal, jax.random.key(0))
        for i in range(2):
            state, draw = sample(state, jax.random.key(i))
            state, metrics = update(state, draw, -draw.u[:, 0], jax.random.key(i))
    assert np.isfinite(state.phi).all()
    assert np.isfinite(metrics.q_ref)
