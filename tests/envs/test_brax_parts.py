"""brax's copies of model fields: with a task, they are those of a model with the edit written in."""

import copy
import operator

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from brax import envs as brax_envs
from brax.base import Transform
from brax.io import mjcf
from flax import struct

from roml_jax.envs import Edit, TaskDimension, brax_parts, from_brax

pytestmark = pytest.mark.filterwarnings("ignore:Brax System, piplines and environments")

MODEL = """
<mujoco>
  <option gravity="0 0 -9"/>
  <worldbody>
    <body name="base" pos="0 0 1">
      <freejoint/>
      <geom type="sphere" size="0.1" mass="1"/>
      <body name="arm" pos="0.1 0 0">
        <joint name="lift" type="slide" axis="0 0 1" range="-1 1" limited="true" stiffness="2" damping="1"/>
        <joint name="turn" axis="0 1 0" armature="0.1"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.6" size="0.03" mass="0.2"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="lift" kp="3" ctrllimited="true" ctrlrange="-1 2"/>
    <motor joint="turn" gear="5" forcelimited="true" forcerange="-3 3"/>
  </actuator>
</mujoco>
"""
FIELDS = (
    "body_pos", "body_quat", "body_ipos", "body_iquat", "body_inertia", "body_mass", "body_invweight0",
    "jnt_pos", "jnt_axis", "jnt_stiffness", "jnt_range", "jnt_solref", "jnt_solimp", "dof_armature",
    "dof_damping", "dof_invweight0", "actuator_gainprm", "actuator_biasprm", "actuator_gear",
    "actuator_ctrlrange", "actuator_forcerange", "qpos0", "opt.gravity",
)  # fmt: skip
COPIES = ("gravity", "viscosity", "density", "link", "dof", "actuator", "init_q")


def loaded(model):
    """brax's System; ``load_model`` writes into the model that it gets."""
    return mjcf.load_model(copy.copy(model))


@jax.jit
def mirrored(system, fields):
    return brax_parts.mirrored(system.tree_replace(fields), fields)


def edited_twice():
    """A System with every field scaled by a task, and brax's System of the model scaled by hand."""
    model = mujoco.MjModel.from_xml_string(MODEL)
    by_hand, system = copy.copy(model), loaded(model)
    fields = {}
    for i, field in enumerate(FIELDS):
        factor = 1.1 + 0.05 * i
        old = np.asarray(operator.attrgetter(field)(system))
        fields[field] = np.asarray(factor * old, old.dtype)
        operator.attrgetter(field)(by_hand)[...] *= factor
    fields["opt.density"] = np.float32(2.0)
    by_hand.opt.density = 2.0
    return system, mirrored(system, fields), loaded(by_hand)


def test_every_copy_is_the_one_that_brax_makes_of_the_edited_model():
    before, after, expected = edited_twice()
    for name in COPIES:
        changed = False
        for old, new, wanted in zip(
            *(jax.tree.leaves(getattr(system, name)) for system in (before, after, expected)), strict=True
        ):
            np.testing.assert_allclose(new, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
            changed |= not np.array_equal(old, new)
        assert changed or name == "viscosity"


def test_the_humanoids_center_of_mass_is_that_of_the_edited_masses():
    """Five times the torso's mass at the pose of the file; from MuJoCo's own engine."""
    env = brax_envs.get_environment("humanoid", backend="mjx")
    model = copy.copy(env.sys.mj_model)
    model.body_mass[1] *= 5
    data = mujoco.MjData(model)
    data.qpos[:] = env.sys.init_q
    mujoco.mj_forward(model, data)

    @struct.dataclass
    class Pose:
        x: Transform

    pose = Pose(Transform(pos=jnp.asarray(data.xpos[1:]), rot=jnp.asarray(data.xquat[1:])))
    mass = np.array(env.sys.body_mass)
    mass[1] *= 5
    twin = copy.copy(env)
    twin.sys = mirrored(env.sys, {"body_mass": mass})
    before, after = (float(np.asarray(jax.jit(one._com)(pose)[0])[2]) for one in (env, twin))
    assert before == pytest.approx(0.9457, abs=1e-4)
    assert after == pytest.approx(1.1698, abs=1e-4)
    expected = model.body_mass @ data.xipos[:, 2] / model.body_mass.sum()
    assert after == pytest.approx(expected, abs=1e-5)


def test_an_edit_that_would_reach_only_one_of_two_values_is_refused():
    env = brax_envs.get_environment("inverted_pendulum", backend="mjx")
    own = env.sys.actuator.replace(ctrl_range=jnp.array([[-1.0, 1.0]]))
    env.sys = env.sys.replace(actuator=own, init_q=env.sys.init_q + 0.5)
    for field, part in (("actuator_ctrlrange", "actuator.ctrl_range"), ("qpos0", "init_q")):
        with pytest.raises(ValueError, match=rf"^a task cannot edit {field} here: .* sys\.{part} ") as error:
            from_brax(env, (TaskDimension("t", 0.5, 2.0, (Edit(field),)),))
        assert "\n" not in str(error.value)
