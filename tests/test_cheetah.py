"""The half-cheetah on MJX against MuJoCo's own engine in double precision."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from roml_jax import envs
from roml_jax.envs import cheetah

ENV = envs.make("cheetah_mass")
MASSES = (0.5, 1.0, 2.0)


def c_model(mass):
    """The task's model for the C engine, with the solver run to convergence."""
    model = cheetah.load_model(100, 50)
    original = model.body_mass.copy()
    model.body_mass[:] = original * mass
    model.body_subtreemass[:] = model.body_subtreemass * mass  # C divides by what is stored
    model.geom_size[1:, 0] = 0.046 * mass
    # the engine culls contacts with boxes that an edit leaves stale: make them too large to cull any
    model.geom_rbound[1:] = 10.0
    model.geom_aabb[1:, 3:] = 10.0
    model.bvh_aabb[:] = 10.0 * np.array([0, 0, 0, 1, 1, 1])
    return model


def test_one_step_is_the_c_engines():
    """States along random actions; figures of a whole control step (5 physics steps)."""
    reset, step = jax.jit(jax.vmap(ENV.reset)), jax.jit(jax.vmap(ENV.step))
    copies = 24
    masses = np.repeat(MASSES, copies)
    state = reset(jax.random.split(jax.random.key(0), masses.size), jnp.asarray(masses)[:, None])
    models = {mass: c_model(mass) for mass in MASSES}
    data = {mass: mujoco.MjData(models[mass]) for mass in MASSES}
    rng = np.random.default_rng(0)
    errors = {"qpos": [], "qvel": [], "obs": [], "reward": []}
    for t in range(60):
        action = rng.normal(size=(masses.size, 6)).astype(np.float32)
        after = step(state, action)
        if t % 6 == 5:
            for i, mass in enumerate(masses):
                d, model = data[mass], models[mass]
                mujoco.mj_resetData(model, d)
                d.qpos[:], d.qvel[:], d.ctrl[:] = state.physics.qpos[i], state.physics.qvel[i], action[i]
                d.qacc_warmstart[:] = state.physics.qacc_warmstart[i]
                x_before = d.qpos[0]
                for _ in range(5):
                    mujoco.mj_step(model, d)
                obs = np.concatenate([d.qpos[1:], d.qvel, d.xpos[1]])
                reward = (d.qpos[0] - x_before) / 0.05 - 0.05 * np.square(action[i]).sum() + d.qpos[1]
                errors["qpos"].append(abs(after.physics.qpos[i] - d.qpos).max())
                errors["qvel"].append(abs(after.physics.qvel[i] - d.qvel).max())
                errors["obs"].append(abs(after.obs[i] - obs).max())
                errors["reward"].append(abs(after.reward[i] - reward))
        state = after
    errors = {name: np.asarray(values) for name, values in errors.items()}
    # measured: qpos 1.3e-7 and 3.1e-6, qvel 4.3e-6 and 2.4e-4, reward 3.6e-7 and 4.5e-6
    for name, median, p99 in (
        ("qpos", 5e-7, 2e-5), ("qvel", 1e-5, 1e-3), ("obs", 1e-5, 1e-3), ("reward", 2e-6, 4e-5)
    ):  # fmt: skip
        assert np.median(errors[name]) < median, name
        assert np.quantile(errors[name], 0.99) < p99, name


def test_task_edits_the_model_as_the_reference_does():
    base = ENV.model
    for mass in MASSES:
        leaves = ENV.edit(jnp.array([mass]))
        np.testing.assert_allclose(leaves["body_mass"], base.body_mass * mass, rtol=1e-6)
        np.testing.assert_allclose(leaves["geom_size"][1:, 0], 0.046 * mass, rtol=1e-6)
        np.testing.assert_array_equal(leaves["geom_size"][:, 1:], base.geom_size[:, 1:].astype(np.float32))
        np.testing.assert_array_equal(leaves["geom_size"][0], base.geom_size[0].astype(np.float32))
    assert base.body_mass.sum() == pytest.approx(14.0)
    assert set(leaves) == {"body_mass", "geom_size"}  # inertia and inverse weights stay


def test_reset_is_the_references():
    states = jax.jit(jax.vmap(ENV.reset))(jax.random.split(jax.random.key(1), 2000), jnp.ones((2000, 1)))
    qpos, qvel = np.asarray(states.physics.qpos), np.asarray(states.physics.qvel)
    assert abs(qpos).max() <= 0.1
    assert qpos.std() == pytest.approx(0.2 / 12**0.5, rel=0.05)
    assert qvel.std() == pytest.approx(0.1, rel=0.05)
    obs = np.asarray(states.obs)
    assert obs.shape == (2000, 20)
    np.testing.assert_array_equal(obs[:, :8], qpos[:, 1:])
    np.testing.assert_array_equal(obs[:, 8:17], qvel)
    # the torso's frame: at rest 0.7 above the ground, moved by the root's slides
    np.testing.assert_allclose(
        obs[:, 17:], np.stack([qpos[:, 0], 0 * qpos[:, 0], 0.7 + qpos[:, 1]], 1), atol=1e-6
    )
