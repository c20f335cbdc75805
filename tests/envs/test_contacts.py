"""Contacts of limbs that a task thickens: none is missed, or as many as in the published code."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco.batch import Batch

from roml_jax import config, envs
from roml_jax.envs.physics import mujoco_c

DEEP = 0.002  # metres under the floor
STEPS, SUBSTEPS = 100, 5


def engine_model(factor, contacts):
    """The model that the C engine steps for a half-cheetah of a mass."""
    env = envs.make("cheetah_mass", physics="mujoco", contacts=contacts)
    base, rows = env.physics.model, np.array([0], np.int32)
    leaves = env.physics.prepare(env.apply_task(jnp.array([factor])))
    batch = Batch(base, 1)
    leaves = {name: np.asarray(leaf)[None] for name, leaf in leaves.items()}
    mujoco_c.write_tasks(batch, base, leaves, rows, "stale", contacts)
    return batch.get_model(0), base


def deep_geoms(model, data):
    """Geoms whose lowest point is deep under the floor."""
    half, radius = model.geom_size[1:, 1], model.geom_size[1:, 0]
    lowest = data.geom_xpos[1:, 2] - abs(data.geom_xmat[1:, 8]) * half - radius
    return 1 + np.flatnonzero(lowest < -DEEP)


def missed_share(factor, contacts):
    """Of geoms deep under the floor along eight sinusoidal gaits: the share without a contact."""
    model, _ = engine_model(factor, contacts)
    data, now = mujoco.MjData(model), mujoco.MjData(model)
    deep = missed = 0
    for rollout in range(8):
        rng = np.random.default_rng(rollout)
        phase, speed = rng.uniform(0, 2 * np.pi, model.nu), rng.uniform(4, 12)
        mujoco.mj_resetData(model, data)
        for t in range(STEPS):
            data.ctrl[:] = np.sin(speed * 0.05 * t + phase)
            for _ in range(SUBSTEPS):
                mujoco.mj_step(model, data)
            now.qpos[:] = data.qpos
            mujoco.mj_kinematics(model, now)
            mujoco.mj_comPos(model, now)
            mujoco.mj_collision(model, now)
            touching = {geom for contact in now.contact if 0 in contact.geom for geom in contact.geom}
            under = deep_geoms(model, now)
            deep += len(under)
            missed += len(set(under.tolist()) - touching)
    assert deep > 100
    return missed / deep


@pytest.mark.parametrize(
    ("factor", "low", "high"), [(1.0, 0, 0), (1.1, 0.02, 0.12), (1.5, 0.15, 0.37), (2.0, 0.37, 0.51)]
)
def test_the_references_thick_limbs_miss_contacts_and_ours_none(factor, low, high):
    """Two independent counts give 3 and 9 % at 1.1, 18 and 34 % at 1.5, 40 and 48 % at 2."""
    assert low <= missed_share(factor, "reference") <= high
    assert missed_share(factor, "right") == 0


def test_only_the_bounding_radius_is_the_unedited_models():
    right, base = engine_model(2.0, "right")
    reference, _ = engine_model(2.0, "reference")
    np.testing.assert_array_equal(reference.geom_rbound, base.geom_rbound)
    assert (right.geom_rbound[1:] > base.geom_rbound[1:]).all()
    for name in ("geom_aabb", "bvh_aabb", "geom_size", "body_mass", "body_subtreemass", "dof_invweight0"):
        np.testing.assert_array_equal(getattr(reference, name), getattr(right, name), err_msg=name)


@pytest.mark.parametrize("contacts", ["right", "reference"])
def test_the_environment_steps_that_model(contacts):
    env = envs.make("cheetah_mass", physics="mujoco", contacts=contacts)
    model, _ = engine_model(2.0, contacts)
    data = mujoco.MjData(model)
    state = jax.jit(env.reset)(jax.random.key(0), jnp.array([2.0]))
    step = jax.jit(env.step)
    for t in range(20):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = state.physics.qpos, state.physics.qvel
        data.qacc_warmstart[:] = state.physics.qacc_warmstart
        data.ctrl[:] = np.float32(np.sin(0.4 * t + np.arange(model.nu)))
        for _ in range(SUBSTEPS):
            mujoco.mj_step(model, data)
        state = step(state, jnp.asarray(data.ctrl, jnp.float32))
        np.testing.assert_allclose(state.physics.qpos, data.qpos, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"env.physics": "mjx"}, "contacts=reference needs the engine 'mujoco': 'mjx' has no filter"),
        ({"env.physics": "warp"}, "contacts=reference needs the engine 'mujoco': 'warp' has no filter"),
        ({"env": "cheetah_vel"}, "env.contacts=reference has no effect in cheetah_vel"),
        ({"env": "ant_mass"}, "env.contacts=reference has no effect in ant_mass"),
    ],
)
def test_where_the_references_contacts_cannot_be_is_one_line(options, said):
    chosen = config.make(**{"env": "cheetah_mass", "env.contacts": "reference", **options})
    with pytest.raises(ValueError, match=said) as error:
        envs.from_options(chosen.env, chosen.env_options)
    assert "\n" not in str(error.value)
