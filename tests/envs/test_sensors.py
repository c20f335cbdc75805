"""Noise, latency and history around an environment, against closed forms; they compose, learn and deploy."""

import functools
import zipfile

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from cart import cart

import roml_jax
from roml_jax import envs, testing
from roml_jax.deploy import policy as policies
from roml_jax.envs import TaskDimension, delay, history, inside, noise, wrappers
from roml_jax.render import __main__ as render

RAIL = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body><joint name="rail" type="slide" axis="1 0 0" damping="1"/><geom size="0.1" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="rail" ctrlrange="-1 1"/></actuator>
</mujoco>
"""
TASKS = (TaskDimension("latency_ms", 0.0, 80.0), TaskDimension("error", 0.0, 0.5))
TASK = np.array([60.0, 0.2], np.float32)


@functools.cache
def rail(**options):
    """A block on a rail at rest; a control step is 20 ms."""
    return envs.TaskEnv.from_mjcf(
        RAIL,
        tasks=TASKS,
        frame_skip=2,
        horizon=10,
        engine="mujoco",
        check=False,
        reward=lambda motion: {"x": motion.after.qpos[0]},
        start=lambda key: (jnp.zeros(1), jnp.zeros(1)),
        **options,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def episode(reset, step, key, task, actions):
    first = reset(key, task)
    return first, jax.lax.scan(lambda state, action: 2 * (step(state, action),), first, actions)[1]


def run(env, actions, task=TASK, key=0):
    """The first state and those after each action."""
    return episode(env.reset, env.step, jax.random.key(key), task, actions)


STEP = np.ones((12, 1), np.float32)


@pytest.fixture(scope="module")
def response():
    """The observation (12, 2) after each step of a step response."""
    return np.asarray(run(rail(), STEP)[1].obs)


@pytest.mark.parametrize(("given", "d"), [
    ({"action": 3}, 3), ({"action": 0.06, "unit": "s"}, 3), ({"action": 69, "unit": "ms"}, 3),
    ({"action": "latency_ms", "unit": "ms"}, 3),
])  # fmt: skip
def test_a_delay_of_actions_of_d_steps_shifts_the_step_response_by_d(given, d, response):
    late = run(delay(rail(), **given), STEP)[1]
    np.testing.assert_array_equal(late.obs, np.concatenate([np.zeros((d, 2)), response[:-d]]))
    np.testing.assert_array_equal(late.reward, late.obs[:, 0])


@pytest.mark.parametrize("given", [{"observation": 3}, {"observation": "latency_ms", "unit": "ms"}])
def test_a_delay_of_observations_shifts_them_but_not_the_reward(given, response):
    late = run(delay(rail(), **given), STEP)[1]
    np.testing.assert_array_equal(late.obs, np.concatenate([np.zeros((3, 2)), response[:-3]]))
    np.testing.assert_array_equal(late.reward, response[:, 0])


@pytest.mark.parametrize("wrap", [
    lambda env: noise(env, std=0.5, bias=0.5), lambda env: delay(env, observation=3),
    lambda env: history(env, 2, actions=True),
    lambda env: history(noise(delay(env, observation=3), std=1.0), 2),
])  # fmt: skip
def test_what_only_a_critic_sees_has_no_noise_delay_or_history(wrap, response):
    bare = rail(privileged=("velocity",))
    env = wrap(bare)
    assert env.spec.privileged_slices == bare.spec.privileged_slices == {"velocity": slice(0, 1)}
    assert not {"velocity", "velocity[-1]"} & set(env.spec.obs_slices)
    first, rest = run(env, STEP)
    assert first.obs.shape == (env.spec.obs_size,)
    np.testing.assert_array_equal(first.privileged, [0.0])
    np.testing.assert_array_equal(rest.privileged, response[:, 1:])


def test_the_tasks_delay_is_each_tasks_in_one_batch(response):
    env = delay(rail(), action="latency_ms", unit="ms")
    tasks = np.stack([[0.0, 20.0, 29.0, 31.0, 80.0], np.zeros(5)], 1).astype(np.float32)
    late = np.asarray(jax.jit(jax.vmap(lambda task: run(env, STEP, task)[1].obs))(tasks))
    for obs, d in zip(late, (0, 1, 1, 2, 4), strict=True):
        np.testing.assert_array_equal(obs, np.concatenate([np.zeros((d, 2)), response])[:12])


def test_noise_has_its_deviation_and_the_reward_is_the_true_ones(response):
    env = noise(rail(), std={"position": "error", "velocity": [0.05]})
    first, states = run(env, np.zeros((2000, 1), np.float32))
    errors = np.asarray(states.obs)
    np.testing.assert_allclose(errors.std(0), [0.2, 0.05], rtol=0.06)
    np.testing.assert_allclose(errors.mean(0), 0, atol=0.02)
    lag = [np.corrcoef(errors[1:, i], errors[:-1, i])[0, 1] for i in range(2)]
    np.testing.assert_allclose(lag, 0, atol=0.08)
    assert abs(np.corrcoef(errors.T)[0, 1]) < 0.08
    assert not np.asarray(states.reward).any()
    assert np.asarray(first.obs).any()
    np.testing.assert_array_equal(run(env, STEP)[1].reward, response[:, 0])


def test_a_bias_is_drawn_once_per_episode():
    env = noise(noise(rail(), bias=0.3), bias={"position": 0.4})
    start = jax.jit(jax.vmap(lambda seed: env.reset(jax.random.key(seed), TASK)))
    obs = np.asarray(start(np.arange(2000)).obs)
    np.testing.assert_allclose(obs.std(0), [0.5, 0.3], rtol=0.06)  # 0.3 and 0.4, independent
    first, later = run(env, np.zeros((5, 1), np.float32))
    np.testing.assert_allclose(later.obs, np.tile(first.obs, (5, 1)), atol=1e-6)


def test_history_stacks_the_newest_first(response):
    env = history(rail(), 3, actions=True)
    assert list(env.spec.obs_slices) == [
        "position", "velocity", "position[-1]", "velocity[-1]", "position[-2]", "velocity[-2]",
        "action[-1]", "action[-2]", "action[-3]",
    ]  # fmt: skip
    first, states = run(env, STEP)
    assert first.obs.shape == (env.spec.obs_size,) == (9,)
    now = np.concatenate([np.zeros((2, 2)), response])
    stacked = np.concatenate([now[2:], now[1:-1], now[:-2]], 1)
    obs = np.asarray(states.obs)
    np.testing.assert_array_equal(obs[:, :6], stacked)
    acted = np.minimum(np.arange(1, 13)[:, None], [1, 2, 3]) == [1, 2, 3]
    np.testing.assert_array_equal(obs[:, 6:], acted)


def composed(env):
    env = noise(env, std={"position": "error"}, bias=0.02)
    return history(delay(env, action="latency_ms", observation=20, unit="ms"), 2)


def test_they_compose_and_pass_the_check_that_users_run():
    env = composed(rail())
    testing.check_env(env, 4)
    assert env.dt == 0.02
    assert inside(env)[0] is rail()


def test_after_the_end_of_an_episode_nothing_moves():
    env = composed(rail(terminate=lambda view: view.qpos[0] > 0.01))
    states = run(env, np.ones((30, 1), np.float32))[1]
    obs, done, valid = map(np.asarray, (states.obs, states.done, states.valid))
    over = int(np.flatnonzero(done)[0])
    assert 0 < over < 25
    np.testing.assert_array_equal(obs[over:], np.tile(obs[over], (30 - over, 1)))
    assert not valid[over + 1 :].any()


def test_any_environment_can_be_wrapped():
    walls = envs.make("khazad_dum")
    testing.check_env(history(noise(walls, std=0.1), 2), 4)


BAD = {
    "nothing": (lambda env: noise(env), "noise: give std, bias or both"),
    "part": (lambda env: noise(env, std={"positon": 1.0}), "'positon'; did you mean 'position'?"),
    "level": (lambda env: noise(env, std=-0.1), "noise: std must be at least 0, got -0.1"),
    "sizes": (lambda env: noise(env, bias={"position": (1.0, 2.0)}), "must be 1 numbers of at least 0"),
    "name": (lambda env: noise(env, std="eror"), "no task dimension is named 'eror'; did you mean 'error'?"),
    "short": (lambda env: delay(env, action=9, unit="ms"), "changes nothing (a step is 20 ms)"),
    "negative": (lambda env: delay(env, action=-1), "delay: action must be at least 0, got -1"),
    "unit": (lambda env: delay(env, 1, unit="msec"), "unit must be one of steps, s, ms, got 'msec'"),
    "dt": (lambda env: delay(envs.make("khazad_dum"), observation=1, unit="s"), "use unit='steps'"),
    "discrete": (lambda env: delay(envs.make("khazad_dum"), 1), "actions of khazad_dum are discrete"),
    "steps": (lambda env: history(env, 1), "history: steps must be at least 2, got 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name):
    make, message = BAD[name]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make(rail())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrapped_environment_trains_is_evaluated_shown_and_exported(tmp_path, monkeypatch):
    """Two iterations; the page, the policy's range of actions, and the parts of its observation."""

    def made():
        late = delay(noise(rail(action="ctrlrange"), std=0.01), action="latency_ms", unit="ms")
        return history(late, 2)

    monkeypatch.setitem(envs.base._registry._constructors, "rail", made)
    few = {"num_tasks": 4, "chunk": 1, "eval.tasks": 4, "eval.test_tasks": 4}
    run = roml_jax.train(
        "rail", sampler="uniform", agent="multitask", frames=160, quiet=True, out=tmp_path / "run", **few
    )
    returns = run.returns()
    assert returns.shape[-2:] == (4, 2)
    assert np.isfinite(returns).all()
    assert render.main([str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000
    policy = run.policy()
    said = policies.signature(policy)
    assert said["action"] == {"kind": "continuous", "size": 1, "low": -1.0, "high": 1.0}
    parts = {"position": [0, 1], "velocity": [1, 2], "position[-1]": [2, 3], "velocity[-1]": [3, 4]}
    assert said["observation"]["parts"] == parts
    with zipfile.ZipFile(policy.export(tmp_path / "policy.zip")) as file:
        act = jax.export.deserialize(bytearray(file.read("act"))).call
        begin = jax.export.deserialize(bytearray(file.read("begin"))).call
    action, _ = act(begin(np.zeros(3, np.int32)), np.zeros((3, 4), np.float32))
    assert action.shape == (3, 1)


def test_a_wrapped_robot_on_another_engine_keeps_its_wrappers():
    wrapped = wrappers.Wrapper(wrappers.Wrapper(cart()))
    other = wrapped.on("mjx")
    assert type(other) is type(other.env) is wrappers.Wrapper
    assert (wrapped.physics.name, other.physics.name) == ("mujoco", "mjx")
