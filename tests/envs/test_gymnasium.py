"""The nominal robots against gymnasium's own HalfCheetah-v5, Humanoid-v5 and Ant-v5.

Those are later versions of the classes that the paper's tasks are built on; every difference is asserted.
"""

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy import stats

from roml_jax import envs

OPTIMISED = True

STEPS = 60
ROBOTS = {"cheetah": "HalfCheetah-v5", "humanoid": "Humanoid-v5", "ant": "Ant-v5"}


@pytest.fixture(params=ROBOTS)
def pair(request, tmp_path, monkeypatch):
    """(name, our environment of the nominal body, gymnasium's)."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings about the cheetah's file where it runs
    theirs = gymnasium.make(ROBOTS[request.param], disable_env_checker=True).unwrapped
    yield request.param, envs.make(f"{request.param}_mass", physics="mujoco"), theirs
    theirs.close()


def match(model):
    """Gives their model our solver, and contact margins as the reference's engine took them."""
    model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    model.opt.iterations, model.opt.ls_iterations = 100, 50
    model.geom_margin[:] /= 2


def roll(ours, theirs, scale):
    """Both under the same actions, theirs put back on our state (float32) after each step.

    Yields:
        (our EnvState, their observation, their reward, their info, action), step by step.
    """
    reset, step = jax.jit(ours.reset), jax.jit(ours.step)
    state = reset(jax.random.key(0), jnp.ones(1))
    theirs.reset(seed=0)
    theirs.set_state(*(np.asarray(x, float) for x in (state.physics.qpos, state.physics.qvel)))
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        theirs.data.qacc_warmstart[:] = state.physics.qacc_warmstart
        action = scale * rng.normal(size=theirs.model.nu).astype(np.float32)
        state = step(state, action)
        obs, reward, *_, info = theirs.step(action)
        yield state, obs, reward, info, action
        theirs.data.qpos[:], theirs.data.qvel[:] = state.physics.qpos, state.physics.qvel


def parts(env, obs):
    return {name: np.asarray(obs)[where] for name, where in env.spec.obs_slices.items()}


def close(mine, theirs, tolerance=2e-4):
    np.testing.assert_allclose(mine, theirs, tolerance, tolerance)


def check_cheetah(env, state, obs, info, action):
    mine = parts(env, state.obs)
    close(np.concatenate([mine["position"], mine["velocity"]]), obs)  # ours has the torso's place besides
    close(state.terms["forward"], info["reward_forward"])
    close(state.terms["control"], 0.5 * info["reward_ctrl"])  # the paper weighs it by 0.05, v5 by 0.1
    close(state.terms["height"], state.physics.qpos[1])  # which v5 does not pay
    assert set(state.terms) == {"forward", "control", "height"}


def check_humanoid(env, state, obs, info, action):
    mine = parts(env, state.obs)
    for name, skipped in (("inertia", 10), ("body_velocity", 6), ("actuator_force", 6)):
        np.testing.assert_array_equal(mine[name][:skipped], 0)  # v5 leaves out the world and the root
        mine[name] = mine[name][skipped:]
    forces = mine.pop("contact_force")
    np.testing.assert_array_equal(forces, 0)  # v5 computes them; the engines of the paper did not
    close(np.concatenate(list(mine.values())), obs[: -forces.size + 6])
    close(state.terms["forward"], info["reward_forward"])
    close(state.terms["upright"], info["reward_survive"])
    if abs(action).max() <= 0.4:
        close(state.terms["control"], info["reward_ctrl"])
    else:  # ours costs what the actuators get
        close(state.terms["control"], -0.1 * np.square(np.clip(action, -0.4, 0.4)).sum())
        assert info["reward_ctrl"] < state.terms["control"]
    assert set(state.terms) == {"forward", "upright", "control"}  # v5 pays for contacts as well


def check_ant(env, state, obs, info, action):
    close(state.obs, obs[:27])  # v5 goes on with 78 contact forces
    assert obs.size == 27 + 78
    close(state.terms["forward"], info["reward_forward"])
    close(state.terms["control"], info["reward_ctrl"])
    close(state.terms["upright"], info["reward_survive"])
    assert set(state.terms) == {"forward", "upright", "control"}


CHECKS = {"cheetah": check_cheetah, "humanoid": check_humanoid, "ant": check_ant}


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_steps_are_gymnasiums(pair, scale):
    name, ours, theirs = pair
    match(theirs.model)
    paid = 0.0
    for state, obs, _, info, action in roll(ours, theirs, scale):
        CHECKS[name](ours, state, obs, info, action)
        paid += info.get("reward_contact", 0.0)
    assert paid < 0 or name == "cheetah"  # the terms that today's engine makes nonzero


def test_models_are_gymnasiums(pair):
    """All arrays but the margins and what a newer engine would fill in."""
    _, ours, theirs = pair
    match(theirs.model)
    model = ours.physics.model
    assert ours.physics.frame_skip == theirs.frame_skip
    assert ours.physics.dt == pytest.approx(theirs.dt)
    for name in dir(model):
        mine = getattr(model, name)
        if isinstance(mine, np.ndarray) and not name.startswith("_"):
            np.testing.assert_allclose(mine, getattr(theirs.model, name), 1e-9, 1e-12, err_msg=name)
    for name in ("timestep", "integrator", "cone", "solver", "tolerance", "impratio", "gravity"):
        np.testing.assert_array_equal(getattr(model.opt, name), getattr(theirs.model.opt, name))


def test_starts_are_gymnasiums(pair):
    """Two-sample Kolmogorov-Smirnov, each coordinate; v5 leaves the noise in a quaternion's norm."""
    name, ours, theirs = pair
    count = 300
    states = jax.jit(jax.vmap(ours.reset))(
        jax.random.split(jax.random.key(2), count), jnp.ones((count, 1))
    ).physics
    drawn = []
    for seed in range(count):
        theirs.reset(seed=seed)
        drawn.append(theirs.state_vector())
    drawn = np.array(drawn)
    nq = theirs.model.nq
    if name != "cheetah":
        assert abs(np.linalg.norm(drawn[:, 3:7], axis=1) - 1).max() > 1e-3
        drawn[:, 3:7] /= np.linalg.norm(drawn[:, 3:7], axis=1, keepdims=True)
        np.testing.assert_allclose(np.linalg.norm(states.qpos[:, 3:7], axis=1), 1, atol=1e-6)
    mine = np.concatenate([states.qpos, states.qvel], axis=1)
    for coordinate in range(mine.shape[1]):
        test = stats.ks_2samp(mine[:, coordinate], drawn[:, coordinate])
        assert test.pvalue > 1e-4, coordinate  # 47 coordinates at most: one in 200 by chance, and fixed seeds
    assert np.allclose(mine[:, nq:].std(0), drawn[:, nq:].std(0), rtol=0.15)
