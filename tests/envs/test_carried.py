"""The whole state rides in ``EnvState``: delays, plastic springs, plugins; what cannot is refused."""

import re

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from roml_jax.envs import Edit, TaskDimension, TaskEnv

ROD = """
<mujoco>
  <option timestep="0.002" gravity="0 0 0"{flags}/>
  {before}
  <worldbody>
    <body name="block">
      <joint name="slide" type="slide" axis="1 0 0"{joint}/>
      <geom size="0.1" mass="1"/>
    </body>
  </worldbody>
  <actuator>{actuator}</actuator>
  {after}
</mujoco>
"""
MASS = TaskDimension("mass", 0.5, 2.0, (Edit("body_mass"),))
MOTOR = '<motor joint="slide" ctrlrange="-50 50"/>'


def rod(flags="", before="", joint="", actuator=MOTOR, after=""):
    return ROD.format(flags=flags, before=before, joint=joint, actuator=actuator, after=after)


def env_of(source, *tasks, **options):
    options = {
        "engine": "mujoco",
        "frame_skip": 5,
        "start": lambda key: (jnp.zeros(1), jnp.zeros(1)),
    } | options
    return TaskEnv.from_mjcf(source, tasks=tasks or (MASS,), reward=lambda motion: {}, **options)


def episode(env, actions, task=1.0):
    """qpos (T,) after each of the actions (T,)."""

    def step(state, action):
        state = env.step(state, action[None])
        return state, state.physics.qpos[0]

    start = env.reset(jax.random.key(0), jnp.full(1, task))
    return np.asarray(jax.lax.scan(step, start, jnp.asarray(actions, jnp.float32))[1])


def plain(source, actions, frame_skip=5):
    """The same of plain MuJoCo."""
    model = mujoco.MjModel.from_xml_string(source)
    data, seen = mujoco.MjData(model), []
    for action in np.asarray(actions, np.float32):
        data.ctrl[:] = action
        mujoco.mj_step(model, data, frame_skip)
        seen.append(data.qpos[0])
    return np.array(seen)


def test_every_episode_starts_with_a_new_spring():
    """A spring that yields: 20 N for 0.5 s, then none; MuJoCo's second episode without a reset differs."""
    source = rod(joint=' stiffness="30" springyield="0.2" damping="1"')
    actions = np.repeat([20.0, 0.0], 50)
    right = plain(source, actions)
    assert abs(right[-1] - plain(source.replace(' springyield="0.2"', ""), actions)[-1]) > 0.5
    env = env_of(source)
    for _ in range(2):
        np.testing.assert_allclose(episode(env, actions), right, rtol=1e-4, atol=1e-4)


def test_a_spring_of_the_task_starts_where_the_task_has_it():
    """The plastic state starts at the spring's reference, so an edit of that moves it."""
    spring = ' stiffness="30" springyield="0.2" damping="1" springref="{}"'
    moved = TaskDimension("reference", -1.0, 1.0, (Edit("qpos_spring", "set", "slide"),))
    got = episode(env_of(rod(joint=spring.format(0.0)), moved), np.zeros(50), 0.5)
    np.testing.assert_allclose(got, plain(rod(joint=spring.format(0.5)), np.zeros(50)), rtol=1e-4, atol=1e-4)
    assert abs(got[-1]) > 0.1


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_delay_of_d_steps_moves_the_response_by_d(count):
    """A random control, held for 5 substeps each, over 2 s; the delay is no multiple of the control step."""
    delay = f' nsample="{count}" delay="{count * 0.002}"'
    delayed = rod(actuator=MOTOR.replace("/>", delay + "/>"), joint=' damping="3"')
    actions = 10 * np.random.default_rng(count).normal(size=200)
    right = plain(delayed, actions)
    # the response without delay, every substep, d substeps earlier
    undelayed = plain(rod(joint=' damping="3"'), np.repeat(actions, 5), 1)
    np.testing.assert_allclose(
        right, np.concatenate([np.zeros(count), undelayed])[4 : len(undelayed) : 5], atol=1e-9
    )
    env = env_of(delayed)
    for _ in range(2):
        np.testing.assert_allclose(episode(env, actions), right, rtol=1e-4, atol=1e-4)


def test_a_delay_may_be_a_task():
    delay = TaskDimension("delay", 0.0, 0.02, (Edit("actuator_delay", "set"),))
    source = rod(actuator=MOTOR.replace("/>", ' nsample="10" delay="{}"/>'), joint=' damping="3"')
    actions = 10 * np.random.default_rng(0).normal(size=20)
    env = env_of(source.format(0.01), delay)
    for seconds in (0.002, 0.01, 0.02):
        right = plain(source.format(seconds), actions)
        np.testing.assert_allclose(episode(env, actions, seconds), right, rtol=1e-4, atol=1e-4)


def test_a_delay_beyond_its_buffer_is_refused():
    """MuJoCo would cut it to the buffer's length, so that four fifths of these tasks would be one."""
    source = rod(actuator=MOTOR.replace("/>", ' nsample="5" delay="0.01"/>'), joint=' damping="3"')

    def up_to(seconds):
        return env_of(source, TaskDimension("delay", 0.0, seconds, (Edit("actuator_delay", "set"),)))

    up_to(0.01)
    with pytest.raises(
        ValueError, match=r"is 0\.05 s and its buffer holds 0\.01 s: give it nsample=25 at the"
    ):
        up_to(0.05)


def test_a_delayed_sensor_is_read_late():
    sensor = '<sensor><jointpos joint="slide" nsample="4" delay="0.008"/></sensor>'
    source = rod(after=sensor)
    env = env_of(source, readings=("sensordata",), frame_skip=1)
    model = mujoco.MjModel.from_xml_string(source)
    data, state = mujoco.MjData(model), env.reset(jax.random.key(0), jnp.ones(1))
    for _ in range(10):
        state, data.ctrl[:] = env.step(state, jnp.array([10.0])), 10.0
        mujoco.mj_step(model, data)
        np.testing.assert_allclose(state.physics.readings["sensordata"], data.sensordata, atol=1e-7)
    assert data.sensordata[0] > 0


def test_an_integral_of_a_plugin_starts_anew():
    plugin = (
        '<extension><plugin plugin="mujoco.pid"><instance name="pid"><config key="kp" value="10"/>'
        '<config key="ki" value="50"/><config key="imax" value="20"/></instance></plugin></extension>'
    )
    actuator = '<plugin joint="slide" plugin="mujoco.pid" instance="pid" actdim="1"/>'
    source = rod(before=plugin, actuator=actuator, joint=' damping="3"')
    env, actions = env_of(source), np.repeat([1.0, 0.3], 30)
    for _ in range(2):
        np.testing.assert_allclose(episode(env, actions), plain(source, actions), rtol=1e-4, atol=1e-4)


def test_most_models_carry_nothing_more():
    state = env_of(rod()).reset(jax.random.key(0), jnp.ones(1)).physics
    assert state.carried == {}
    assert len(jax.tree.leaves(state)) == 4


SLEEPY = rod().replace("/>\n", '><flag sleep="enable"/></option>\n', 1)
REFUSALS = {
    "sleep": (
        SLEEPY, ("mujoco", "mjx"),
        "the model has the flag sleep=enable, whose memory is not part of MuJoCo's state, so an episode "
        "cannot carry it; set sleep=disable",
    ),
    "delay": (
        rod(actuator=MOTOR.replace("/>", ' nsample="2" delay="0.004"/>')), ("mjx",),
        "MJX cannot simulate this model (it has no delays of actuators and sensors); the engine 'mujoco' may",
    ),
    "plastic": (
        rod(joint=' stiffness="30" springyield="0.2"'), ("mjx",),
        "MJX cannot simulate this model (it has no plastic springs); the engine 'mujoco' may support it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_state_that_an_engine_cannot_carry_is_refused(case):
    source, engines, line = REFUSALS[case]
    for engine in engines:
        with pytest.raises(ValueError, match=re.escape(line)) as error:
            env_of(source, engine=engine)
        assert "\n" not in str(error.value)
