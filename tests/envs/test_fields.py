"""Edits of model fields do what plain MuJoCo does with the value written in, or are refused in one line."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from roml_jax.envs import physics
from roml_jax.envs.physics import mjx_limits
from roml_jax.envs.task_env import gymnasium_model
from roml_jax.quiet import mjx

# A box on a hinge that falls for 100 steps of 2 ms; unedited it turns by 0.56835 rad.
BOX = """
<mujoco>
  <option timestep="0.002"/>
  <worldbody>
    <body name="box">
      <joint name="h" type="hinge" axis="0 1 0"/>
      <geom type="box" size=".2 .1 .02" pos=".3 0 0" mass="1"/>
    </body>
  </worldbody>
  <tendon><fixed name="t"><joint joint="h" coef="1"/></fixed></tendon>
  <actuator><motor joint="h"/></actuator>
</mujoco>
"""
UNEDITED = 0.56835
# Fields that are zero in the model, the task's value, and what plain MuJoCo 4.0 makes of it.
ABSENT = {
    "dof_frictionloss": ([1.0], 0.37660),
    "tendon_frictionloss": ([1.0], 0.37660),
    "body_gravcomp": ([0.0, 0.5], 0.28650),
    "opt.density": (1000.0, 0.25839),
    "opt.viscosity": (5.0, 0.32166),
}
STEPS = 100


def model_of(source=BOX, **changes):
    for old, new in changes.values():
        assert old in source
        source = source.replace(old, new)
    return mujoco.MjModel.from_xml_string(source)


def plain(model, steps=STEPS, qvel=0.0, force=0.0):
    """The first coordinate after some steps of plain MuJoCo."""
    data = mujoco.MjData(model)
    data.qvel[:], data.qfrc_applied[:] = qvel, force
    mujoco.mj_step(model, data, steps)
    return data.qpos.copy()


def edited(engine, leaves, qvel=None):
    """qpos after a control step of an engine with edited fields."""
    model = engine.model
    leaves = engine.prepare({name: jnp.asarray(leaf, jnp.float32) for name, leaf in leaves.items()})
    speed = jnp.zeros(model.nv) if qvel is None else jnp.asarray(qvel, jnp.float32)
    state = engine.reset(jnp.asarray(model.qpos0, jnp.float32), speed, leaves)
    return engine.step(state, jnp.zeros(model.nu), leaves).qpos


def test_the_unedited_box():
    assert plain(model_of())[0] == pytest.approx(UNEDITED, abs=1e-5)


@pytest.mark.parametrize("field", ABSENT)
def test_fields_that_are_zero_can_be_edited_on_c(field):
    value, right = ABSENT[field]
    engine = physics.make("mujoco", model_of(), STEPS, (), "consistent")
    assert edited(engine, {field: value})[0] == pytest.approx(right, abs=1e-5)


def test_fields_that_are_zero_can_be_edited_on_mjx():
    # one program for all five, whose rows edit one field each; the last row edits none
    engine = physics.make("mjx", model_of(), STEPS, (), "consistent")
    fields = list(ABSENT)
    leaves = {
        field: jnp.stack(
            [
                jnp.broadcast_to(
                    jnp.asarray(ABSENT[field][0] if row == field else 0.0, jnp.float32),
                    physics.field_of(engine.model, field).shape,
                )
                for row in (*fields, None)
            ]
        )
        for field in fields
    }
    after = jax.jit(jax.vmap(lambda leaves: edited(engine, leaves)))(leaves)[:, 0]
    right = [*(ABSENT[field][1] for field in fields), UNEDITED]
    np.testing.assert_allclose(after, right, atol=2e-5)


@pytest.mark.parametrize("field", ABSENT)
def test_each_field_alone_makes_room_for_its_forces(field):
    model = model_of()
    assert (
        mjx_limits.switches(model, (field,), "jax") == {field} == mjx_limits.switches(model, (field,), "warp")
    )
    roomy = mjx.put_model(mjx_limits.with_room(model, (field,)))
    original = mjx.put_model(model)
    flags = {
        "dof_frictionloss": lambda m: m._impl.dof_hasfrictionloss.all(),
        "tendon_frictionloss": lambda m: m._impl.tendon_hasfrictionloss.all(),
        "body_gravcomp": lambda m: m.flg_gravcomp,
        "opt.density": lambda m: m.opt._impl.has_fluid_params,
        "opt.viscosity": lambda m: m.opt._impl.has_fluid_params,
    }
    assert flags[field](roomy)
    assert not flags[field](original)
    # its values are the unedited ones
    restored = mjx_limits.with_values(roomy, original, (field,))
    for name in ("dof_frictionloss", "tendon_frictionloss", "body_gravcomp", "dof_damping"):
        np.testing.assert_array_equal(getattr(restored, name), getattr(original, name))
    assert restored.opt.density == 0
    assert restored.opt.viscosity == 0
    # an mjx.Model of somebody else's is refused
    mask = np.ones(physics.field_of(model, field).shape, bool)
    with pytest.raises(ValueError, match=f"{field} is 0 in the environment's model, so MJX left it out"):
        mjx_limits.refuse_dead(original, {field: mask})
    mjx_limits.refuse_dead(roomy, {field: mask, "body_mass": np.ones(2, bool)})


# Features of MuJoCo 4.0 that MJX lacks: the change of the box, its name in the error, what plain MuJoCo makes
# of it. The hinge starts at 1 rad/s.
LACKING = {
    "jnt_springyield": (('axis="0 1 0"/>', 'axis="0 1 0" stiffness="40" springyield="2"/>'), 0.53215),
    "actuator_damping": (('<motor joint="h"/>', '<motor joint="h" damping="2"/>'), 0.26877),
    "dof_dampingpoly": (('axis="0 1 0"/>', 'axis="0 1 0" damping="0 0.5 0.5"/>'), 0.29152),
    "jnt_stiffnesspoly": (('axis="0 1 0"/>', 'axis="0 1 0" stiffness="0 9 9"/>'), 0.64915),
    "tendon_dampingpoly": (('<fixed name="t">', '<fixed name="t" damping="0 0.5 0.5">'), 0.29236),
    "tendon_stiffnesspoly": (('<fixed name="t">', '<fixed name="t" stiffness="0 9 9">'), 0.64915),
    "actuator_armature": (('<motor joint="h"/>', '<motor joint="h" armature="0.2"/>'), 0.39425),
    "geom_fluid": (('mass="1"/>', 'mass="1" fluidshape="ellipsoid"/>'), 0.76019),
    "opt.noslip_iterations": (("<option ", '<option noslip_iterations="3" '), 0.76019),
}


@pytest.mark.parametrize("field", LACKING)
def test_features_that_mjx_lacks_are_refused(field):
    change, right = LACKING[field]
    model = model_of(change=change)
    with pytest.raises(
        ValueError,
        match=rf"(MJX does not simulate {field}, which this model sets|no plastic springs\)); the engine",
    ):
        physics.make("mjx", model, 1)
    engine = physics.make("mujoco", model, STEPS)
    assert plain(model, qvel=1.0)[0] == pytest.approx(right, abs=1e-5)
    assert edited(engine, {}, [1.0])[0] == pytest.approx(right, abs=1e-5)


@pytest.mark.parametrize("field", [name for name in LACKING if not name.startswith("opt.")])
def test_edits_of_what_mjx_lacks_are_refused(field):
    leaf = jnp.ones(physics.field_of(model_of(), field).shape)
    with pytest.raises(
        ValueError, match=f"^({field} is constant or missing in MJX|MJX does not read {field})"
    ) as error:
        physics.make("mjx", model_of(), 1).prepare({field: leaf})
    assert "\n" not in str(error.value)
    assert "the engine 'mujoco'" in str(error.value)


OPTIONS = {
    "half": (
        '<option timestep="0.002"/>',
        '<option><flag spring="disable"/></option>',
        "disables all passive",
    ),
    "sleep": ('<option timestep="0.002"/>', '<option><flag sleep="enable"/></option>', "sleep or ipc"),
    "discrete": ("<option ", '<option integrator="discrete" ', "no integrator 'discrete'"),
    "group": ("<option ", '<option actuatorgroupdisable="3" ', "opt.disableactuator"),
    "early": (
        '<motor joint="h"/>',
        '<general joint="h" dyntype="integrator" actearly="true"/>',
        "actuator_actearly",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_mjx_lacks_are_refused(case):
    old, new, line = OPTIONS[case]
    with pytest.raises(ValueError, match=line):
        mjx_limits.refuse_model(model_of(change=(old, new)), "jax")


def test_the_environments_and_common_options_are_accepted_on_mjx():
    for robot in ("half_cheetah", "ant", "humanoid", "hopper", "walker2d", "swimmer", "reacher", "pusher"):
        assert mjx_limits.dropped(gymnasium_model(robot), "jax") == []
        assert mjx_limits.dropped(gymnasium_model(robot), "warp") == []
    servos = model_of(
        change=('<motor joint="h"/>', '<position joint="h" kp="5" kv="1"/><velocity joint="h"/>')
    )
    mjx_limits.refuse_model(servos, "jax")


def test_what_mjx_and_warp_read():
    read = (
        "dof_frictionloss",
        "geom_friction",
        "jnt_range",
        "opt.wind",
        "actuator_gear",
        "eq_data",
        "site_pos",
    )
    assert all(mjx_limits.is_read(name, impl) for name in read for impl in ("jax", "warp"))
    assert not mjx_limits.is_read("dof_dampingpoly", "jax")
    assert mjx_limits.is_read("dof_dampingpoly", "warp")
    # Warp adds actuators' damping to other fields when it reads the model, and so it must not be edited there
    damped = model_of(change=LACKING["actuator_damping"][0])
    assert mjx_limits.dropped(damped, "warp") == []
    for field in ("actuator_damping", "dof_damping", "actuator_gear", "opt.impratio"):
        with pytest.raises(ValueError, match=field):
            mjx_limits.refuse_edits(damped, (field,), "warp")


def test_friction_that_a_task_sets_to_zero_on_mjx_locks_nothing():
    leaves = mjx_limits.above_zero({"dof_frictionloss": jnp.zeros(1), "dof_damping": jnp.zeros(1)})
    assert 0 < leaves["dof_frictionloss"][0] < 1e-9
    assert leaves["dof_damping"][0] == 0


def test_sensors_that_mjx_never_computes():
    sensor = "<sensor><jointactuatorfrc joint='h'/></sensor></mujoco>"
    for extra, works in (("", False), ('<equality><joint joint1="h"/></equality>', True)):
        engine = physics.make("mjx", model_of(change=("</mujoco>", extra + sensor)), 1, ("sensordata",))
        if works:
            engine.prepare({})
        else:
            with pytest.raises(ValueError, match="MJX computes no sensors of forces or accelerations"):
                engine.prepare({})


def test_margins_of_meshes_cannot_be_edited_on_mjx():
    mesh = '<asset><mesh name="m" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset>'
    mesh += '<worldbody><geom type="plane" size="1 1 1"/>'
    geom = (
        '<geom type="box" size=".2 .1 .02" pos=".3 0 0" mass="1"/>',
        '<geom type="mesh" mesh="m" mass="1"/>',
    )
    engine = physics.make("mjx", model_of(a=("<worldbody>", mesh), b=geom), 1)
    engine.prepare({"geom_friction": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"MJX cannot simulate this model .*margin/gap not implemented"):
        engine.prepare({"geom_margin": jnp.ones(2)})


def test_sides_of_wrapped_tendons_and_height_fields_cannot_be_edited_on_mjx():
    wrap = """
    <mujoco><worldbody><site name="a" pos="-1 0 0"/><site name="side" pos="0 .5 0"/>
    <body><joint/><geom name="g" size=".2"/><site name="b" pos="1 0 0"/></body></worldbody>
    <tendon><spatial><site site="a"/><geom geom="g" {}/><site site="b"/></spatial></tendon></mujoco>"""
    sided = mujoco.MjModel.from_xml_string(wrap.format('sidesite="side"'))
    with pytest.raises(
        ValueError, match="MJX decides on which side tendons wrap geoms once, before edits of site"
    ):
        mjx_limits.refuse_edits(sided, ("site_pos",), "jax")
    mjx_limits.refuse_edits(mujoco.MjModel.from_xml_string(wrap.format("")), ("site_pos",), "jax")
