"""MuJoCo Warp against the C engine. Needs the extra of that name; runs on a CPU too, in minutes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import envs

OPTIMISED = True

pytest.importorskip("warp")
pytestmark = pytest.mark.accelerator


@pytest.mark.parametrize("name", ["cheetah_mass", "cheetah_vel", "humanoid_mass"])
def test_one_control_step_is_the_c_engines(name):
    """Every task with its own model in one batch, thickened limbs in contact among them."""
    c, warp = (envs.make(name, physics=engine) for engine in ("mujoco", "warp"))
    tasks = jnp.asarray(np.linspace(*c.family.ranges[0], 8))[:, None]
    keys = jax.random.split(jax.random.key(0), 8)
    states = {env: jax.jit(jax.vmap(env.reset))(keys, tasks) for env in (c, warp)}
    steps = {env: jax.jit(jax.vmap(env.step)) for env in (c, warp)}
    rng, errors, rewards = np.random.default_rng(0), [], []
    for _ in range(40):
        action = jnp.asarray(rng.normal(size=(8, c.spec.action.size)), jnp.float32)
        ours = steps[warp](states[warp]._replace(physics=states[c].physics), action)
        states[c] = steps[c](states[c], action)
        errors.append(abs(ours.physics.qpos - states[c].physics.qpos).max(axis=1))
        rewards.append(abs(ours.reward - states[c].reward))
    assert np.median(errors) < 1e-5
    assert np.quantile(errors, 0.95) < 1e-3  # steep capsules: docs/physics.md
    assert np.median(rewards) < 1e-4
