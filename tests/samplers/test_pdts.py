"""PDTS: the greedy choice against brute force, and what a large diversity does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import samplers, tasks
from roml_jax.samplers.pdts import PdtsConfig, choose_apart

STRICT = True
choose = jax.jit(choose_apart, static_argnums=(2, 3))


def brute_force(score, x, n, diversity):
    """The choice by its definition: every distance anew at every step."""
    chosen = []
    for _ in range(n):
        gains = []
        for i in range(len(score)):
            nearest = min((np.linalg.norm(x[i] - x[j]) for j in chosen), default=0.0)
            gains.append(-np.inf if i in chosen else score[i] / 2 + diversity * nearest)
        chosen.append(int(np.argmax(gains)))
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.05, 1.0, 8.0])
def test_the_greedy_choice_is_that_of_brute_force(x64, diversity):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        score, x = rng.normal(size=40), rng.uniform(size=(40, 1 + seed % 3))
        chosen = choose(score, x, 9, diversity)
        assert chosen.tolist() == brute_force(score, x, 9, diversity)


@pytest.mark.parametrize("diversity", [0.0, 1.0])
def test_all_candidates_can_be_chosen_and_none_twice(diversity):
    rng = np.random.default_rng(0)
    score, x = rng.normal(size=12), rng.uniform(size=(12, 2))
    assert sorted(choose(score, x, 12, diversity).tolist()) == list(range(12))
    assert choose(score, x, 1, diversity).tolist() == [int(score.argmax())]
    same = np.zeros((12, 2))  # tasks of a finite set may come several times among the candidates
    assert sorted(choose(np.zeros(12), same, 12, diversity).tolist()) == list(range(12))


def test_diversity_spreads_tasks_and_predicted_losses_pull_them_together():
    """Return = -u in one dimension: without diversity the top 64th is drawn, with much the whole range."""
    family, n = tasks.beta("v", 0.0, 1.0), 32
    spread = {}
    for diversity in (0.0, 1.0, 100.0):
        sampler = samplers.pdts(family, 0.05, PdtsConfig(diversity=diversity, warmup=0.5))

        def step(state, key, sampler=sampler):
            state, draw = sampler.sample(state, key, n)
            return sampler.update(state, draw, -draw.u[:, 0], key, 0.0)

        @jax.jit
        def drawn(first, others, last, sampler=sampler, step=step):
            state, _ = jax.lax.scan(step, sampler.init(first), jax.random.split(others, 60))
            return sampler.sample(state._replace(progress=jnp.ones(())), last, n)[1].u

        u = np.asarray(drawn(*map(jax.random.key, range(3))))[:, 0]
        spread[diversity] = (u.min(), u.max())
    assert spread[0.0][0] > 0.95
    assert spread[100.0][0] < 0.05
    assert spread[100.0][1] > 0.95
    assert spread[100.0][0] < spread[1.0][0] < spread[0.0][0]


def test_options_out_of_range_are_one_line():
    for options in ({"candidates": 0.5}, {"diversity": -1.0}):
        with pytest.raises(ValueError, match=rf"sampler\.{next(iter(options))} must be at least"):
            PdtsConfig(**options)
