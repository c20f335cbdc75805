"""Hopper and Walker2d: gymnasium's v5 where the task is 1, and what each factor does."""

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from roml_jax import config, envs

ROBOTS = {"hopper_dynamics": "Hopper-v5", "walker2d_dynamics": "Walker2d-v5"}
EPISODES = 4


@pytest.fixture(params=ROBOTS)
def pair(request, tmp_path, monkeypatch):
    """(our environment, gymnasium's)."""
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes warnings
    theirs = gymnasium.make(ROBOTS[request.param], disable_env_checker=True).unwrapped
    yield envs.make(request.param, physics="mujoco"), theirs
    theirs.close()


def begin(theirs, state):
    """Puts theirs in our first state."""
    theirs.reset(seed=0)
    theirs.set_state(np.asarray(state.physics.qpos, float), np.asarray(state.physics.qvel, float))
    theirs.data.qacc_warmstart[:] = 0


def test_episodes_are_gymnasiums_to_their_ends(pair, x64):
    """Observation, reward and termination of every step, in double precision, until the robot has fallen."""
    ours, theirs = pair
    reset, step, random = jax.jit(ours.reset), jax.jit(ours.step), np.random.default_rng(0)
    lengths = []
    for episode in range(EPISODES):
        state = reset(jax.random.key(episode), jnp.ones(3))
        begin(theirs, state)
        np.testing.assert_allclose(state.obs, theirs._get_obs(), atol=1e-12)
        for length in range(1, ours.horizon + 1):  # noqa: B007
            action = random.uniform(-1, 1, theirs.model.nu)
            state = step(state, jnp.asarray(action))
            obs, reward, ended, _, info = theirs.step(action)
            assert state.valid
            np.testing.assert_allclose(state.obs, obs, rtol=1e-7, atol=1e-7)
            np.testing.assert_allclose(state.reward, reward, rtol=1e-7, atol=1e-7)
            np.testing.assert_allclose(state.terms["upright"], info["reward_survive"])
            assert bool(state.done) == ended
            if ended:
                break
        lengths.append(length)
        assert not step(state, jnp.asarray(action)).valid  # what comes after the end does not count
    assert ended
    assert min(lengths) > 3
    assert len(set(lengths)) > 1


def test_models_are_gymnasiums(pair):
    ours, theirs = pair
    assert ours.physics.frame_skip == theirs.frame_skip
    assert ours.physics.dt == pytest.approx(theirs.dt)
    for name in dir(theirs.model):
        expected = getattr(theirs.model, name)
        if isinstance(expected, np.ndarray) and not name.startswith("_"):
            np.testing.assert_allclose(getattr(ours.physics.model, name), expected, 1e-9, 1e-12, err_msg=name)


def test_starts_are_within_gymnasiums_noise(pair):
    ours, theirs = pair
    states = jax.jit(jax.vmap(ours.reset))(jax.random.split(jax.random.key(0), 500), jnp.ones((500, 3)))
    for given, around in ((states.physics.qpos, theirs.init_qpos), (states.physics.qvel, theirs.init_qvel)):
        offset = np.abs(np.asarray(given) - around)
        assert offset.max(axis=0).min() > 4.9e-3
        assert offset.max() <= 5e-3 + 1e-6


@pytest.mark.parametrize("name", ROBOTS)
def test_each_factor_scales_its_fields_alone(name):
    env = envs.make(name, physics="mujoco")
    model, fields = env.physics.model, ("body_mass", "geom_friction", "actuator_gear")
    leaves = env.apply_task(jnp.array([2.0, 0.5, 0.75]))
    assert set(leaves) == set(fields)
    for field, factor in zip(fields, (2.0, 0.5, 0.75), strict=True):
        expected = np.array(getattr(model, field))
        expected[(slice(None), 0) if expected.ndim == 2 else ...] *= factor
        np.testing.assert_allclose(leaves[field], expected, rtol=1e-6)


def test_a_strong_motor_is_a_weak_one_with_larger_actions():
    """The motors are torques: half the strength and twice the action make the same motion."""
    env = envs.make("walker2d_dynamics", physics="mujoco")
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    ends = []
    for motor in (1.0, 0.5):
        state = reset(jax.random.key(1), jnp.array([1.0, 1.0, motor]))
        for t in range(10):
            state = step(state, 0.4 / motor * jnp.sin(t + jnp.arange(6.0)))
        ends.append(state.physics.qpos)
    np.testing.assert_allclose(*ends, atol=1e-5)
    assert np.abs(ends[0] - env.physics.model.qpos0).max() > 0.05


def test_a_heavy_walker_falls_as_fast_as_a_light_one():
    """Free fall: the floor is out of reach, and the acceleration is that of gravity for every mass."""
    env = envs.make("walker2d_dynamics", physics="mujoco")
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    for mass in (0.5, 2.0):
        state = reset(jax.random.key(0), jnp.array([mass, 1.0, 1.0]))
        high = jnp.zeros(9).at[1].set(1.9)
        state = state._replace(physics=state.physics._replace(qpos=high, qvel=jnp.zeros(9)))
        for _ in range(5):
            state = step(state, jnp.zeros(6))
        time = 5 * env.physics.dt
        np.testing.assert_allclose(state.physics.qpos[1], 1.9 - 9.81 * time**2 / 2, atol=1e-4)
        np.testing.assert_allclose(state.physics.qvel[1], -9.81 * time, rtol=1e-3)


def test_constants_follow_the_mass():
    """The C engine's own: inverse weights of a hopper twice as heavy are those that MuJoCo computes."""
    env = envs.make("hopper_dynamics", physics="mujoco")
    heavy = env.physics.model.__copy__()
    heavy.body_mass *= 2
    heavy.body_inertia *= 2
    mujoco.mj_setConst(heavy, mujoco.MjData(heavy))
    state = jax.jit(env.reset)(jax.random.key(0), jnp.array([2.0, 1.0, 1.0]))
    data, action = mujoco.MjData(heavy), np.array([0.3, -0.2, 0.1])
    data.qpos[:], data.qvel[:] = state.physics.qpos, state.physics.qvel
    data.ctrl[:] = action
    mujoco.mj_step(heavy, data, 4)
    after = jax.jit(env.step)(state, jnp.asarray(action, jnp.float32))
    np.testing.assert_allclose(after.physics.qpos, data.qpos, atol=1e-6)


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("agent", ["varibad", "multitask"])
def test_presets_begin_each_episode_with_its_own_observation(name, agent):
    made = config.make(name, agent=agent)
    assert made.protocol.boundary == "reset"
