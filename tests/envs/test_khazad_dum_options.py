"""Khazad-Dum's options: the defaults are the paper's, and the others follow by hand."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import config, envs
from roml_jax.envs.khazad_dum import ROUTES, KhazadDum, Walk
from roml_jax.types import Continuous, Discrete

LEFT, RIGHT, DOWN, UP = range(4)
CONTINUOUS = KhazadDum(actions="continuous")
LARGE = KhazadDum(width=15, height=12)


def at(env, x, y, tau=0.0):
    state = jax.jit(env.reset)(jax.random.key(0), jnp.array([tau]))
    return state._replace(physics=Walk(jnp.array([x, y], jnp.float32), jnp.array(False), jnp.array(False)))


def golden_rollout(env, seed, tau):
    """32 steps: towards the narrow bridge and over it, but every fourth action is random."""
    reset_key, action_key = jax.random.split(jax.random.key(seed))

    def step(state, key):
        x, pick, other = state.physics.position[0], *jax.random.split(key)
        straight = jnp.where(x < 1.6, RIGHT, jnp.where(x > 2.4, LEFT, UP))
        action = jnp.where(jax.random.bernoulli(pick, 0.25), jax.random.randint(other, (), 0, 4), straight)
        if env.actions == "continuous":
            action = jnp.array([(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)])[action]
        state = env.step(state, action)
        return state, (state.obs, state.reward)

    state = env.reset(reset_key, tau[None])
    _, (obs, reward) = jax.lax.scan(step, state, jax.random.split(action_key, 32))
    return jnp.concatenate([state.obs[None], obs]), reward


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_defaults_are_as_they_were_before_there_were_options(actions):
    """16 episodes of the first version, 11 of which reach the goal and 5 fall; unit displacements agree."""
    golden = np.load(Path(__file__).parents[1] / "golden" / "khazad_dum.npz")
    env = KhazadDum(actions=actions)
    taus = np.repeat(np.array([0.0, 0.05, 0.2, 0.5], np.float32), 4)
    obs, reward = jax.jit(jax.vmap(lambda seed, tau: golden_rollout(env, seed, tau)))(np.arange(16), taus)
    # the same bits on one machine; another may round the normal draws otherwise
    np.testing.assert_allclose(obs, golden["obs"], atol=1e-5)
    np.testing.assert_allclose(reward, golden["reward"], atol=1e-5)


def test_the_docstring_draws_the_map():
    rows = [
        line.split()[1]
        for line in KhazadDum.__doc__.splitlines()
        if line.strip()[:1].isdigit() and "#" in line
    ]
    picture = np.array([list(row) for row in reversed(rows)]).T  # (x, y)
    env = KhazadDum()
    assert picture.shape == (11, 9)
    np.testing.assert_array_equal(picture == "#", env.walls)
    np.testing.assert_array_equal(picture == "~", env.abyss)
    assert np.argwhere(picture == "G").tolist() == [list(env.goal)]


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        ((1.5, 1.5), (0.3, -0.2), (1.8, 1.3)),
        ((4.0, 1.0), (3.0, 4.0), (4.6, 1.8)),  # length 5, shortened to 1
        ((4.0, 1.0), (-1.0, 1.0), (4 - 0.5**0.5, 1 + 0.5**0.5)),  # no faster along the diagonal
        ((4.0, 1.0), (0.0, 0.0), (4.0, 1.0)),
        ((1.0, 1.0), (-0.5, 0.0), (1.0, 1.0)),  # 0.5 rounds into the wall: stays
        ((1.0, 1.0), (-0.4, 0.0), (0.6, 1.0)),
        ((9.3, 7.0), (0.9, 0.3), (9.3, 7.0)),  # a blocked move does not slide along the wall
    ],
)
def test_continuous_moves(start, action, end):
    after = jax.jit(CONTINUOUS.step)(at(CONTINUOUS, *start), jnp.array(action))
    np.testing.assert_allclose(after.physics.position, end, atol=1e-6)
    distance = abs(end[0] - 2) + abs(end[1] - 7)
    assert float(after.reward) == pytest.approx(max(-distance / 5, -1) / 32, abs=1e-6)


def test_a_continuous_step_may_cut_the_abyss_but_not_end_in_it():
    step = jax.jit(CONTINUOUS.step)
    over = step(at(CONTINUOUS, 6.9, 5.4), jnp.array([-0.6, 0.7]))
    assert not bool(over.physics.fallen)
    assert bool(step(at(CONTINUOUS, 6.9, 5.0), jnp.array([-0.5, 0.0])).physics.fallen)


def test_the_noise_does_not_depend_on_how_far_the_agent_moves():
    start = at(CONTINUOUS, 2.0, 4.0, 0.1)

    @jax.jit
    def moved(keys, action):
        after = jax.vmap(lambda key: CONTINUOUS.step(start._replace(key=key), action))(keys)
        return after.physics.position - start.physics.position

    keys = jax.random.split(jax.random.key(1), 4000)
    still = np.asarray(moved(keys, np.zeros(2, np.float32)))
    slow = np.asarray(moved(keys, np.array([0.0, 0.3], np.float32)))
    np.testing.assert_allclose(still.std(axis=0), 0.1, rtol=0.05)
    np.testing.assert_allclose(slow - still, np.tile([0.0, 0.3], (4000, 1)), atol=1e-5)


def test_one_hot_observation_is_the_cell():
    env = KhazadDum(observation="one_hot")
    obs = jax.jit(env.step)(
        at(env, 1.25, 1.5), RIGHT
    ).obs  # at (2.25, 1.5), of cell (2, 2): 1.5 rounds to even
    np.testing.assert_array_equal(obs, np.eye(99)[2 * 9 + 2])
    assert dict(env.spec.obs_slices) == {"cells": slice(0, 99)}


def test_position_observation_is_scaled_between_the_walls():
    env = KhazadDum(observation="position")
    obs = jax.jit(env.step)(at(env, 1.25, 1.5), RIGHT).obs
    np.testing.assert_allclose(obs, (-0.55, -0.625), atol=1e-6)
    assert dict(env.spec.obs_slices) == {"position": slice(0, 2)}


def test_the_task_can_be_seen():
    env = KhazadDum(observation="position", see_task=True)
    state = jax.jit(env.reset)(jax.random.key(0), jnp.array([0.3]))
    assert dict(env.spec.obs_slices) == {"position": slice(0, 2), "task": slice(2, 3)}
    after = jax.jit(env.step)(state, RIGHT)
    assert float(np.asarray(state.obs)[2]) == pytest.approx(0.3)
    assert float(np.asarray(after.obs)[2]) == pytest.approx(0.3)


@pytest.mark.parametrize("observation", ["bilinear", "one_hot", "position"])
@pytest.mark.parametrize(("width", "height"), [(11, 9), (8, 7), (15, 12)])
def test_sizes_are_those_of_the_spec_and_positions_can_be_read_back(observation, width, height):
    made = [
        KhazadDum(0.1, actions, observation, see_task, width, height)
        for actions, see_task in itertools.product(("discrete", "continuous"), (False, True))
    ]

    @jax.jit
    def moved(key, task):
        """The states before and after a step of all four, and the positions read; one program."""
        found = []
        for env in made:
            state = env.reset(key, task)
            after = env.step(state, jnp.array((0.2, 0.4)) if env.actions == "continuous" else UP)
            found.append((state, after, env.positions(jnp.stack([state.obs, after.obs]))))
        return found

    for env, (state, after, read) in zip(made, moved(jax.random.key(3), jnp.array([0.2])), strict=True):
        assert isinstance(env.spec.action, Discrete if env.actions == "discrete" else Continuous)
        assert state.obs.shape == after.obs.shape == (env.spec.obs_size,)
        assert after.obs.dtype == state.obs.dtype
        expected = np.asarray(after.physics.position)
        np.testing.assert_allclose(
            np.asarray(read)[1], np.round(expected) if observation == "one_hot" else expected, atol=1e-5
        )


def test_a_larger_map_follows_the_rule():
    assert LARGE.goal == (2, 10)
    columns = [x for x in range(1, 14) if LARGE.abyss[x].any()]
    assert columns == [1, 3, 4, 5, 6, 7, 8, 9, 10]
    assert all(np.flatnonzero(LARGE.abyss[x]).tolist() == [3, 4, 5, 6, 7, 8] for x in columns)
    assert LARGE.spec.horizon == 53  # a detour of 28 moves at 32 steps for 17
    assert LARGE.spec.obs_size == 15 * 12


def test_the_wide_bridge_of_a_larger_map_earns_the_hand_computed_return():
    """From (1.4, 1.4): 10 right, 8 up, 9 left and 1 up: 28 moves, the detour that the horizon counts."""
    step, state, total = jax.jit(LARGE.step), at(LARGE, 1.4, 1.4, 0.4), 0.0
    position, expected = np.array([1.4, 1.4]), 0.0
    moves = [RIGHT] * 10 + [UP] * 8 + [LEFT] * 9 + [UP]
    for number, action in enumerate(moves, 1):
        state = step(state, action)
        total += float(state.reward)
        position = position + {LEFT: (-1, 0), RIGHT: (1, 0), UP: (0, 1)}[action]
        expected += (max(-abs(position - (2, 10)).sum() / 5, -1) + 5 * (number == 28)) / 53
        assert bool(state.physics.reached) == (number == 28)
    assert total == pytest.approx(expected, abs=1e-6)


def test_noise_acts_on_all_of_a_longer_narrow_bridge():
    step = jax.jit(LARGE.step)
    for y, noisy in ((2.4, False), (3.0, True), (8.4, True), (8.6, False)):
        after = step(at(LARGE, 2.0, y, 0.2), UP)
        assert np.allclose(after.physics.position, (2.0, y + 1), atol=1e-4) != noisy


def test_routes():
    env = KhazadDum()
    south, goal = (2.0, 2.0), (2.2, 7.1)
    walks = {
        "short": [south, (2.0, 3.0), (2.1, 4.0), (2.0, 5.0), (2.0, 6.0), goal, goal],
        "long": [south, (7.0, 2.0), (7.0, 3.2), (7.0, 4.2), (7.0, 5.2), (3.0, 6.2), goal],
        "fall": [south, (2.0, 3.0), (2.7, 4.0), (2.7, 4.0), (2.7, 4.0), (2.7, 4.0), (2.7, 4.0)],
        "stay": [south, (2.0, 3.0), (2.0, 4.0), (2.0, 5.0), (2.0, 6.0), (2.0, 5.8), (2.0, 6.4)],
    }
    routes = jax.jit(env.routes)
    labels = np.asarray(routes(np.array(list(walks.values()), np.float32)))
    assert [ROUTES[label] for label in labels] == list(walks)
    # back off the narrow bridge, then around
    turned = [south, (2.0, 3.0), south, (7.0, 2.0), (7.0, 4.0), (3.0, 6.2), goal]
    assert ROUTES[int(routes(np.array(turned, np.float32)))] == "long"
    # the first observation of a later episode may be the last of the one before
    after_goal, after_fall = [goal, south, south], [(2.7, 4.0), *walks["long"][1:]]
    assert ROUTES[int(routes(np.array(after_goal, np.float32)))] == "stay"
    assert ROUTES[int(routes(np.array(after_fall, np.float32)))] == "long"


def test_routes_agree_with_the_simulator():
    env = KhazadDum()

    @jax.jit
    def play(seeds, taus):
        obs, reward = jax.vmap(lambda seed, tau: golden_rollout(env, seed, tau))(seeds, taus)
        return env.routes(env.positions(obs)), reward

    route, reward = map(np.asarray, play(np.arange(200), np.linspace(0.0, 0.5, 200, dtype=np.float32)))
    reached = (reward * 32 > 3).any(axis=1)
    np.testing.assert_array_equal(np.isin(route, [0, 1]), reached)
    assert (reward[route == 2, -1] * 32 == -1).all()
    assert (route == 0).sum() > 20
    assert (route == 2).sum() > 20


WRONG = {
    "width": ("--env.width 7", "env.width must be at least 8, got 7"),
    "height": ("--env.height 6", "env.height must be at least 7, got 6"),
    "actions": ("--env.actions both", "--env.actions"),
    "observation": ("--env.observation cell", "--env.observation"),
    "unknown": ("--env.sees_task", "unknown option --env.sees-task; did you mean --env.see-task?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_one_line(case):
    arguments, said = WRONG[case]
    with pytest.raises(config.ConfigError) as caught:
        config.parse(["--env", "khazad_dum", *arguments.split()])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_choice_in_code_names_the_choices():
    with pytest.raises(ValueError, match=r"env.actions must be one of discrete, continuous, got 'both'"):
        envs.make("khazad_dum", actions="both")
    with pytest.raises(ValueError, match=r"env.observation must be one of bilinear, one_hot, position"):
        envs.make("khazad_dum", observation="cell")


def test_options_reach_the_environment_from_the_command_line():
    arguments = (
        "--env khazad_dum --env.actions continuous --env.observation position --env.see_task --env.width 15"
    )
    assert config.parse(arguments.split()).env_options == KhazadDum(
        actions="continuous", observation="position", see_task=True, width=15
    )
