"""Actions, what an episode carries, forces, commands and mocap bodies, against closed forms."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from roml_jax import testing
from roml_jax.envs import (
    Actions,
    Carry,
    Edit,
    TaskDimension,
    TaskEnv,
    check,
    commands,
    delay,
    force,
    history,
    inside,
    mocap,
    mocap_at,
    pushes,
)
from roml_jax.types import Continuous

# A block of 2 kg on a rail (slide along x), a free ball of 3 kg, two mocap bodies; no gravity, no contacts.
MODEL = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"><flag contact="disable"/></option>
  <worldbody>
    <body name="block"><joint name="rail" type="slide" axis="1 0 0"/><geom size="0.1" mass="2"/></body>
    <body name="ball" pos="0 0 1"><freejoint/><geom size="0.1" mass="3"/></body>
    <body name="hand" mocap="true" pos="0.5 0 1"><geom size="0.05"/></body>
    <body name="goal" mocap="true" pos="1 2 3"><geom size="0.05"/></body>
  </worldbody>
  <actuator>
    <motor name="push" joint="rail" gear="0" ctrlrange="-1 1"/>
    <position name="servo" joint="rail" kp="0" ctrlrange="0 100"/>
  </actuator>
  <keyframe><key name="home" qpos="0 0 0 1 1 0 0 0" ctrl="0.2 40"/></keyframe>
</mujoco>
"""
DT = 0.02  # of two physics steps
TASKS = (TaskDimension("lag", 0.05, 0.5), TaskDimension("newtons", 1.0, 20.0))
TASK = jnp.array([0.1, 6.0])
ENGINES = ("mujoco", "mjx")


def robot(**options):
    options = {
        "engine": "mujoco", "tasks": TASKS, "frame_skip": 2, "horizon": 20, "start": "home", "check": False,
        "reward": lambda motion: {"push": motion.ctrl[0], "servo": 0.01 * motion.ctrl[1]},
    } | options  # fmt: skip
    return TaskEnv.from_mjcf(MODEL, **options)


def run(env, actions, task=TASK, key=0):
    """The states after each action (T, A); the first is the reset's."""
    first = jax.jit(env.reset)(jax.random.key(key), task)
    _, rest = jax.jit(lambda s, a: jax.lax.scan(lambda s, a: 2 * (env.step(s, a),), s, a))(first, actions)
    return first, rest


def controls(action, actions, task=TASK):
    """The controls (T, 2) after actions, before MuJoCo's clamp."""
    return np.asarray(run(robot(action=action), jnp.asarray(actions, jnp.float32), task)[1].carry.ctrl)


def test_the_range_is_each_actuators():
    assert robot().spec.action == Continuous(2, (-1.0, 0.0), (1.0, 100.0))
    assert robot(action="ctrlrange").spec.action == Continuous(2, -1.0, 1.0)
    wider = TaskDimension("wider", 1.0, 2.0, (Edit("actuator_ctrlrange", rows="servo"),))
    assert robot(tasks=(wider,)).spec.action == Continuous(2, (-1.0, 0.0), (1.0, 200.0))


def test_a_space_with_equal_ranges_has_one_number_for_each_end():
    assert Continuous.within([-2.0, -2.0], [3.0, 3.0]) == Continuous(2, -2.0, 3.0)
    assert Continuous(2, -2.0, 3.0).bounds == (-2.0, 3.0)
    low, high = Continuous.within([-1, 0], [1, 1]).bounds
    np.testing.assert_array_equal([low, high], [[-1, 0], [1, 1]])


def test_ctrlrange_maps_the_unit_range_to_each_actuators():
    actions = [[-1, -1], [0, 0], [1, 1], [-3, 3]]
    np.testing.assert_allclose(controls("ctrlrange", actions), [[-1, 0], [0, 50], [1, 100], [-1, 100]])


def test_a_deviation_of_one_explores_the_whole_of_it():
    """A third of normal actions is beyond one deviation and so at an end of the range, in both actuators."""
    actions = jax.random.normal(jax.random.key(0), (2000, 2))
    reached = controls("ctrlrange", actions)
    np.testing.assert_allclose((reached == [-1, 0]).mean(0), 0.159, atol=0.03)
    np.testing.assert_allclose((reached == [1, 100]).mean(0), 0.159, atol=0.03)
    np.testing.assert_allclose(reached.mean(0), [0, 50], atol=2)


def test_scale_and_offset_around_home():
    """Controls stay in the model's range: 0.2 + 1.5 is cut to 1."""
    action = Actions(home="home", scale=(1.5, 10.0))
    np.testing.assert_allclose(controls(action, [[0, 0], [1, -1]]), [[0.2, 40], [1, 30]], rtol=1e-6)
    action = Actions(offset=(0.1, 20.0), scale=0.5)
    np.testing.assert_allclose(controls(action, [[1, -1]]), [[0.6, 19.5]], rtol=1e-6)


def test_a_matrix_mirrors_two_fingers():
    env = robot(action=Actions(mix=((1.0,), (-1.0,))))
    assert env.spec.action == Continuous(1)
    np.testing.assert_allclose(run(env, jnp.array([[0.5]]))[1].carry.ctrl, [[0.5, 25.0]])


@pytest.mark.parametrize("tau", [0.1, "lag"])
def test_the_filters_step_response(tau):
    """1 - exp(-t / tau) of the step, from the control of the action 0; the task's tau is 0.1 s."""
    seen = controls(Actions(low_pass=tau), np.ones((10, 2)))
    rise = 1 - np.exp(-DT * np.arange(1, 11) / 0.1)
    np.testing.assert_allclose(seen, rise[:, None] * [1, 50] + [0, 50], rtol=1e-5)


@pytest.mark.parametrize("rate", [(5.0, 250.0), "newtons"])
def test_a_limit_of_rate_is_the_slope(rate):
    """The task's limit is 6 control units a second for both actuators."""
    seen = controls(Actions(rate=rate), np.ones((4, 2)))
    slope = np.array([6, 6] if isinstance(rate, str) else rate)
    straight = [0, 50] + slope * DT * np.arange(1, 5)[:, None]
    np.testing.assert_allclose(seen, np.minimum(straight, [1, 100]), rtol=1e-5)


def test_motion_has_the_control_and_a_penalty_of_the_actions_rate_is_a_line():
    """Actions 0.5, 0.5, -0.25: changes 0.5 (from 0 at the start), 0 and -0.75."""
    env = robot(
        action="ctrlrange",
        reward=lambda motion: {"rate": -jnp.square(motion.after.action - motion.before.action).sum()},
        observation={"last": lambda view: view.action},
    )
    first, states = run(env, jnp.array([[0.5, 0], [0.5, 0], [-0.25, 0]]))
    np.testing.assert_allclose(states.reward, [-0.25, 0, -0.5625])
    np.testing.assert_allclose([first.obs, *states.obs], [[0, 0], [0.5, 0], [0.5, 0], [-0.25, 0]])


def walk(key, value, motion):
    return value + jax.random.normal(key, (2,)) * motion.dt


def test_a_users_value_has_its_own_randomness_and_steps_with_the_episode():
    both = {"count": Carry(lambda key, view: 3, lambda key, n, motion: n + 1),
            "walk": Carry(lambda key, view: jnp.zeros(2), walk),
            "other": Carry(lambda key, view: jnp.zeros(2), walk)}  # fmt: skip
    env = robot(
        carry=both,
        reward=lambda motion: {"count": 1.0 * motion.before.carry["count"]},
        observation={
            "count": lambda view: view.carry["count"][None],
            "walk": lambda view: view.carry["walk"],
        },
    )
    first, states = run(env, jnp.zeros((400, 2)))
    assert first.obs[0] == 3
    np.testing.assert_array_equal(states.obs[:, 0], np.arange(4, 404))
    np.testing.assert_array_equal(states.reward, np.arange(3, 403))
    walks = [np.diff(states.carry.values[name], axis=0) / DT for name in ("walk", "other")]
    for moves in walks:
        np.testing.assert_allclose(moves.std(), 1.0, atol=0.1)
    assert abs(np.corrcoef(walks[0].ravel(), walks[1].ravel())[0, 1]) < 0.15
    again, another = run(env, jnp.zeros((1, 2)))[1], run(env, jnp.zeros((1, 2)), key=1)[1]
    np.testing.assert_array_equal(again.obs[0], states.obs[0])
    assert (another.obs != again.obs).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_forces_change_momentum_by_f_times_t_and_mocap_bodies_move(engine):
    """One program for all of them.

    Wind and a rope: 6 N (the task's) along y and 3 N along z for 0.32 s on 3 kg. Pushes of the block: 6 N for
    0.06 s, 0.1 s after the last one, so its momentum is a staircase. The hand moves by the action, within its
    box; the goal stands where the task puts it.
    """
    env = robot(engine=engine, action="ctrlrange", carry={
        "wind": force("ball", (0, 1, 0), "newtons"),
        "rope": force("ball", (0, 0, 1.5), 2.0),
        "push": pushes("block", "newtons", duration=0.06, every=0.1, direction=(2, 0, 0)),
        "hand": mocap("hand", 0.1, low=(0, -1, 0), high=(0.7, 1, 2)),
        "goal": mocap_at("goal", lambda view: jnp.array([0.0, 0.0, view.number("newtons")])),
    })  # fmt: skip
    assert env.spec.action == Continuous(5)
    first, rest = run(env, jnp.tile(jnp.array([0, 0, 1.0, -0.5, 0]), (16, 1)))
    # the first observation has the bodies where they are carried, not where the file has them
    np.testing.assert_allclose(first.physics.carried["mocap_pos"], [[0.5, 0, 1], [0, 0, 6.0]], atol=1e-6)
    physics = rest.physics
    steps = np.arange(1, 17)
    flown = np.stack([np.zeros(16), 6 * DT * steps, 3 * DT * steps], 1)
    np.testing.assert_allclose(3 * physics.qvel[:, 1:4], flown, atol=1e-5)
    pushed = 6 * DT * np.cumsum(np.tile([0] * 5 + [1] * 3, 2))
    np.testing.assert_allclose(2 * physics.qvel[:, 0], pushed, atol=1e-5)
    poses = physics.carried["mocap_pos"]
    hand = np.stack([np.minimum(0.5 + 0.1 * steps, 0.7), -0.05 * steps, np.ones(16)], 1)
    np.testing.assert_allclose(poses[:, 0], hand, atol=1e-6)
    np.testing.assert_allclose(poses[:, 1], np.tile([0, 0, 6.0], (16, 1)), atol=1e-6)


def test_the_last_action_is_what_the_policy_chose_also_where_it_arrives_later():
    """As the robot's program knows it; inside of another wrapper, too."""
    bare = robot(
        carry={}, observation={"last": lambda view: view.action, "joint": lambda view: view.qpos[:1]}
    )
    actions = jnp.array([[0.1, 1.0], [0.2, 2.0], [0.3, 3.0], [0.4, 4.0]])
    for env in (delay(bare, action=2), history(delay(bare, action=2), 2)):
        _, states = run(env, actions)
        np.testing.assert_allclose(states.obs[:, :2], actions, rtol=1e-6)
        arrived = np.concatenate([np.zeros((2, 2)), actions[:2]])
        np.testing.assert_allclose(inside(env, states)[1].carry.ctrl, arrived, rtol=1e-6)
    late = delay(bare, observation={"joint": 1})
    assert run(late, actions)[1].obs.shape == (4, 3)
    np.testing.assert_allclose(run(late, actions)[1].obs[:, :2], actions, rtol=1e-6)
    with pytest.raises(
        ValueError, match="delay: observation: unknown part of the observation 'joints'; did you"
    ):
        delay(bare, observation={"joints": 1})


def test_a_step_of_a_subclass_is_taken_by_wrappers_too():
    class Twice(TaskEnv):
        def step(self, state, action, ctrl=None):
            return super().step(super().step(state, action, ctrl), action, ctrl)

    bare = robot(carry={"steps": Carry(lambda key, view: 0, lambda key, steps, motion: steps + 1)})
    env = delay(Twice(**{name: getattr(bare, name) for name in bare.__dataclass_fields__}), action=1)
    states = run(env, jnp.zeros((3, 2)))[1]
    np.testing.assert_array_equal(inside(env, states)[1].carry.values["steps"], [2, 4, 6])


def test_random_pushes_have_their_sizes_ways_and_pauses():
    push = pushes("ball", (10.0, 20.0), duration=0.04, every=(0.1, 0.3))
    env = robot(carry={"push": push}, observation={"force": lambda view: view.carry["push"].now})
    seen = np.asarray(run(env, jnp.zeros((3000, 2)))[1].obs)
    on = np.linalg.norm(seen, axis=1) > 0
    starts = np.flatnonzero(np.diff(on.astype(int)) == 1) + 1
    assert np.diff(starts).min() >= 2 + 0.1 / DT
    assert np.diff(starts).max() <= 2 + 0.3 / DT
    np.testing.assert_allclose(np.diff(starts).mean(), 2 + 0.2 / DT, atol=0.6)
    assert on.sum() in range(2 * len(starts) - 1, 2 * len(starts) + 3)
    forces = seen[starts]
    size = np.linalg.norm(forces, axis=1)
    assert ((size > 10 - 1e-4) & (size < 20 + 1e-4)).all()
    np.testing.assert_allclose(size.mean(), 15, atol=1)
    np.testing.assert_allclose((forces / size[:, None]).mean(0), 0, atol=0.15)


def test_commands_are_uniform_and_last_as_long_as_they_should():
    """A new one each 0.1 s, 5 control steps; the reward reads that of the step, the observation the next."""
    env = robot(
        carry={"speed": commands((-1.0, 0.0), (1.0, 0.5), every=0.1), "top": commands(0.0, "newtons")},
        reward=lambda motion: {"speed": motion.before.carry["speed"].value[0]},
        observation={"speed": lambda view: view.carry["speed"].value,
                     "top": lambda view: view.carry["top"].value},
    )  # fmt: skip
    first, states = run(env, jnp.zeros((2000, 2)))
    seen = np.concatenate([first.obs[None], states.obs])[:-1]
    np.testing.assert_array_equal(states.reward, seen[:, 0])
    blocks = seen.reshape(-1, 5, 3)
    assert (blocks == blocks[:, :1]).all()
    drawn = blocks[:, 0, :2]
    assert len(np.unique(drawn[:, 0])) == 400
    np.testing.assert_allclose(drawn.mean(0), [0, 0.25], atol=0.1)
    np.testing.assert_allclose(drawn.std(0), np.array([2, 0.5]) / np.sqrt(12), rtol=0.1)
    assert (seen[:, 2] == seen[0, 2]).all()
    assert 0 <= seen[0, 2] <= 6


def test_forces_equal_plain_mujocos():
    """``qfrc_applied`` of the engine is that of ``mujoco`` with the same forces; on the rail, 4 N on 2 kg."""
    env = robot(carry={"pull": Carry(
        lambda key, view: (), lambda key, value, motion: (),
        lambda value, view, action: {"qfrc_applied": jnp.zeros(view.base.nv).at[0].set(4.0)},
    )})  # fmt: skip
    states = run(env, jnp.zeros((5, 2)))[1]
    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    data.ctrl[:], data.qfrc_applied[0] = 0, 4
    for _ in range(10):
        mujoco.mj_step(model, data)
    np.testing.assert_allclose(states.physics.qpos[-1], data.qpos, atol=1e-6)
    np.testing.assert_allclose(states.physics.qvel[-1, 0], 4 * 0.1 / 2, rtol=1e-5)


def test_it_passes_the_checks():
    """That of users, and that at the door, which compares the simulation with plain MuJoCo's."""
    env = robot(
        tasks=(*TASKS, TaskDimension("damping", 0.5, 2.0, (Edit("dof_damping", "add", "rail"),))),
        action=Actions(low_pass="lag", scale=0.5, mix=((1.0,), (2.0,))),
        carry={
            "push": pushes("ball", "newtons"),
            "hand": mocap("hand"),
            "speed": commands(-1.0, 1.0, every=(0.1, 0.2)),
        },
        observation={"x": lambda view: view.qpos, "speed": lambda view: view.carry["speed"].value,
                     "last": lambda view: view.action},
    )  # fmt: skip
    assert env.spec.action == Continuous(4)
    testing.check_env(env, 4)
    report = check(env)
    assert report.of("error") == report.of("warning") == ()


def of(**options):
    return functools.partial(robot, **options)


def entry(apply=None, step=walk, start=lambda key, view: jnp.zeros(2)):
    return of(carry={"a": Carry(start, step, apply)})


WANTED = "action must be 'ctrlrange', an Actions or None"
BAD = {
    "word": (of(action="ctrl_range"), f"{WANTED}, got 'ctrl_range'; did you mean 'ctrlrange'?"),
    "kind": (of(action=0.3), f"{WANTED}, got float"),
    "home": (of(action=Actions(home="hom", scale=1.0)), "no keyframe named 'hom'; did you mean 'home'"),
    "no scale": (of(action=Actions(home="home")), "home needs a scale"),
    "both": (of(action=Actions(home="home", offset=1.0)), "give either home or offset"),
    "numbers": (of(action=Actions(scale=(1.0, 2.0, 3.0))), "scale must be a finite number or 2"),
    "zero": (of(action=Actions(scale=(1.0, 0.0))), "scale must not be 0"),
    "mix": (of(action=Actions(mix=((1.0,),))), "mix must be a matrix of 2 rows"),
    "lag": (of(action=Actions(low_pass="lagg")), "no task dimension is named 'lagg'; did you mean 'lag'?"),
    "tau": (of(action=Actions(low_pass=-1.0)), "low_pass must be at least 0, got -1.0"),
    "rate": (of(action=Actions(rate=0.0)), "rate must be above 0, got 0.0"),
    "carry": (of(carry=[1]), "carry must be a dict of Carry by name, got a list of 1"),
    "entry": (of(carry={"a": 3}), "carry 'a' must be a Carry, got a int"),
    "start": (entry(start=lambda key: 0), "start of carry 'a' must be a function of (key, view), got"),
    "shape": (
        entry(step=lambda key, value, motion: value[:1]),
        "step of carry 'a' must return what start returns: float32[2], got float32[1]",
    ),
    "body": (of(carry={"a": force("bal", (1, 0, 0))}), "no body named 'bal'; did you mean 'ball'?"),
    "strength": (of(carry={"a": force("ball", (1, 0, 0), "newton")}), "did you mean 'newtons'?"),
    "field": (entry(lambda value, view, action: {"xfrc": 0}), "cannot set 'xfrc'"),
    "size": (
        entry(lambda value, view, action: {"qfrc_applied": jnp.zeros(3)}),
        "qfrc_applied must be of shape (7,), got (3,)",
    ),
    "mocap": (of(carry={"a": mocap("ball")}), 'has no mocap="true" in its MJCF (mocap bodies: hand, goal)'),
    "where": (of(carry={"a": mocap_at("goal", lambda view: view.qpos)}), "must return (3,), got (8,)"),
    "direction": (lambda: force("ball", (0, 0, 0)), "three finite numbers that are not all 0"),
    "force": (lambda: pushes("ball", -3.0), "pushes: force must be a number above 0"),
    "every": (lambda: pushes("ball", 3.0, every=(2.0, 1.0)), "pushes: every must be a number at least 0"),
    "order": (lambda: commands(1.0, 0.0), "commands: low must not be above high"),
    "box": (lambda: mocap("hand", low=(0, 0, 0), high=(1, 0, 1)), "mocap: low must be below high"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name):
    make, message = BAD[name]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
