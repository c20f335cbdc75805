"""sim2sim: a policy in plain MuJoCo, which shares no step with the engines, and on the engines."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from cart import MODEL, cart

from roml_jax import config, envs
from roml_jax.envs import Edit, TaskDimension
from roml_jax.errors import ConfigError
from roml_jax.sim2sim import __main__ as command
from roml_jax.sim2sim import compare

OPTIONS = """
    --env hopper_dynamics --agent multitask --num-tasks 8 --frames 1600 --protocol.horizon 50 --chunk 1
    --ppo.minibatches 4 --eval.interval 0 --eval.test-tasks 8
""".split()  # noqa: SIM905


def episode(env, actions, task):
    """States of an episode, compiled."""
    tasks = jnp.atleast_2d(jnp.asarray(task, jnp.float32))
    keys = jax.random.split(jax.random.key(0), len(tasks))

    @jax.jit
    def run(keys, tasks, actions):
        def move(state, action):
            state = jax.vmap(env.step, in_axes=(0, None))(state, action)
            return state, state

        return jax.lax.scan(move, jax.vmap(env.reset)(keys, tasks), actions)[1]

    return run(keys, tasks, jnp.asarray(actions, jnp.float32))


def test_plain_mujoco_is_a_loop_of_mj_step_in_double_precision():
    """The cart of two masses, each beside a hand-written loop: not a digit of single precision in between."""
    env = compare.on_engine(cart(derived="consistent", horizon=40), "plain")
    assert env.physics.name == "plain"
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 1)).astype(np.float32)
    states = episode(env, actions, [[0.5], [2.0]])
    first = jax.jit(jax.vmap(env.reset))(
        jax.random.split(jax.random.key(0), 2), jnp.array([[0.5], [2.0]])
    ).physics
    for robot, mass in enumerate((0.5, 2.0)):
        model = MODEL.__copy__()
        model.body_mass[:] = mass * np.float32(MODEL.body_mass)  # a task is in single precision
        model.body_inertia[1:] *= (model.body_mass[1:] / MODEL.body_mass[1:])[:, None]
        mujoco.mj_setConst(model, mujoco.MjData(model))
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = first.qpos[robot], first.qvel[robot]
        for t, action in enumerate(actions):
            data.ctrl[:] = action
            mujoco.mj_step(model, data, 2)
            np.testing.assert_array_equal(states.physics.qpos[t, robot], np.float32(data.qpos))
            np.testing.assert_array_equal(states.physics.qvel[t, robot], np.float32(data.qvel))


def test_readings_and_rewards_are_the_c_engines():
    """One control step each from the same states, with readings that MuJoCo computes on request."""
    names = ("xpos", "cfrc_ext", "subtree_linvel", "time", "xmat")
    observation = {"all": lambda view: jnp.concatenate([jnp.ravel(view.readings[name]) for name in names])}
    env = cart(observation=observation, readings=names, derived="consistent")
    actions = np.full((3, 1), 0.7, np.float32)
    ours, plain = (episode(e, actions, [[1.5], [0.6]]) for e in (env, compare.on_engine(env, "plain")))
    np.testing.assert_allclose(ours.obs, plain.obs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.reward, plain.reward, rtol=1e-4, atol=1e-5)
    assert np.abs(plain.obs).max() > 1


def test_an_episode_that_ended_stays_ended_and_one_that_blows_up_diverges():
    env = cart(terminate=lambda view: (view.qpos[0] > -0.0085) | (view.qpos[2] > 0.03), derived="consistent")
    states = episode(compare.on_engine(env, "plain"), np.ones((20, 1)), [[0.5], [2.0]])
    expected = episode(env, np.ones((20, 1)), [[0.5], [2.0]])
    np.testing.assert_array_equal(states.done, expected.done)
    np.testing.assert_allclose(states.obs, expected.obs, atol=1e-5)
    first = np.argmax(states.done, axis=0)
    assert 0 < first[0] < first[1]  # the light one slides, the other's pole falls
    np.testing.assert_array_equal(states.obs[first[0], 0], states.obs[-1, 0])
    weightless = TaskDimension("push", 1.0, 1e12, (Edit("actuator_gainprm", column=0),), "log")
    wild = compare.on_engine(cart((weightless,)), "plain")
    assert np.asarray(episode(wild, np.ones((5, 1)), [[1e12]]).diverged).any()


def test_episodes_that_begin_in_one_state_are_all_begun():
    """A compiler calls a reset that does not depend on the episode once, before all episodes."""
    at = MODEL.qpos0.astype(np.float32), np.zeros(MODEL.nv, np.float32)
    env = compare.on_engine(cart(derived="consistent", start=lambda key: at), "plain")
    task, actions = jnp.array([[1.5]]), jnp.ones((6, 1))

    @jax.jit
    def run(keys):
        def begun(carry, key):
            def move(state, action):
                state = jax.vmap(env.step, in_axes=(0, None))(state, action)
                return state, state.physics.qpos

            return carry, jax.lax.scan(move, jax.vmap(env.reset)(key[None], task), actions)[1]

        return jax.lax.scan(begun, 0, keys)[1]

    first, second = np.asarray(run(jax.random.split(jax.random.key(0), 2)))
    np.testing.assert_array_equal(first, second)
    assert np.unique(first).size > 5


def test_it_refuses_to_continue_an_episode_that_it_did_not_begin():
    env = compare.on_engine(cart(), "plain")
    state = jax.jit(env.reset)(jax.random.key(0), jnp.ones(1))
    moved = state._replace(physics=state.physics._replace(qpos=state.physics.qpos + 1))
    with pytest.raises(jax.errors.JaxRuntimeError, match="another state than it returned last"):
        jax.block_until_ready(jax.jit(env.step)(moved, jnp.ones(1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained hopper, nearly."""
    folder = tmp_path_factory.mktemp("sim") / "run"
    from roml_jax import train

    assert train.main([*OPTIONS, "--sampler", "uniform", "--out", str(folder)]) == 0
    return folder


def test_the_command_agrees_on_a_hopper_and_exits_with_0(run, capsys):
    assert command.main([str(run), "--tasks", "16"]) == 0
    text = capsys.readouterr().out
    assert "16 tasks from the prior, 2 episodes each" in " ".join(text.split())
    (line,) = [line for line in text.splitlines() if line.strip().startswith("mujoco ")]
    assert "agrees" in line
    assert {"plain", "MuJoCo"} <= set(text.split())  # one cell, perhaps on two lines


def test_plain_mujoco_is_within_the_c_engines_limits_also_for_a_run_on_mjx():
    """It is what the engines are judged by; with MJX's limits its own solver may not have converged."""
    options = config.make("hopper_dynamics", "uniform", "multitask", **{"env.physics": "mjx"})
    made = envs.from_options(options.env, options.env_options)
    assert made.physics.model.opt.iterations == 8
    run = SimpleNamespace(config=options, parts=SimpleNamespace(env=made))
    assert compare._env_of(run, compare.PLAIN).physics.model.opt.iterations == 100


def test_a_difference_beyond_the_tolerance_exits_with_1(run, capsys, monkeypatch):
    """The engine of another robot: one with motors of half the strength."""
    original = compare._env_of

    def weak(saved, engine):
        env = original(saved, engine)
        if engine == "plain":
            return env
        return dataclasses.replace(
            env, apply_task=lambda task: saved.parts.env.apply_task(task * jnp.array([1.0, 1.0, 0.1]))
        )

    monkeypatch.setattr(compare, "_env_of", weak)
    assert command.main([str(run), "--tasks", "16", "--tolerance", "0.1"]) == 1
    assert "differs by more than" in capsys.readouterr().out


def test_what_is_not_on_a_mujoco_model_is_one_line():
    with pytest.raises(ConfigError, match=r"^sim2sim needs an environment on a MuJoCo model: TaskEnv"):
        compare.on_engine(envs.make("khazad_dum"), "plain")


def test_the_difference_is_a_share_of_the_mean_size():
    returns = {"mujoco": np.array([[2.0, 1.0]]), "plain": np.array([[1.0, 1.0]])}
    compared = compare.Compared(("mass",), np.ones((1, 1)), returns)
    assert compared.difference("mujoco") == 0.5
    assert (
        compare.Compared(("mass",), np.ones((1, 1)), {**returns, "mujoco": returns["plain"]}).difference(
            "mujoco"
        )
        == 0
    )
