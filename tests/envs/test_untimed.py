"""MuJoCo's clock is off while the C engine steps a batch, and is the caller's again afterwards."""

import threading

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from roml_jax import envs
from roml_jax.envs.physics.untimed import untimed


@pytest.fixture
def readings():
    """How often MuJoCo has read a clock of the caller's."""
    made = []
    mujoco.set_mjcb_time(lambda: float(made.append(None) or len(made)))
    yield made
    mujoco.set_mjcb_time(None)


def step_plain():
    """A step of a caller's own simulation, outside the package."""
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    mujoco.mj_step(model, mujoco.MjData(model))


def test_an_environment_never_reads_the_clock(readings):
    env = envs.make("hopper_dynamics", physics="mujoco")
    task = env.family.sample_prior(jax.random.key(0), 1)[0]
    readings.clear()  # of the simulations that looked at the model
    state = env.step(env.reset(jax.random.key(1), task), jnp.zeros(env.spec.action.size))
    assert np.isfinite(state.obs).all()
    assert not readings
    step_plain()
    assert readings


def test_the_clock_comes_back_when_the_last_thread_is_done(readings):
    entered, leave = threading.Barrier(3), [threading.Event(), threading.Event()]

    def hold(until):
        with untimed():
            entered.wait()
            until.wait()

    threads = [threading.Thread(target=hold, args=(until,)) for until in leave]
    for thread in threads:
        thread.start()
    entered.wait()
    for thread, until in zip(threads, leave, strict=True):
        step_plain()
        assert not readings
        until.set()
        thread.join()
    step_plain()
    assert readings


def test_the_clock_comes_back_after_an_error(readings):
    with pytest.raises(RuntimeError), untimed():
        raise RuntimeError
    step_plain()
    assert readings
