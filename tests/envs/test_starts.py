"""The task's value, not the unedited model's: control ranges, starts, model fields; and whose model it is."""

import functools
import re

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from roml_jax.envs import Edit, TaskDimension, TaskEnv
from roml_jax.types import Continuous

# one second of 100 steps with force u on a mass of 1 kg moves it by u x 0.505 m
SLIDER = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body name="block"><joint name="slide" type="slide" axis="1 0 0"/><geom size="0.1" mass="1"/></body>
    <body name="target" mocap="true" pos="0 0 1"><geom size="0.05" mass="0" contype="0"/></body>
  </worldbody>
  <actuator>
    <motor name="push" joint="slide" ctrlrange="-1 1"/>
    <general name="slow" joint="slide" dyntype="filter" dynprm="0.5" gainprm="0"/>
  </actuator>
  <keyframe>
    <key name="home" qpos="0.3" qvel="-0.2" act="0.7" ctrl="0.4 0.1" mpos="1 2 3" time="2"/>
    <key name="away" qpos="-5"/>
  </keyframe>
</mujoco>
"""
RANGE = TaskDimension("range", 0.5, 2.0, (Edit("actuator_ctrlrange", rows="push"),))
ENGINES = ("mujoco", "mjx")


def slider(*tasks, source=SLIDER, **options):
    options = {
        "engine": "mujoco",
        "reward": lambda motion: {"control": -motion.ctrl[0]},
        "frame_skip": 10,
        "start": lambda key: (jnp.zeros(1), jnp.zeros(1)),
        "check": False,
    } | options
    return TaskEnv.from_mjcf(source, tasks=tasks or (RANGE,), **options)


@functools.partial(jax.jit, static_argnums=0)
def started(function, task):
    return function(jax.random.key(0), jnp.atleast_1d(jnp.asarray(task, jnp.float32)))


def reset(env, task=1.0):
    return started(env.reset, task)


@functools.partial(jax.jit, static_argnums=0)
def moved(step, state, action):
    return step(state, jnp.asarray(action, jnp.float32))


def step(env, state, action=(0.0, 0.0)):
    return moved(env.step, state, np.array(action, np.float32))


def test_controls_are_clamped_to_the_tasks_range():
    """With a control of 3: 0.505 m at the model's range of 1, 1.010 m at twice that."""
    env = slider(frame_skip=100)
    both = jax.jit(jax.vmap(lambda task: env.step(reset(env, task), jnp.array([3.0, 0.0]))))
    ends = both(np.array([1.0, 2.0], np.float32))
    np.testing.assert_allclose(np.asarray(ends.physics.qpos)[:, 0], [0.505, 1.010], rtol=1e-5)
    np.testing.assert_allclose(ends.reward, [-1.0, -2.0])  # Motion.ctrl


def test_the_action_space_holds_the_range_of_every_task():
    """Each actuator's, over all tasks; "slow" has no limits unless it is given some."""
    assert slider().spec.action == Continuous(2, (-2.0, -np.inf), (2.0, np.inf))
    limited = SLIDER.replace('gainprm="0"', 'gainprm="0" ctrlrange="-1 0.5"')
    assert slider(source=limited).spec.action == Continuous(2, (-2.0, -1.0), (2.0, 0.5))
    both = (
        TaskDimension("up", 0.5, 3.0, (Edit("actuator_ctrlrange", column=1),)),
        TaskDimension("more", 0.0, 4.0, (Edit("actuator_ctrlrange", "add", "push", 1),)),
        TaskDimension("mass", 0.5, 2.0, (Edit("body_mass"),)),
    )
    assert slider(*both, source=limited).spec.action == Continuous(2, (-1.0, -1.0), (7.0, 1.5))
    other = TaskDimension("mass", 0.5, 2.0, (Edit("body_mass"),))
    assert slider(other, source=limited).spec.action == Continuous(2, (-1.0, -1.0), (1.0, 0.5))


def test_a_model_that_does_not_clamp_is_not_clamped():
    free = SLIDER.replace("<worldbody>", '<option><flag clampctrl="disable"/></option><worldbody>', 1)
    env = slider(source=free, frame_skip=100)
    end = step(env, reset(env), (3.0, 0.0))
    np.testing.assert_allclose(end.physics.qpos, [3 * 0.505], rtol=1e-5)
    np.testing.assert_allclose(end.reward, -3.0)


def test_the_default_start_is_at_the_tasks_qpos0():
    env = slider(TaskDimension("where", 1.0, 2.0, (Edit("qpos0", "set", "slide"),)), start=None)
    assert abs(float(np.asarray(reset(env, 1.5).physics.qpos)[0]) - 1.5) <= 0.01


def test_a_start_may_see_the_task():
    dimension = TaskDimension("where", 1.0, 2.0, (Edit("jnt_range", "set", "slide", 1),))

    def start(key, model, scale=2.0):
        assert model.base.nq == 1
        return scale * model.field("jnt_range")[:, 1] + model.task, model.field("body_mass")[1:2]

    limited = SLIDER.replace('axis="1 0 0"/>', 'axis="1 0 0" range="-9 9"/>')
    state = reset(slider(dimension, start=start, source=limited), 1.5)
    np.testing.assert_allclose(state.physics.qpos, [4.5])
    np.testing.assert_allclose(state.physics.qvel, [1.0])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_start_may_be_of_integers(engine):
    """The state would otherwise be one of integers, and lose what is below 1 in every control step."""

    def of(kind):
        return slider(engine=engine, start=lambda key: (jnp.zeros(1, kind), np.zeros(1, kind)))

    ends = []
    for env in (of(int), of(float)):
        state = reset(env)
        assert state.physics.qpos.dtype == state.physics.qvel.dtype == jnp.float32
        for _ in range(2):
            state = step(env, state, (0.1, 0.0))
        ends.append(np.asarray(state.physics.qvel))
    assert 0 < ends[0][0] < 1
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_start_may_be_a_keyframe(engine):
    """Positions, velocities, activations and mocap poses, and the controls for what is read at the reset."""
    names = ("actuator_force", "xpos", "act", "time", "cfrc_int", "subtree_linvel")
    env = slider(engine=engine, start="home", readings=names, frame_skip=1)

    def first_two(action):
        state = reset(env, 2.0)
        return state, env.step(state, action)

    state, after = jax.tree.map(
        np.asarray, [s._replace(key=()) for s in jax.jit(first_two)(np.array([3.0, 0.0], np.float32))]
    )
    model = mujoco.MjModel.from_xml_string(SLIDER)
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(state.physics.qpos, [0.3], rtol=1e-6)
    np.testing.assert_allclose(state.physics.qvel, [-0.2], rtol=1e-6)
    np.testing.assert_allclose(state.physics.act, [0.7], rtol=1e-6)
    np.testing.assert_allclose(state.physics.readings["xpos"], data.xpos, rtol=1e-6)  # target: 1 2 3
    np.testing.assert_allclose(state.physics.readings["actuator_force"], [0.4, 0.0], rtol=1e-6)
    assert float(state.physics.readings["time"]) == 2.0
    mujoco.mj_rnePostConstraint(model, data)
    mujoco.mj_subtreeVel(model, data)
    np.testing.assert_allclose(state.physics.readings["cfrc_int"], data.cfrc_int, atol=1e-5)
    np.testing.assert_allclose(state.physics.readings["subtree_linvel"], data.subtree_linvel, atol=1e-6)
    assert abs(data.cfrc_int).max() > 0.1
    np.testing.assert_allclose(after.physics.readings["xpos"][2], [1, 2, 3])
    np.testing.assert_allclose(after.physics.readings["time"], 2.01, rtol=1e-6)
    np.testing.assert_allclose(after.physics.qvel, [-0.2 + 2.0 * 0.01], rtol=1e-5)  # clamped to 2
    assert float(after.physics.act[0]) == pytest.approx(0.7 * (1 - 0.01 / 0.5), rel=1e-5)


def test_a_start_may_return_activations():
    env = slider(start=lambda key: (jnp.zeros(1), jnp.zeros(1), jnp.array([0.25])))
    assert float(np.asarray(reset(env).physics.act)[0]) == 0.25


def test_a_mocap_body_starts_where_the_task_puts_it():
    height = TaskDimension("height", 1.0, 3.0, (Edit("body_pos", "set", "target", 2),))

    def target(state):
        return float(np.asarray(state.physics.readings["xpos"])[2, 2])

    on_mjx = reset(slider(height, engine="mjx", readings=("xpos",)), 2.5)
    assert target(on_mjx) == float(np.asarray(on_mjx.physics.carried["mocap_pos"])[0, 2]) == 2.5
    env = slider(height, readings=("xpos",), frame_skip=1)
    state = reset(env, 2.5)
    assert target(state) == 2.5
    assert target(step(env, state)) == 2.5


STARTS = {
    "keyframe": ("hme", "the model has no keyframe named 'hme'; did you mean 'home'? (it has home, away)"),
    "arguments": (lambda: None, "start must take (key) or (key, model), but it takes ()"),
    "more": (
        lambda key, model, third: None,
        "start must take (key) or (key, model), but it takes (key, model",
    ),
    "one": (lambda key: jnp.zeros(1), "start must return qpos and qvel, or qpos (1,), qvel (1,), act (1,)"),
    "shape": (
        lambda key: (jnp.zeros(1), jnp.zeros(3)),
        "start must return qpos (1,), qvel (1,), act (1,); got qvel of shape (3,)",
    ),
}


@pytest.mark.parametrize("case", STARTS)
def test_starts_that_cannot_be_are_one_line(case):
    start, line = STARTS[case]
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        slider(start=start)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["model", "spec"])
def test_the_callers_model_stays_the_callers(kind):
    """Changes of the caller's model or spec after the environment is made change nothing."""
    spec = mujoco.MjSpec.from_string(SLIDER)
    mine = spec.compile() if kind == "model" else spec
    env = slider(source=mine, start=None, frame_skip=100)
    assert env.physics.model is not mine
    if kind == "model":
        mine.body_mass[1], mine.qpos0[0], mine.actuator_ctrlrange[0] = 50.0, 9.0, (-7, 7)
        mine.opt.gravity[0] = 5.0
    else:
        spec.bodies[1].geoms[0].mass, spec.actuators[0].ctrlrange = 50.0, (-7, 7)
        spec.compile()
    state = reset(env)
    assert abs(float(np.asarray(state.physics.qpos)[0])) <= 0.01
    zero = np.zeros(1, np.float32)
    state = state._replace(physics=state.physics._replace(qpos=zero, qvel=zero))
    np.testing.assert_allclose(step(env, state, (3.0, 0.0)).physics.qpos, [0.505], rtol=1e-5)
    assert env.physics.model.body_mass[1] == 1.0


def test_fields_are_the_tasks_also_where_the_engine_derives_them():
    """Twice the density of a ball of 1 kg and radius 0.1 m: inertia 0.4 m r^2 = 0.008."""
    mass = TaskDimension("mass", 0.5, 2.0, (Edit("body_mass", rows="block"), Edit("mat_rgba", "set")))
    names = ("body_mass", "body_inertia", "body_subtreemass", "mat_rgba", "geom_size")
    source = SLIDER.replace(
        "<worldbody>", '<asset><material name="red" rgba="1 0 0 1"/></asset><worldbody>', 1
    )
    for derived, inertia in (("consistent", 0.008), ("stale", 0.004)):
        fields = {}

        def reward(motion, fields=fields):
            fields |= {name: motion.after.field(name) for name in names}
            return {}

        env = slider(mass, source=source, reward=reward, derived=derived)

        @jax.jit
        def read(env=env, fields=fields):
            env.step(reset(env, 2.0), jnp.zeros(2))
            return dict(fields)

        seen = jax.tree.map(np.asarray, read())
        np.testing.assert_allclose(seen["body_mass"], [0, 2, 0])
        np.testing.assert_allclose(seen["body_inertia"][1], inertia, rtol=1e-6)
        np.testing.assert_allclose(seen["body_subtreemass"], [2, 2, 0])
        np.testing.assert_allclose(seen["mat_rgba"], 2.0)  # which the simulation does not need
        np.testing.assert_allclose(seen["geom_size"][0, 0], 0.1, rtol=1e-6)
    line = "dof_M0 depends on the task's body_mass, and this engine has no value of it that observations and"
    with pytest.raises(ValueError, match=re.escape(line)):
        slider(mass, source=source, reward=lambda motion: {"m": motion.after.field("dof_M0")[0]})


def test_a_camera_of_the_task_is_read_where_it_is():
    up = TaskDimension("up", 1.0, 3.0, (Edit("cam_pos", "set", 0, 2),))
    source = SLIDER.replace("<worldbody>", '<worldbody><camera name="eye" pos="0 0 1"/>', 1)
    state = reset(slider(up, source=source, readings=("cam_xpos",)), 2.5)
    np.testing.assert_allclose(state.physics.readings["cam_xpos"], [[0, 0, 2.5]])
