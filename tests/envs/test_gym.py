"""Our environments as gymnasium's, step for step against our own functions; policies behind ``predict``."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cart import MASS, cart
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from played import Played

from roml_jax import envs
from roml_jax.envs.gym import GymEnv, GymVectorEnv

K, H = 2, 5


@pytest.fixture(scope="module")
def robot():
    """A cart whose episode ends early where its lantern turns fast; its critic sees the mass."""
    return cart(
        (MASS,), horizon=H, terminate=lambda view: jnp.abs(view.qvel[3]) > 0.04,
        privileged={"mass": lambda view: view.task},
    )  # fmt: skip


@pytest.fixture(scope="module")
def single(robot):
    return GymEnv(robot)


def test_it_passes_gymnasiums_checker(single, recwarn):
    check_env(single, skip_render_check=True)
    about = [str(warning.message) for warning in recwarn if "spec" not in str(warning.message)]
    assert not [line for line in about if "infinity" not in line], about


def test_a_discrete_one_passes_it_too():
    env = GymEnv(envs.make("khazad_dum"), recall=True)
    check_env(env, skip_render_check=True)
    assert env.action_space == gymnasium.spaces.Discrete(4)


def test_its_steps_are_ours(robot, single):
    step = jax.jit(jax.vmap(robot.step))
    rng, ended = np.random.default_rng(0), 0
    for episode in range(4):
        options = {"task": [1.5]} if episode == 0 else None
        obs, info = single.reset(seed=3 if episode == 0 else None, options=options)
        np.testing.assert_array_equal(info["privileged"], info["task"])
        assert (info["task"] == 1.5).all() == (episode < K)
        state = single._batch.state
        np.testing.assert_array_equal(obs, state.obs[0])
        for t in range(H):
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            state = step(state, action[None])
            obs, reward, terminated, truncated, info = single.step(action)
            np.testing.assert_array_equal(obs, state.obs[0])
            assert reward == float(state.reward[0])
            assert terminated == bool(state.done[0])
            assert truncated == (t + 1 == H)
            assert info["reward/speed"] + info["reward/control"] == pytest.approx(reward, rel=1e-5)
            if terminated or truncated:
                ended += terminated
                break
    assert ended > 0
    with pytest.raises(gymnasium.error.ResetNeeded):
        single.step(action)


def same(a, b):
    """Equal observations, or infos, of environments that have them."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            same(a[name], b[name])
    elif isinstance(a, np.ndarray) and a.dtype.kind == "O":
        for one, other in zip(a, b, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                same(one, other)
    else:
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_batch_is_many_single_ones(robot):
    """Also across the ends of episodes and tasks; gymnasium's own batch of ours is the oracle."""
    ours = GymVectorEnv(robot, 3, recall=True)
    theirs = SyncVectorEnv([lambda: GymEnv(robot, recall=True)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for one, other in zip(ours.reset(seed=7), theirs.reset(seed=7), strict=True):
        same(one, other)
    rng, ends = np.random.default_rng(1), np.zeros(3, int)
    for _ in range(14):
        action = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        mine, others = ours.step(action), theirs.step(action)
        for one, other in zip(mine, others, strict=True):
            same(one, other)
        ends += mine[2] | mine[3]
    assert (ends > K).any()  # so a new task has begun


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda env: env.reset(options={"tasks": 1}), r"^reset has no option 'tasks'; it has 'task'$"),
        (lambda env: env.reset(options={"task": [1, 2]}), r"^task must be 1 number\(s\) \(mass\), got shape"),
        (
            lambda env: (env.reset(), env.step([0.1, 0.2])),
            r"^actions must be of shape \(1, 1\), got \(1, 2\)",
        ),
        (
            lambda env: GymEnv(env.env, render_mode="human"),
            r"^render_mode must be one of \[None, 'rgb_array'\]",
        ),
        (lambda env: GymVectorEnv(env.env, 0), r"^num_envs must be at least 1, got 0$"),
    ],
    ids=range(5),
)
def test_wrong_calls_are_one_line(single, call, said):
    with pytest.raises(ValueError, match=said):
        call(single)


@pytest.fixture(scope="module")
def varibad(robot):
    return Played("cheetah_mass", robot).policy


@pytest.fixture(scope="module")
def multitask(robot):
    return Played("cheetah_mass", robot, "multitask").policy


def test_predict_acts_as_act_and_observe(robot, varibad):
    """The loop of stable-baselines3's evaluate_policy, over the ends of episodes and tasks."""
    batch = GymVectorEnv(robot, 2, recall=True)
    obs, _ = batch.reset(seed=0)
    state, start = None, np.ones(2, bool)
    memories, episode = [varibad.begin() for _ in range(2)], np.zeros(2, int)
    for _ in range(14):
        action, state = varibad.predict(obs, state, episode_start=start, deterministic=True)
        for i in range(2):
            wanted, memories[i] = varibad.act(memories[i], obs["observation"][i])
            np.testing.assert_allclose(action[i], wanted, rtol=1e-5, atol=1e-6)
        obs, reward, terminated, truncated, infos = batch.step(action)
        start = terminated | truncated
        for i in range(2):
            after = infos["final_obs"][i]["observation"] if start[i] else obs["observation"][i]
            memories[i] = varibad.observe(memories[i], reward[i], after, end=start[i])
            episode[i] += start[i]
            if start[i] and episode[i] % K == 0:
                memories[i] = varibad.begin()
    assert (episode > K).any()


@pytest.mark.parametrize("episodes", [1, 3])
def test_predict_forgets_a_task_where_the_environment_changes_it(robot, varibad, episodes):
    """Also if a task has another number of episodes than in training."""
    assert episodes != K
    batch = GymVectorEnv(robot, 2, episodes=episodes, recall=True)
    obs, _ = batch.reset(seed=0)
    state, start, seen = None, np.ones(2, bool), 0
    for _ in range(4 * H):
        action, state = varibad.predict(obs, state, episode_start=start)
        for i in np.flatnonzero(start & (obs["new_task"][:, 0] > 0)):
            fresh, _ = varibad.act(varibad.begin(), obs["observation"][i])
            np.testing.assert_allclose(action[i], fresh, rtol=1e-5, atol=1e-6)
            seen += 1
        obs, _, terminated, truncated, _ = batch.step(action)
        start = terminated | truncated
    assert seen > 2


def test_a_policy_without_memory_needs_no_more_than_the_observation(robot, multitask):
    single = GymEnv(robot)
    obs, _ = single.reset(seed=0)
    action, state = multitask.predict(obs)
    again, state = multitask.predict(obs, state, episode_start=False)
    np.testing.assert_array_equal(action, again)
    assert single.action_space.contains(np.clip(action, -1, 1))
    drawn = []
    for _ in range(2):
        other, state = multitask.predict(obs, state, deterministic=False)
        drawn.append(float(other[0]))
    assert len({float(action[0]), *drawn}) == 3


def test_what_predict_lacks_is_one_line(robot, varibad):
    obs, _ = GymEnv(robot).reset(seed=0)
    _, state = varibad.predict(obs)
    with pytest.raises(ValueError, match=r"^this policy remembers earlier steps, so predict needs"):
        varibad.predict(obs, state)
    with pytest.raises(ValueError, match=r"^an observation is an array or a dict of observation, last_"):
        varibad.predict({"observation": obs})
