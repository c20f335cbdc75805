"""The stateful wrapper is the functional method; the example finds the closed-form optimum."""

import example_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from roml_jax import cem, tasks
from roml_jax.samplers.stateful import CrossEntropyMethod

FAMILY, ALPHA = tasks.beta("v", 0.0, 7.0), 0.1
CONFIG = cem.CemConfig(batch_size=64)


def test_wrapper_draws_what_the_functions_draw():
    """Draw for draw in distribution: the same problem, one task at a time and sixteen at a time."""
    ours = CrossEntropyMethod(FAMILY, ALPHA, CONFIG, seed=1)
    single = []
    for _ in range(20 * 64):
        task, weight = ours.sample()
        single.append((task[0], weight))
        ours.update(-task[0])
    assert int(ours.state.batch) == 20

    def step(state, key):
        state, draw = cem.sample(CONFIG, FAMILY.proposal, state, key, 16)
        task = FAMILY.decode(draw.u)[:, 0]
        state, _ = cem.update(CONFIG, FAMILY.proposal, state, draw, -task, key, ALPHA)
        return state, (task, jnp.exp(draw.log_w))

    @jax.jit
    def run(first, others):
        start = cem.init(CONFIG, FAMILY.proposal, first)
        return jax.lax.scan(step, start, jax.random.split(others, 20 * 4))

    state, (task, weight) = run(jax.random.key(2), jax.random.key(3))
    single, task, weight = np.array(single), np.asarray(task).ravel(), np.asarray(weight).ravel()
    settled = slice(10 * 64, None)  # after the first batches the distributions stand still
    assert stats.ks_2samp(single[settled, 0], task[settled]).pvalue > 1e-3
    assert stats.ks_2samp(single[settled, 1], weight[settled]).pvalue > 1e-3
    assert ours.phi[0] == pytest.approx(float(np.asarray(state.phi)[0]), abs=0.05)


def test_wrapper_asks_for_a_task_before_a_score():
    with pytest.raises(ValueError, match="call sample"):
        CrossEntropyMethod(FAMILY, ALPHA, CONFIG).update(1.0)
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\]"):
        CrossEntropyMethod(FAMILY, 0.0)


def test_wrapper_takes_scores_from_outside():
    ours = CrossEntropyMethod(FAMILY, ALPHA, cem.CemConfig(batch_size=4, ref_mode="valid", ref_share=0.0))
    ours.update_ref_scores(np.linspace(-1, 0, 101))
    for score in (-0.95, -0.5, -0.5, -0.5):
        ours.sample()
        ours.update(score)
    assert float(ours.state.q_ref) == pytest.approx(-0.9, abs=0.02)


def test_the_example_finds_the_robust_optimum():
    """The mean over the worst 5 % of loads is best at 6.33, the mean over all at 4.35."""
    example = example_files.load("own_learner")
    assert example.numpy_loop() == pytest.approx(6.33, abs=0.25)
    assert example.compiled_loop() == pytest.approx(6.33, abs=0.25)
