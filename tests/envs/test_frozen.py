"""Tasks whose episode is over are not stepped by the C engine, and MuJoCo's warnings are said once."""

import functools
import logging

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from cart import MODEL, cart

from roml_jax.envs.physics import mujoco_c


@pytest.fixture
def stepped(monkeypatch):
    """The rows of each call of MuJoCo's step, None for all."""
    calls, step = [], mujoco_c.Batch.step

    def counted(self, ids=None, nstep=1):
        calls.append(None if ids is None else np.asarray(ids).tolist())
        return step(self, ids, nstep)

    monkeypatch.setattr(mujoco_c.Batch, "step", counted)
    return calls


@functools.partial(jax.jit, static_argnums=0)
def batch(function, *arguments):
    """The function of three tasks, one program."""
    return jax.vmap(function)(*arguments)


def run(env, start, steps):
    """The states after each step, on the host, so that all has been stepped."""
    seen = [start]
    for _ in range(steps):
        seen.append(batch(env.step, seen[-1], np.ones((3, 1), np.float32)))
    return [jax.tree.map(np.asarray, state._replace(key=())) for state in seen[1:]]


def starts(env, **row_1):
    """Three tasks at their start, the middle one with a given state."""
    keys = jax.random.split(jax.random.key(0), 3)
    states, new = batch(env.reset, keys, np.ones((3, 1), np.float32)), {}
    for name, value in row_1.items():
        new[name] = np.array(getattr(states.physics, name))
        new[name][1] = value
    return states._replace(physics=states.physics._replace(**new))


def test_a_task_that_blows_up_is_stepped_once_more_and_said_once(
    stepped, tmp_path, monkeypatch, capfd, caplog
):
    """Its last step is the one in which MuJoCo notices; 40 steps bring one line and no file."""
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING, "roml_jax"):
        # equal environments share their simulations and what was said: no other test makes this one
        env = cart(readings=("cvel", "xipos"))
        seen = run(env, starts(env, act=1e13), 40)
    assert [bool(x) for x in seen[-1].diverged] == [False, True, False]
    assert stepped == [None] + [[0, 2]] * 39
    (record,) = caplog.records
    assert record.getMessage() == (
        "MuJoCo: Nan, Inf or huge value in QACC at DOF 0. The simulation is unstable. "
        "(further warnings like it are not shown)"
    )
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_others_are_as_if_nothing_happened(stepped):
    env = cart(readings=("cvel",))
    whole, part = run(env, starts(env), 20)[-1], run(env, starts(env, act=1e13), 20)[-1]
    for name in ("obs", "reward"):
        ours, theirs = np.asarray(getattr(whole, name)), np.asarray(getattr(part, name))
        np.testing.assert_array_equal(ours[[0, 2]], theirs[[0, 2]])
    assert stepped == [None] * 21 + [[0, 2]] * 19


def test_an_episode_that_has_ended_is_not_stepped(stepped):
    env = cart(terminate=lambda view: view.qpos[0] > 5.0)
    high = np.array(MODEL.qpos0, np.float32)
    high[0] = 6.0
    seen = run(env, starts(env, qpos=high), 3)
    assert stepped == [None, [0, 2], [0, 2]]
    np.testing.assert_array_equal(seen[2].obs[1], seen[0].obs[1])
    np.testing.assert_array_equal(seen[2].physics.qpos[1], seen[0].physics.qpos[1])
    assert [bool(s.valid[1]) for s in seen] == [True, False, False]
    assert not seen[2].diverged.any()


@pytest.mark.parametrize("action", [np.nan, np.inf])
def test_a_control_that_is_not_finite_ends_the_episode(action):
    """MuJoCo itself would go on with a control of 0; an infinite one is clamped to the range."""
    env = cart(reward=lambda motion: {})
    after = jax.jit(lambda key, action: env.step(env.reset(key, jnp.ones(1)), action))
    state = after(jax.random.key(0), np.full(1, action, np.float32))
    assert bool(state.diverged) == bool(np.isnan(action))


def test_a_handler_of_the_callers_stays(stepped):
    heard = []
    mujoco.set_mju_user_warning(heard.append)
    try:
        env = cart()
        run(env, starts(env, act=1e13), 2)
        assert mujoco.get_mju_user_warning() is not None
    finally:
        mujoco.set_mju_user_warning(None)
    assert len(heard) == 1
    run(env, starts(env, act=1e13), 2)
    assert mujoco.get_mju_user_warning() is None
    assert len(heard) == 1
