"""Every field of MuJoCo's data is read as plain MuJoCo computes it, or refused in one line."""

import copy
import re

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco.batch import DATA_FIELDS

from roml_jax.envs import Edit, TaskDimension, TaskEnv, physics
from roml_jax.envs.physics import mjx, mjx_data

# a ball on the floor, and an arm with a motor, a limit and a spring
ROBOT = """
<mujoco>
  <option timestep="0.002" integrator="{integrator}"/>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="eye" pos="0 -3 1"/>
    <geom name="floor" type="plane" size="5 5 0.1" contype="0" conaffinity="1"/>
    <body name="ball" pos="0 0 0.099"><freejoint/><geom size="0.1" mass="1" conaffinity="0"/></body>
    <body name="arm" pos="1 0 1">
      <joint name="a" axis="0 1 0" damping="0.1" stiffness="1" armature="0.01" range="-5 5"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0.4 0 0" mass="0.5" contype="0" conaffinity="0"/>
      <site name="tip" pos="0.4 0 0"/>
    </body>
    <body name="flag" mocap="true" pos="0 2 1"><geom size="0.05" contype="0" conaffinity="0"/></body>
  </worldbody>
  <tendon><fixed name="t"><joint joint="a" coef="2"/></fixed></tendon>
  <actuator>
    <general name="m" joint="a" dyntype="filter" dynprm="0.1" gainprm="3" ctrlrange="-1 1"/>
  </actuator>
  <sensor><jointpos joint="a"/><clock/></sensor>
</mujoco>
"""
MASS = TaskDimension("mass", 0.5, 2.0, (Edit("body_mass", rows="ball"),))
TASKS = (0.5, 1.0, 2.0)
REQUESTED = ("cacc", "cfrc_int", "cfrc_ext", "subtree_linvel", "subtree_angmom")
REFUSED = {
    "bvh_aabb_dyn", "bvh_active", "flex_hessian_valid", "flexedge_hessian", "flexelem_krot",
    "flexvert_conage", "flexvert_hessian", "flexvert_lambda", "nA", "nJ", "nidof", "nisland", "plugin",
    "plugin_data", "qDeriv", "qH", "qHDiagInv", "qLU", "qfrc_inverse", "solver_fwdinv", "solver_niter",
    "solver_nnz",
}  # fmt: skip


def robot(source, readings, **options):
    model = mujoco.MjModel.from_xml_string(source)
    qpos, qvel = (
        jnp.asarray(x, jnp.float32) for x in (model.qpos0, np.linspace(-0.5, 0.5, model.nv, dtype=np.float32))
    )
    options = {"frame_skip": 3, "engine": "mujoco", "start": lambda key: (qpos, qvel)} | options
    return TaskEnv.from_mjcf(
        source, tasks=(MASS,), reward=lambda motion: {}, readings=readings,
        observation={"qpos": lambda view: view.qpos}, **options,
    )  # fmt: skip


def read(env):
    """The readings after the reset and after one control step, of the three tasks."""

    def two(task):
        first = env.reset(jax.random.key(0), task)
        return first.physics.readings, env.step(first, jnp.array([0.8])).physics.readings

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(two))(np.array(TASKS, np.float32)[:, None]))


def plain(source, factor, frame_skip):
    """Plain MuJoCo's data after the reset and after one control step, with every field computed."""
    spec = mujoco.MjSpec.from_string(source)
    spec.body("ball").geoms[0].mass *= factor
    model = spec.compile()
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    data = mujoco.MjData(model)
    data.qvel[:] = np.linspace(-0.5, 0.5, model.nv, dtype=np.float32)

    def complete():
        twin = copy.copy(data)
        mujoco.mj_forward(model, twin)
        mujoco.mj_rnePostConstraint(model, twin)
        mujoco.mj_subtreeVel(model, twin)
        return {name: getattr(twin, name).copy() for name in REQUESTED}

    requested = complete()
    mujoco.mj_forward(model, data)
    first = {name: np.array(getattr(data, name)) for name in DATA_FIELDS} | requested
    data.ctrl[:] = np.float32(0.8)
    for _ in range(frame_skip):
        requested = complete()
        mujoco.mj_step(model, data)
    return first, {name: np.array(getattr(data, name)) for name in DATA_FIELDS} | requested


@pytest.mark.parametrize("integrator", ["Euler", "RK4", "implicitfast"])
def test_every_reading_of_the_c_engine_is_plain_mujocos(integrator):
    source = ROBOT.format(integrator=integrator)
    names = tuple(sorted(set(DATA_FIELDS) - REFUSED))
    seen = read(robot(source, names))
    for i, factor in enumerate(TASKS):
        for got, truth in zip(seen, plain(source, factor, 3), strict=True):
            for name in names:
                right = truth[name].astype(float).ravel()
                value = np.asarray(got[name][i], float).ravel()
                np.testing.assert_allclose(value, right, rtol=2e-4, atol=2e-4, err_msg=name)
    after = seen[1]
    assert after["ncon"].dtype == jnp.int32
    assert after["ncon"].tolist() == [1, 1, 1]
    assert after["eq_active"].dtype == bool
    np.testing.assert_allclose(after["time"], 0.006, rtol=1e-6)
    np.testing.assert_allclose(after["energy"][:, 1] > 0, True)
    for name in REQUESTED:
        assert abs(np.asarray(after[name])).max() > 0.1, name


@pytest.mark.slow
@pytest.mark.parametrize("integrator", ["Euler", "RK4"])
def test_on_mjx_the_same(integrator):
    """Every reading that MJX does not refuse, against plain MuJoCo."""
    source = ROBOT.format(integrator=integrator)
    model, names, refused = mujoco.MjModel.from_xml_string(source), [], []
    blank = mjx._make_data(model, "jax")
    for name in sorted(set(DATA_FIELDS) - REFUSED):
        try:
            mjx_data.check(model, blank, "jax", (name,))
            names.append(name)
        except ValueError:
            refused.append(name)
    assert {"cfrc_ext", "subtree_angmom", "time", "sensordata", "qacc", "cinert", "act"} <= set(names)
    if integrator == "RK4":  # MJX keeps the fields of its last stage, MuJoCo those of the first
        names = [name for name in names if name in (*REQUESTED, "qpos", "qvel", "act", "time", "sensordata")]
    assert {"energy", "ncon", "nefc", "M", "ten_J", "plastic", "qfrc_spring"} <= set(refused)
    seen = read(robot(source, tuple(names), engine="mjx"))
    for i, factor in enumerate(TASKS):
        for got, truth in zip(seen, plain(source, factor, 3), strict=True):
            for name in names:
                right = truth[name].astype(float).ravel()
                scale = max(1.0, abs(right).max(initial=0.0))
                value = np.asarray(got[name][i], float).ravel()
                np.testing.assert_allclose(value / scale, right / scale, atol=2e-3, err_msg=name)


def test_a_resting_body_is_held_by_its_weight():
    """cfrc_ext of 1 kg at rest: 9.81 N upwards; of 2 kg: 19.62 N."""
    env = robot(ROBOT.format(integrator="Euler"), ("cfrc_ext",), frame_skip=1000)

    @jax.jit
    def held(tasks):
        states = jax.vmap(lambda task: env.reset(jax.random.key(0), task))(tasks)
        still = states._replace(physics=states.physics._replace(qvel=jnp.zeros((3, 7))))
        return jax.vmap(env.step)(still, jnp.zeros((3, 1))).physics.readings["cfrc_ext"]

    force = np.asarray(held(np.array(TASKS, np.float32)[:, None]))[:, 1]
    np.testing.assert_allclose(force[:, 5], [4.905, 9.81, 19.62], rtol=1e-3)
    np.testing.assert_allclose(force[:, :5], 0.0, atol=1e-3)


def test_what_is_read_on_request_changes_nothing_else():
    source = ROBOT.format(integrator="Euler")
    with_it, without = (
        read(robot(source, ("qpos", "qvel", *names))) for names in (("cfrc_ext", "energy", "time"), ())
    )
    for name in ("qpos", "qvel"):
        np.testing.assert_array_equal(with_it[1][name], without[1][name])


def test_the_clock_runs():
    """At 0.01 s after the first substep of an episode, then on, and again in the next episode."""
    source = ROBOT.format(integrator="Euler")
    env = robot(source, ("sensordata", "time"), frame_skip=5)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    for _ in range(2):
        state = reset(jax.random.key(0), np.ones(1, np.float32))
        assert float(np.asarray(state.physics.readings["sensordata"])[1]) == 0.0
        for n in range(1, 4):
            state = step(state, np.zeros(1, np.float32))
            clock = np.asarray(state.physics.readings["sensordata"])[1]
            np.testing.assert_allclose(clock, n * 0.01 - 0.002, rtol=1e-5)
            np.testing.assert_allclose(state.physics.readings["time"], n * 0.01, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_internal_memory_is_refused(name):
    model = mujoco.MjModel.from_xml_string(ROBOT.format(integrator="Euler"))
    line = f"readings: {name} is internal memory of MuJoCo that a step need not compute"
    for engine in ("mujoco", "mjx"):
        with pytest.raises(ValueError, match=re.escape(line)):
            physics.make(engine, model, 1, (name,))


def test_forces_that_mjx_computes_otherwise_are_refused():
    weld = ROBOT.replace("<actuator>", '<equality><weld body1="arm"/></equality><actuator>')
    line = (
        "readings: MJX's cfrc_ext lacks the forces of spatial tendons and of welds; the engine 'mujoco' may"
    )
    with pytest.raises(ValueError, match=re.escape(line)):
        robot(weld.format(integrator="Euler"), ("cfrc_ext",), engine="mjx")
