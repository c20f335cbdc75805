"""Values that cannot be where several dimensions edit one field; and what a start may read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import envs
from roml_jax.envs import Edit, TaskDimension, TaskEnv

CART = """
<mujoco>
  <worldbody>
    <body name="cart">
      <joint name="rail" type="slide" axis="1 0 0" damping="1" armature="2"/>
      <geom size="0.1" mass="2" contype="0"/>
      <body name="pole" pos="0 0 0.1">
        <joint name="hinge" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.02" mass="1" contype="0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor name="push" joint="rail" ctrlrange="-1 1"/></actuator>
</mujoco>
"""
SCALE = TaskDimension("mass", 0.3, 1.0, (Edit("body_mass"),))


def load(low, high):
    return TaskDimension("payload", low, high, (Edit("body_mass", "add", "pole"),))


def cart(*tasks, **options):
    return TaskEnv.from_mjcf(
        CART, tasks=tasks, reward=lambda motion: {"x": motion.after.qpos[0]}, engine="mujoco", **options
    )


def test_a_mass_that_two_dimensions_make_negative_is_refused_at_its_corner():
    """0.3 of 1 kg, less half a kilogram; each of them alone leaves a mass."""
    with pytest.raises(
        ValueError, match=r"task mass=0\.3, payload=-0\.5: body_mass of 'pole' is -0\.2 and must"
    ):
        cart(SCALE, load(-0.5, 0.5))
    cart(SCALE, load(-0.2, 0.5))


def test_a_start_may_read_the_fields_of_the_task():
    seen = []

    def start(key, robot):
        seen.append(robot.leaves["body_mass"])
        return jnp.zeros(2), jnp.zeros(2) + robot.leaves["body_mass"][2]

    env = cart(SCALE, start=start)
    assert seen
    report = envs.check(env)
    assert not report.of("error")
    state = jax.jit(env.reset)(jax.random.key(0), jnp.array([0.5]))
    np.testing.assert_allclose(state.physics.qvel, 0.5, rtol=1e-5)


def test_a_warning_of_one_dimension_does_not_hide_an_impossible_corner():
    """No body has an inertia larger than the sum of its others; the environment could still be simulated."""
    odd = TaskDimension("odd", 1.0, 5.0, (Edit("body_inertia", rows="pole", column=0),))
    with pytest.raises(ValueError, match=r"body_mass of 'pole' is -0\.2"):
        cart(odd, SCALE, load(-0.5, 0.5))


def test_of_many_dimensions_the_lowest_and_the_highest_corner_are_tried():
    """Seven loads of a seventh of a kilogram and more: only all of them together leave no mass."""
    loads = [TaskDimension(f"load{i}", -0.15, 0.15, (Edit("body_mass", "add", "pole"),)) for i in range(7)]
    with pytest.raises(ValueError, match=r"body_mass of 'pole' is -0\.05"):
        cart(*loads)
