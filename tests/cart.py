"""The hand-written robot of the tests of edits and of TaskEnv."""

import jax
import jax.numpy as jnp
import mujoco

from roml_jax.envs import Edit, TaskDimension, TaskEnv

# A cart on a rough floor that carries a lantern on a pole, pushed through a slow actuator. One contact.
CART = """
<mujoco>
  <option timestep="0.01" density="1.2"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 0.1" friction="0.5" conaffinity="1"/>
    <body name="cart" pos="0 0 0.1">
      <joint name="rail" type="slide" axis="1 0 0" damping="2"/>
      <joint name="lift" type="slide" axis="0 0 1"/>
      <geom name="hull" type="sphere" size="0.1" mass="2" friction="0.8" contype="1"/>
      <body name="pole" pos="0 0 0.1">
        <joint name="hinge" axis="0 1 0" damping="0.1"/>
        <geom name="rod" type="capsule" fromto="0 0 0 0 0 0.5" size="0.02" mass="0.3"/>
        <body name="lantern" pos="0 0 0.5">
          <joint name="ball" type="ball" damping="0.01"/>
          <geom name="lamp" type="sphere" size="0.05" pos="0 0 -0.1" mass="0.1"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <general name="push" joint="rail" dyntype="filter" dynprm="0.5" gainprm="10" ctrllimited="true"
      ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""
MODEL = mujoco.MjModel.from_xml_string(CART)
MASS = TaskDimension("mass", 0.5, 2.0, (Edit("body_mass"),), "log")
ENGINES = ("mujoco", "mjx")


def speed(motion):
    return {
        "speed": (motion.after.qpos[0] - motion.before.qpos[0]) / motion.dt,
        "control": -0.1 * jnp.square(motion.action).sum(),
    }


def cart(tasks=(MASS,), **options):
    options = {
        "engine": "mujoco",
        "reward": speed,
        "frame_skip": 2,
        "horizon": 5,
        "derived": "stale",
        "check": False,
    } | options
    return TaskEnv.from_mjcf(MODEL, tasks=tasks, **options)


def start(env, task=1.0, **physics):
    """The first state of an episode, with some of its physics given."""
    state = jax.jit(env.reset)(jax.random.key(0), jnp.atleast_1d(jnp.asarray(task, jnp.float32)))
    return state._replace(physics=state.physics._replace(**physics))
