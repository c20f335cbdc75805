"""Khazad-Dum against transitions computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import envs
from roml_jax.envs.khazad_dum import Walk

OPTIMISED = True

LEFT, RIGHT, DOWN, UP = range(4)
ENV = envs.make("khazad_dum")
STEP = jax.jit(ENV.step)


def at(x, y, tau=0.0, *, fallen=False, reached=False, seed=0):
    state = ENV.reset(jax.random.key(seed), jnp.array([tau]))
    return state._replace(physics=Walk(jnp.array([x, y], jnp.float32), jnp.array(fallen), jnp.array(reached)))


def test_reset_is_south_of_the_abyss():
    states = jax.vmap(ENV.reset, in_axes=(0, None))(
        jax.random.split(jax.random.key(0), 500), jnp.array([0.1])
    )
    position = np.asarray(states.physics.position)
    assert position.min() >= 0.5
    assert position.max() <= 2.5
    assert position.std(axis=0) == pytest.approx(np.full(2, 2 / 12**0.5), rel=0.1)
    assert states.obs.shape == (500, 99)


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        ((1.5, 1.5), RIGHT, (2.5, 1.5)),
        ((1.5, 1.5), UP, (1.5, 2.5)),  # y = 2.5 rounds to 2: still south of the abyss
        ((1.2, 1.0), LEFT, (1.2, 1.0)),  # x = 0.2 rounds into the wall: stays
        ((1.6, 1.0), LEFT, (0.6, 1.0)),  # x = 0.6 rounds to 1: free
        ((9.4, 7.0), RIGHT, (9.4, 7.0)),  # 10 is a wall
        ((8.0, 6.0), UP, (8.0, 7.0)),
    ],
)
def test_moves(start, action, end):
    after = STEP(at(*start), action)
    np.testing.assert_allclose(after.physics.position, end, atol=1e-6)
    distance = abs(end[0] - 2) + abs(end[1] - 7)
    assert float(after.reward) == pytest.approx(max(-distance / 5, -1) / 32, abs=1e-7)


def test_observation_is_bilinear():
    obs = np.asarray(STEP(at(1.25, 1.5), RIGHT).obs).reshape(11, 9)  # at (2.25, 1.5)
    expected = np.zeros((11, 9))
    expected[2, 1], expected[2, 2], expected[3, 1], expected[3, 2] = 0.375, 0.375, 0.125, 0.125
    np.testing.assert_allclose(obs, expected, atol=1e-6)


def test_goal_pays_five_and_ends_the_walk():
    after = STEP(at(2.0, 6.0), UP)
    assert bool(after.physics.reached)
    assert float(after.reward) == pytest.approx(5 / 32)
    later = STEP(after, UP)
    assert float(later.reward) == 0.0
    np.testing.assert_array_equal(later.physics.position, after.physics.position)


def test_abyss_pays_the_distance_once_and_minus_one_ever_after():
    after = STEP(at(4.0, 2.0), UP)
    assert bool(after.physics.fallen)
    assert float(after.reward) == pytest.approx(-1 / 32)  # L1 = 2 + 4 = 6, capped at 5
    assert float(STEP(after, DOWN).reward) == pytest.approx(-1 / 32)
    near = STEP(at(2.6, 5.0), RIGHT)  # rounds to x = 4
    assert float(near.reward) == pytest.approx(-(1.6 + 2.0) / 5 / 32)


def test_noise_acts_on_the_narrow_bridge_only():
    tau = 0.2
    noisy = STEP(at(2.0, 4.0, tau), UP)
    assert not np.allclose(noisy.physics.position, (2.0, 5.0), atol=1e-4)
    distance = abs(noisy.physics.position - jnp.array([2.0, 7.0])).sum()
    assert float(noisy.reward) == pytest.approx(float(max(-distance / 5, -1) - 3 * tau) / 32, abs=1e-6)
    for start in ((8.0, 4.0), (2.0, 2.4), (2.0, 5.6)):
        after = STEP(at(*start, tau), UP)
        np.testing.assert_allclose(after.physics.position, (start[0], start[1] + 1), atol=1e-6)


def test_noise_has_deviation_tau():
    step = jax.vmap(lambda key: ENV.step(at(2.0, 4.0, 0.1)._replace(key=key), UP).physics.position)
    moved = np.asarray(jax.jit(step)(jax.random.split(jax.random.key(1), 4000))) - (2.0, 5.0)
    np.testing.assert_allclose(moved.std(axis=0), 0.1, rtol=0.05)
    np.testing.assert_allclose(moved.mean(axis=0), 0.0, atol=0.01)


def test_wide_bridge_walk_earns_the_hand_computed_return():
    """From (1.4, 1.4): 6 right, 5 up, 5 left and 1 up; the goal's cell is entered at the 17th move."""
    state, total = at(1.4, 1.4), 0.0
    moves = [RIGHT] * 6 + [UP] * 5 + [LEFT] * 5 + [UP] + [LEFT] * 15
    position, reached, expected = np.array([1.4, 1.4]), False, 0.0
    for action in moves:
        state = STEP(state, action)
        total += float(state.reward)
        if not reached:
            position = position + {LEFT: (-1, 0), RIGHT: (1, 0), UP: (0, 1)}[action]
            reached = tuple(np.round(position)) == (2, 7)
            expected += (max(-abs(position - (2, 7)).sum() / 5, -1) + 5 * reached) / 32
    assert bool(state.physics.reached)
    assert total == pytest.approx(expected, abs=1e-6)
