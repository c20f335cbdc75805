"""What the engines make of edited models, and what sets MJX apart from MuJoCo's C engine."""

import copy

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco.batch import Batch

from benchmarks import mujoco_oracle as oracle
from benchmarks import parity
from roml_jax import envs
from roml_jax.envs.physics import mujoco_c
from roml_jax.envs.task_env import gymnasium_model
from roml_jax.quiet import mjx

OPTIMISED = True

BOXES = {"geom_rbound", "geom_aabb", "bvh_aabb"}
# what else must follow: sums over a body's parts, and the places of cameras and lights
SUMS = {"body_subtreemass", "body_margin", "cam_pos0", "cam_poscom0", "light_pos0", "light_poscom0"}


def fields(model):
    """The arrays of numbers that a compiled model holds."""
    values = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
    }


def engine_model(name, task, derived="stale"):
    """(the model that the C engine steps for a task, the unedited one, the task's leaves)."""
    env = parity.make(name, physics="mujoco", derived=derived)
    base = env.physics.model
    leaves = {
        field: np.asarray(leaf)[None]
        for field, leaf in env.physics.prepare(env.apply_task(jnp.asarray(task))).items()
    }
    batch = Batch(base, 2)
    mujoco_c.write_tasks(batch, base, leaves, np.array([0], np.int32), derived)
    unwritten = batch.get_model(1)
    for field in leaves:  # the other row is left alone
        np.testing.assert_array_equal(getattr(unwritten, field), getattr(base, field))
    return batch.get_model(0), base, {field: leaf[0] for field, leaf in leaves.items()}


def contacts(model, qpos):
    """The geom pairs, places and distances in contact, in order."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_collision(model, data)
    return sorted((*contact.geom, *contact.pos, contact.dist) for contact in data.contact)


@pytest.mark.parametrize("name", ["cheetah_mass", "humanoid_mass"])
def test_thick_limbs_lose_no_contact(name):
    model, base, leaves = engine_model(name, [2.0])
    every = copy.copy(model)
    oracle.open_boxes(every)
    stale = copy.copy(base)
    stale.geom_size[:] = leaves["geom_size"]
    rng = np.random.default_rng(0)
    total = missed = 0
    for _ in range(60):
        qpos = base.qpos0 + rng.uniform(-0.5, 0.5, base.nq)
        expected = contacts(every, qpos)
        assert contacts(model, qpos) == expected
        total += len(expected)
        missed += len(expected) - len(contacts(stale, qpos))
    assert total > 60
    assert missed > 0  # with the boxes left as they were


def test_stale_tasks_keep_the_solvers_constants():
    model, base, leaves = engine_model("humanoid_mass", [2.0])
    before, after = fields(base), fields(model)
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert set(leaves) == {"body_mass", "geom_size"}
    assert {"body_mass", "geom_size", "body_subtreemass"} | BOXES <= changed
    assert changed <= {"body_mass", "geom_size"} | BOXES | SUMS
    np.testing.assert_allclose(model.body_subtreemass, 2 * base.body_subtreemass)


@pytest.mark.parametrize("name", ["humanoid_mass", "cheetah_mass", "ant_mass"])
def test_consistent_tasks_are_recomputed_models(name):
    model, base, leaves = engine_model(name, [1.7], "consistent")
    expected = copy.copy(base)
    for field, leaf in leaves.items():
        getattr(expected, field)[:] = leaf
    ratio = expected.body_mass / np.where(base.body_mass > 0, base.body_mass, 1)
    expected.body_inertia[:] = base.body_inertia * ratio[:, None]
    mujoco.mj_setConst(expected, mujoco.MjData(expected))
    theirs = fields(expected)
    for field, values in fields(model).items():
        if field not in BOXES:  # which mj_setConst leaves; the test of contacts is about them
            np.testing.assert_allclose(values, theirs[field], 1e-9, 1e-12, err_msg=field)
    assert not np.allclose(model.dof_invweight0, base.dof_invweight0)


def test_margins_are_as_large_as_the_old_engines():
    """They took the larger of two geoms' margins, today's take the sum."""
    model = gymnasium_model("ant")
    data = mujoco.MjData(model)
    for _ in range(100):  # falls on its feet
        mujoco.mj_step(model, data)
    assert data.ncon > 0
    np.testing.assert_allclose(data.contact.includemargin, 0.01)
    assert (model.geom_margin == 0.005).all()


def test_reset_and_edits_of_the_cheetah_are_the_references():
    env = envs.make("cheetah_mass", physics="mujoco")
    base = env.physics.model
    assert base.body_mass.sum() == pytest.approx(14.0)
    for mass in (0.5, 1.0, 2.0):
        leaves = env.physics.prepare(env.apply_task(jnp.array([mass])))
        assert set(leaves) == {"body_mass", "geom_size"}  # inertia and inverse weights stay
        np.testing.assert_allclose(leaves["body_mass"], base.body_mass * mass, rtol=1e-6)
        np.testing.assert_allclose(leaves["geom_size"][1:, 0], 0.046 * mass, rtol=1e-6)
        np.testing.assert_array_equal(leaves["geom_size"][:, 1:], base.geom_size[:, 1:].astype(np.float32))
        np.testing.assert_array_equal(leaves["geom_size"][0], base.geom_size[0].astype(np.float32))
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), 500), jnp.ones((500, 1)))
    qpos, obs = np.asarray(states.physics.qpos), np.asarray(states.obs)
    assert obs.shape == (500, 20)
    np.testing.assert_array_equal(obs[:, :8], qpos[:, 1:])
    np.testing.assert_array_equal(obs[:, 8:17], states.physics.qvel)
    # the torso's frame: at rest 0.7 above the ground, moved by the root's slides
    torso = np.stack([qpos[:, 0], 0 * qpos[:, 0], 0.7 + qpos[:, 1]], 1)
    np.testing.assert_allclose(obs[:, 17:], torso, atol=1e-6)


# What sets MJX apart from the C engine. Each cause is shown in double precision, where nothing else is left.


def classical_rk4(model, data, watch=lambda data: None):
    """One step as engines up to MuJoCo 3.17 and MJX integrate: increments of a quaternion are averaged as
    if turns commuted, which makes it a second-order method; from the C engine's accelerations."""
    start, speed, h = data.qpos.copy(), data.qvel.copy(), model.opt.timestep
    stages = []
    for weights in ((), (0.5,), (0, 0.5), (0, 0, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6)):
        moved, gained = np.zeros(model.nv), np.zeros(model.nv)
        for weight, (velocity, acceleration) in zip(weights, stages, strict=False):
            moved, gained = moved + weight * velocity, gained + weight * acceleration
        data.qpos[:], data.qvel[:] = start, speed + h * gained
        mujoco.mj_integratePos(model, data.qpos, moved, h)
        if len(weights) < 4:
            mujoco.mj_forward(model, data)
            watch(data)
            stages.append((data.qvel.copy(), data.qacc.copy()))
            data.qacc_warmstart[:] = data.qacc


SPINNING = """
<mujoco>
  <option integrator="RK4" timestep="0.01" gravity="0 0 0"/>
  <worldbody><body><freejoint/><geom type="box" size="0.1 0.2 0.3"/></body></worldbody>
</mujoco>
"""


def test_rk4_turns_bodies_by_another_rule(x64):
    """A free body turning for 0.1 s: the error falls with the fourth power of the step in C, the second
    in MJX, which does what the hand-written rule does."""
    model = mujoco.MjModel.from_xml_string(SPINNING)
    velocity = np.array([0, 0, 0, 5.0, 3.0, -4.0])
    device_model = mjx.put_model(model, impl="jax")
    blank = mjx.make_data(device_model, impl="jax")

    @jax.jit
    def by_mjx(h, n):
        fine = device_model.replace(opt=device_model.opt.replace(timestep=h))
        data = blank.replace(qvel=jnp.asarray(velocity))
        return jax.lax.fori_loop(0, n, lambda _, data: mjx.step(fine, data), data).qpos

    def by_c(step, n):
        data = mujoco.MjData(model)
        data.qvel[:] = velocity
        model.opt.timestep = 0.1 / n
        for _ in range(n):
            step(model, data)
        return data.qpos.copy()

    exact = by_c(mujoco.mj_step, 4000)
    errors = {"c": [], "mjx": []}
    for n in (10, 20):
        turned = by_mjx(0.1 / n, n)
        np.testing.assert_allclose(turned, by_c(classical_rk4, n), atol=1e-13)
        errors["mjx"].append(abs(turned - exact).max())
        errors["c"].append(abs(by_c(mujoco.mj_step, n) - exact).max())
    orders = {name: np.log2(coarse / fine) for name, (coarse, fine) in errors.items()}
    assert orders["c"] == pytest.approx(4, abs=0.1)
    assert orders["mjx"] == pytest.approx(2, abs=0.1)
    assert errors["mjx"][0] > 1000 * errors["c"][0]


TILTED = """
<mujoco>
  <worldbody>
    <geom type="plane" size="5 5 0.1"/>
    <body name="rod" pos="0 0 0.2"><freejoint/><geom type="capsule" size="0.1 0.5"/></body>
  </worldbody>
</mujoco>
"""


# where MJX's shapes meet, as it is (model, data) -> data
collided = jax.jit(lambda model, data: mjx.collision(model, mjx.kinematics(model, data)))


@pytest.mark.parametrize(("degrees", "alike"), [(80, False), (65, False), (55, True), (35, True)])
def test_friction_directions_of_tilted_capsules(degrees, alike, x64):
    """Both take a capsule's axis for the first direction of friction on a plane, but MJX only up to 60
    degrees over it; a pyramidal cone is another one when it is turned."""
    model = mujoco.MjModel.from_xml_string(TILTED)
    data = mujoco.MjData(model)
    lean = np.deg2rad(90 - degrees)  # from the vertical
    # leaning towards a direction that is not one of the plane's axes
    axis = np.array([-np.sin(0.7), np.cos(0.7), 0.0])
    data.qpos[3:] = [np.cos(lean / 2), *(np.sin(lean / 2) * axis)]
    data.qpos[2] = 0.5 * np.cos(lean) + 0.095
    mujoco.mj_forward(model, data)
    theirs = [contact.frame.reshape(3, 3) for contact in data.contact]
    device_model = mjx.put_model(model, impl="jax")
    found = collided(device_model, mjx.put_data(model, data, impl="jax"))
    ours = found._impl.contact
    frames = np.asarray(ours.frame)[np.asarray(ours.dist) < 0]
    assert len(theirs) == len(frames) == 1
    np.testing.assert_allclose(frames[0][0], theirs[0][0], atol=1e-9)  # the normal
    along = np.cross(axis, [0, 0, 1.0])
    np.testing.assert_allclose(abs(theirs[0][1] @ along), 1.0, atol=1e-9)
    assert (np.linalg.norm(frames[0][1] - theirs[0][1]) < 1e-9) == alike


TOUCHING = """
<mujoco>
  <worldbody>
    <body><freejoint/><geom type="sphere" size="0.06"/></body>
    <body><freejoint/><geom type="capsule" size="0.1 0.1" euler="0 90 0"/></body>
  </worldbody>
</mujoco>
"""


def test_touching_limbs_meet_a_little_off(x64):
    """MJX divides by a capsule's squared length plus 1e-6: the nearest point of its axis moves to one end."""
    model = mujoco.MjModel.from_xml_string(TOUCHING)
    data = mujoco.MjData(model)
    along, beside, length = 0.05, 0.15, 0.2
    data.qpos[:3] = along, beside, 0
    mujoco.mj_forward(model, data)
    device_model = mjx.put_model(model, impl="jax")
    found = collided(device_model, mjx.put_data(model, data, impl="jax"))
    theirs, ours = data.contact.frame[0][:3], np.asarray(found._impl.contact.frame)[0, 0]
    from_end = along + length / 2
    off = from_end * (1 - length**2 / (length**2 + 1e-6))
    assert off > 3e-6
    np.testing.assert_allclose(abs(theirs), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(abs(ours[0] / ours[1]), off / beside, rtol=1e-6)


def capsules_on_the_floor(model, data):
    """(n,) tilt of each capsule in contact with the plane, as its axis's length in the plane."""
    touching = {
        geom
        for contact in data.contact
        if model.geom_type[contact.geom[0]] == mujoco.mjtGeom.mjGEOM_PLANE
        for geom in contact.geom
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE
    }
    return np.array([np.linalg.norm(data.geom_xmat[geom].reshape(3, 3)[:2, 2]) for geom in sorted(touching)])


def single_steps(robot, integrator, count):
    """States of a robot under random controls; one physics step of MJX and the C engine in x64.

    Returns:
        (n,) differences of qpos and of qvel, and whether a capsule stood on the floor more steeply than
        60 degrees at any stage.
    """
    model = oracle.base_model(robot)
    model = copy.copy(model)
    model.opt.integrator = integrator
    data, rng, states = mujoco.MjData(model), np.random.default_rng(0), []
    while len(states) < count:
        if len(states) % 50 == 0:
            mujoco.mj_resetData(model, data)
            data.qvel[:] = 0.1 * rng.normal(size=model.nv)
        for t in range(5):
            if t == 0:
                data.ctrl[:] = rng.normal(size=model.nu)
            if t == 3:
                states.append(
                    (data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy(), data.ctrl.copy())
                )
            mujoco.mj_step(model, data)
    device_model, blank = mjx.put_model(model, impl="jax"), mjx.make_data(model, impl="jax")

    def step(qpos, qvel, warm, ctrl):
        data = blank.replace(qpos=qpos, qvel=qvel, qacc_warmstart=warm, ctrl=ctrl)
        after = mjx.step(device_model, data)
        return after.qpos, after.qvel

    ours = jax.jit(jax.vmap(step))(*map(np.array, zip(*states, strict=True)))
    differences, steep = [], []
    for qpos, qvel, (start, *rest) in zip(*ours, states, strict=True):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:], data.ctrl[:] = start, *rest
        tilts = []

        def watch(data, tilts=tilts):
            tilts.extend(capsules_on_the_floor(model, data))

        if integrator == mujoco.mjtIntegrator.mjINT_EULER:
            mujoco.mj_step(model, data)
            watch(data)
        else:
            classical_rk4(model, data, watch)
        steep.append(min(tilts, default=1.0) < 0.5)
        differences.append((abs(qpos - data.qpos).max(), abs(qvel - data.qvel).max()))
    return *np.array(differences).T, np.array(steep)


@pytest.mark.slow
@pytest.mark.parametrize("integrator", ["EULER", "RK4"])
def test_nothing_else_sets_mjx_apart_on_the_ant(integrator, x64):
    """With one integration rule, and no capsule steeply on the floor, the engines agree."""
    qpos, qvel, steep = single_steps("ant", getattr(mujoco.mjtIntegrator, f"mjINT_{integrator}"), 400)
    assert (~steep).sum() > 300
    assert qpos[~steep].max() < 1e-9
    assert qvel[~steep].max() < 1e-9
    assert steep.sum() > 10
    assert qvel[steep].max() > 0.1


@pytest.mark.slow
def test_nothing_else_sets_mjx_apart_on_the_humanoid(x64):
    """Limbs that touch each other are left: MJX adds 1e-6 to the squared length of a capsule before it
    divides by it, and so places the contact a little off."""
    qpos, qvel, steep = single_steps("humanoid", mujoco.mjtIntegrator.mjINT_EULER, 400)
    assert np.median(qvel) < 1e-12
    assert np.quantile(qpos[~steep], 0.99) < 1e-6
    assert np.quantile(qvel[~steep], 0.99) < 3e-4
