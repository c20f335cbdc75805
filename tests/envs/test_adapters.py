"""Environments of brax and MuJoCo Playground with tasks that edit their models."""

import copy
import itertools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from brax import envs as brax_envs
from flax import struct

from roml_jax.envs import Edit, TaskDimension, from_brax, from_playground, pictures
from roml_jax.envs.base import part_slices
from roml_jax.quiet import mjx

OPTIMISED = True

pytestmark = pytest.mark.filterwarnings("ignore:Brax System, piplines and environments")

MASS = TaskDimension("mass", 0.5, 2.0, (Edit("body_mass", rows="pole"),), "log")
DAMPING = TaskDimension("damping", 0.0, 2.0, (Edit("dof_damping", "set", 0),))
TASKS = np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 2.0]], np.float32)

CART = """
<mujoco>
  <option timestep="0.02"/>
  <worldbody>
    <body name="cart">
      <joint name="rail" type="slide" axis="1 0 0"/>
      <geom type="sphere" size="0.1" mass="1"/>
      <body name="pole">
        <joint name="hinge" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.6" size="0.03" mass="0.2"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="rail" gear="10" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


@struct.dataclass
class FakeState:
    data: mjx.Data
    obs: jax.Array
    reward: jax.Array
    done: jax.Array
    metrics: dict
    info: dict


class FakePlayground:
    """What a ``mujoco_playground.MjxEnv`` offers, and how its environments are built inside."""

    def __init__(self):
        self._mj_model = mujoco.MjModel.from_xml_string(CART)
        self._mjx_model = mjx.put_model(self._mj_model, impl="jax")
        self._orders = itertools.cycle((False, True))
        self._get_reward = self._pole_reward  # Playground's keep bound methods: they must see the task

    @property
    def mj_model(self):
        return self._mj_model

    @property
    def mjx_model(self):
        return self._mjx_model

    @property
    def action_size(self):
        return self.mjx_model.nu

    @property
    def unwrapped(self):
        return self

    def _pole_reward(self, data):
        return self.mjx_model.body_mass[2] * jnp.cos(data.qpos[1])

    def _observe(self, data):
        """The order of the parts differs between calls."""
        state, privileged = jnp.concatenate([data.qpos, data.qvel]), {"privileged_state": data.qvel[None]}
        return privileged | {"state": state} if next(self._orders) else {"state": state} | privileged

    def reset(self, rng):
        qpos = 0.01 * jax.random.normal(rng, (2,))
        data = mjx.make_data(self.mj_model, impl=self.mjx_model.impl.value).replace(qpos=qpos)
        data = mjx.forward(self.mjx_model, data)
        zero = jnp.zeros(())
        return FakeState(data, self._observe(data), zero, zero, {"pole": zero}, {"rng": rng})

    def step(self, state, action):
        data = mjx.step(self.mjx_model, state.data.replace(ctrl=action))
        reward = self._get_reward(data)
        state.metrics.update(pole=reward)  # as theirs do, in the dictionary they were given
        done = (jnp.abs(data.qpos[0]) > 0.05).astype(float)
        return state.replace(data=data, obs=self._observe(data), reward=reward, done=done)


class FakeAndStill(FakePlayground):
    """For what asks for names and sizes alone: physics takes long to trace."""

    def reset(self, rng):
        data = mjx.make_data(self.mj_model, impl=self.mjx_model.impl.value)
        zero = jnp.zeros(())
        return FakeState(data, self._observe(data), zero, zero, {"pole": zero}, {"rng": rng})

    def step(self, state, action):
        return state


class Run:
    """Three tasks of an adapted environment, from the same start; compiled once."""

    def __init__(self, env):
        self.env, self.traces = env, 0
        self.reset = jax.jit(jax.vmap(env.reset, in_axes=(None, 0)))
        self._step = jax.jit(jax.vmap(self._traced))

    def _traced(self, state, action):
        self.traces += 1
        return self.env.step(state, action)

    def step(self, state, action):
        return self._step(state, np.full((3, self.env.spec.action.size), action, np.float32))

    def start(self, tasks=TASKS):
        return self.reset(jax.random.key(0), tasks)


@pytest.fixture(scope="module")
def pendulum():
    return brax_envs.get_environment("inverted_pendulum", backend="mjx")


@pytest.fixture(scope="module")
def on_brax(pendulum):
    return Run(from_brax(pendulum, (MASS, DAMPING), reads={"task": lambda state, task: task}))


@pytest.fixture(scope="module")
def on_playground():
    return Run(from_playground(FakePlayground(), (MASS, DAMPING)))


@pytest.fixture(params=["on_brax", "on_playground"])
def run(request):
    return request.getfixturevalue(request.param)


def data_of(state):
    """The library's physics."""
    return getattr(state.physics, "data", None) or state.physics.pipeline_state


def in_c(run, row, data, action, task):
    """A control step of MuJoCo's own engine, on a model edited by hand."""
    env, on_brax = run.env.env, run.env.attribute == "sys"
    model = copy.copy(env.sys.mj_model if on_brax else env.mj_model)
    if on_brax:
        model.opt.timestep = float(env.sys.opt.timestep)
    pole = model.body("pole").id
    model.body_mass[pole] *= task[0]
    model.body_inertia[pole] *= task[0]
    model.dof_damping[0] = task[1]
    mujoco.mj_setConst(model, mujoco.MjData(model))
    now = mujoco.MjData(model)
    # brax's pendulum maps [-1, 1] to its actuator's range
    now.ctrl[:] = action * model.actuator_ctrlrange[0, 1] if on_brax else action
    now.qpos[:], now.qvel[:] = np.asarray(data.qpos)[row], np.asarray(data.qvel)[row]
    mujoco.mj_step(model, now, getattr(env, "_n_frames", 1))
    return np.concatenate([now.qpos, now.qvel])


def test_a_task_is_the_edited_model(run):
    """Each task's step is that of MuJoCo's engine on a model edited and recompiled for it."""
    state = run.start()
    for action in (0.7, -0.4):
        after = run.step(state, action)
        for row, task in enumerate(TASKS):
            expected = in_c(run, row, data_of(state), action, task)
            np.testing.assert_allclose(np.asarray(after.obs)[row, :4], expected, atol=1e-4)
        state = after


def test_new_tasks_need_no_compilation_and_leave_no_trace(run):
    source = run.env.env
    before = dict(vars(source))
    for tasks in (TASKS, TASKS[::-1], 0.5 * TASKS):
        after = run.step(run.start(tasks), 1.0)
        assert len({float(x) for x in np.asarray(after.obs)[:, 2]}) == 3  # three robots, three speeds
    assert run.traces == 1
    assert run.reset._cache_size() == run._step._cache_size() == 1
    assert vars(source).keys() == before.keys()
    assert all(vars(source)[name] is value for name, value in before.items())
    leaves = jax.tree.leaves((getattr(source, run.env.attribute), before))
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def test_specification_and_observation(on_brax, on_playground):
    assert dict(on_brax.env.spec.obs_slices) == {"observation": slice(0, 4), "task": slice(4, 6)}
    assert dict(on_playground.env.spec.obs_slices) == {"state": slice(0, 4)}
    state = on_brax.start()
    np.testing.assert_array_equal(np.asarray(state.obs)[:, 4:], TASKS)
    for run in (on_brax, on_playground):
        assert run.env.spec.action.size == 1
        assert run.env.family.names == ("mass", "damping")
        assert run.start().obs.dtype == run.step(run.start(), 0.0).reward.dtype == jnp.float32


def test_the_policy_sees_the_state_and_only_a_critic_what_is_privileged(on_playground):
    env, state = on_playground.env, on_playground.step(on_playground.start(), 1.0)
    assert env.observation == ("state",)
    np.testing.assert_array_equal(np.asarray(state.obs)[:, 2:], state.physics.data.qvel)
    assert dict(env.spec.privileged_slices) == {"privileged_state": slice(0, 2)}
    np.testing.assert_array_equal(state.privileged, state.physics.data.qvel)


def test_parts_of_the_observation_are_chosen_by_name():

    def still(**options):
        """Of the tasks, only the names matter here."""
        return from_playground(FakeAndStill(), (MASS,), derived="stale", check=False, **options)

    both = still(observation=("privileged_state", "state"))
    assert dict(both.spec.obs_slices) == {"privileged_state": slice(0, 2), "state": slice(2, 6)}
    assert both.spec.privileged_size == 0
    parts = {"state": np.full(4, 2.0), "privileged_state": np.ones((1, 2))}
    for obs in (parts, dict(reversed(parts.items()))):
        state = FakeState(None, obs, None, None, {}, {})
        np.testing.assert_array_equal(both._observe(state, np.ones(1))[0], [1, 1, 2, 2, 2, 2])
    told = still(
        privileged=("mass", "state"), observation=("privileged_state",),
        reads={"mass": lambda state, task: task},
    )  # fmt: skip
    assert dict(told.spec.obs_slices) == {"privileged_state": slice(0, 2)}
    assert dict(told.spec.privileged_slices) == {"mass": slice(0, 1), "state": slice(1, 5)}
    np.testing.assert_array_equal(told._observe(state, 3 * np.ones(1))[1], [3, 2, 2, 2, 2])
    for wrong, said in (
        (
            {"observation": ("stat",)},
            r"^the observation has no part 'stat'; did you mean 'state'\? \(it has ",
        ),
        ({"privileged": ("pixels",)}, r"^the observation has no part 'pixels'"),
        ({"observation": "state"}, r"^observation and privileged are tuples of names"),
        ({"observation": ("state", "state")}, r"named twice"),
        ({"reads": {"state": lambda state, task: task}}, r"^reads: 'state' is a part of the observation"),
    ):
        with pytest.raises(ValueError, match=said):
            still(**wrong)


def test_bound_methods_that_an_environment_keeps_see_the_task(on_playground):
    after = on_playground.step(on_playground.start(), 0.0)
    reward = np.asarray(after.reward)
    assert float(reward[1] / reward[0]) == pytest.approx(2.0, rel=1e-3)


def test_an_early_end(on_playground):
    """The cart leaves its 5 cm; its next steps do not count, its observation stands still."""
    state, seen = on_playground.start(), []
    for _ in range(12):
        state = on_playground.step(state, 1.0)
        seen.append(state)
    done = np.array([s.done for s in seen])
    valid = np.array([s.valid for s in seen])
    (end,) = np.flatnonzero(np.diff(done[:, 0].astype(int))) + 1  # the step that led there
    assert 2 < end < 9
    assert valid[: end + 1, 0].all()
    assert not valid[end + 1 :, 0].any()
    assert done[end:, 0].all()
    np.testing.assert_array_equal(np.asarray(seen[-1].obs)[0], np.asarray(seen[end].obs)[0])
    assert float(np.asarray(seen[-1].reward)[0]) == 0
    assert not any(bool(s.diverged.any()) for s in seen)


@pytest.mark.parametrize("value", [np.nan, 1e6], ids=["not finite", "no robot's"])
def test_a_poisoned_task_harms_no_other(run, value):
    state = run.start()

    part = "data" if hasattr(state.physics, "data") else "pipeline_state"
    inner = getattr(state.physics, part)
    qvel = np.array(inner.qvel)
    qvel[1] = value
    physics = state.physics.replace(**{part: inner.replace(qvel=qvel)})
    clean, bad = run.step(state, 0.3), run.step(state._replace(physics=physics), 0.3)
    assert np.asarray(bad.diverged).tolist() == [False, True, False]
    assert np.asarray(bad.valid).tolist() == [True, False, True]
    assert np.isfinite(np.asarray(bad.obs)).all()
    np.testing.assert_array_equal(np.asarray(bad.obs)[[0, 2]], np.asarray(clean.obs)[[0, 2]])


def test_edits_start_from_the_model_that_runs_not_from_its_file():
    fake = FakeAndStill()
    fake._mjx_model = fake._mjx_model.tree_replace({"body_mass": fake._mjx_model.body_mass * 10})
    leaves = jax.jit(from_playground(fake, (MASS,)).apply_task)(np.array([2.0], np.float32))
    np.testing.assert_allclose(leaves["body_mass"], [0.0, 10.0, 4.0], rtol=1e-6)
    assert fake._mj_model.body_mass[2] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (Edit("dof_frictionloss", "set"), "dof_frictionloss"),
        (Edit("opt.density", "set", factor=1000.0), "opt.density"),
        (Edit("opt.viscosity", "set"), "opt.viscosity"),
        (Edit("body_gravcomp", "set", "pole"), "body_gravcomp"),
        (Edit("jnt_actfrcrange", "set", "hinge"), "no limit of actuator forces"),
        (Edit("dof_M0", "scale"), "computed from other fields"),
    ],
    ids=lambda value: value.field if isinstance(value, Edit) else "",
)
def test_an_edit_that_the_librarys_model_would_ignore_is_refused(edit, why, pendulum):
    """MJX has left these rows and forces out of a model that is on the device already."""
    with pytest.raises(ValueError, match=why) as caught:
        from_brax(pendulum, (TaskDimension("t", 0.5, 1.5, (edit,)),))
    assert "\n" not in str(caught.value)


def test_edits_of_a_number_start_from_the_model_that_runs_not_from_its_file(pendulum):
    """A number, such as the density of the air, has no array to write into."""
    thick = copy.copy(pendulum)
    thick.sys = pendulum.sys.tree_replace({"opt.impratio": jnp.float32(2.0)})
    env = from_brax(thick, (TaskDimension("t", 0.5, 1.5, (Edit("opt.impratio"),)),), check=False)
    edited = jax.jit(env.apply_task)(np.array([1.5], np.float32))
    np.testing.assert_allclose(edited["opt.impratio"], 3.0)
    assert pictures.edited(env.mj_model, {"opt.impratio": jnp.float32(3.0)}).opt.impratio == 3.0
    assert env.mj_model.opt.impratio == 2.0


def test_wrapped_and_foreign_environments_are_refused_in_one_line(pendulum):
    wrapped = brax_envs.create("inverted_pendulum", backend="mjx")
    with pytest.raises(ValueError, match=r"^AutoResetWrapper wraps an environment: pass the bare one"):
        from_brax(wrapped, (MASS,))
    with pytest.raises(ValueError, match=r"^brax's backend 'spring' has no MuJoCo model"):
        from_brax(brax_envs.get_environment("inverted_pendulum", backend="spring"), (MASS,))
    with pytest.raises(ValueError, match=r"^FakePlayground is not a brax environment"):
        from_brax(FakePlayground(), (MASS,))
    with pytest.raises(ValueError, match=r"^InvertedPendulum is not a Playground environment"):
        from_playground(pendulum, (MASS,))
    with pytest.raises(ValueError, match=r"^a model has no field 'body_mas'; did you mean 'body_mass'"):
        from_brax(pendulum, (TaskDimension("t", 0.0, 1.0, (Edit("body_mas"),)),))
    with pytest.raises(ValueError, match=r"^geom_fluid is constant or missing in MJX"):
        from_playground(FakePlayground(), (TaskDimension("t", 0.0, 1.0, (Edit("geom_fluid"),)),))


def test_a_real_playground_environment():
    """Their cart-pole, where the package is installed."""
    playground = pytest.importorskip("mujoco_playground")
    env = playground.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    dimension = TaskDimension("mass", 0.5, 4.0, (Edit("body_mass", rows="pole_1"),), "log")
    run = Run(from_playground(env, (dimension,)))
    before = env.mjx_model
    for tasks in ([[0.5], [1.0], [4.0]], [[1.0], [1.0], [1.0]]):
        state = run.start(jnp.array(tasks))
        for _ in range(5):
            state = run.step(state, 1.0)
        assert len({float(x) for x in state.obs[:, 0]}) == len(set(map(tuple, tasks)))
    assert run.traces == 1
    assert env.mjx_model is before
    assert bool(state.valid.all())


def test_parts_stand_in_the_order_they_are_given():
    """Not in that of their names, by which JAX sorts a dictionary."""
    slices = part_slices(lambda x: {"zeta": x, "alpha": jnp.zeros(3)}, jnp.zeros(2))
    assert list(slices.items()) == [("zeta", slice(0, 2)), ("alpha", slice(2, 5))]
