"""What MuJoCo decides when it compiles a model follows a task's edits on the C engine, or refuses them."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from roml_jax import envs
from roml_jax.envs import Edit, TaskDimension, TaskEnv, physics
from roml_jax.envs.physics import compiled_flags

STEPS = 100
# A hinge and a tendon, without limits.
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


def model_of():
    return mujoco.MjModel.from_xml_string(BOX)


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


# Joints of a body that is compiled as simple: (the joints, whether its mass matrix is stored as a diagonal).
JOINTS = {
    "hinge": ('<joint name="j" type="hinge" axis="0 1 0" armature="0.1"/>', False),
    "slide": ('<joint name="j" type="slide" axis="1 0 0" armature="0.3"/>', False),
    "two slides": ('<joint name="j" type="slide" axis="1 0 0"/><joint type="slide" axis="0 0 1"/>', True),
    "plane": (
        '<joint name="j" type="slide" axis="1 0 0"/><joint type="slide" axis="0 0 1"/>'
        '<joint type="hinge" axis="0 1 0"/>',
        True,
    ),
    "ball": ('<joint name="j" type="ball"/>', True),
    "free": ('<freejoint name="j"/>', True),
}
MOVES = {
    "body_ipos": lambda spec: setattr(spec.body("b"), "ipos", [0.1, 0.05, 0.02]),
    "body_iquat": lambda spec: setattr(spec.body("b"), "iquat", [0.8, 0.3, 0.4, 0.1]),
    "jnt_axis": lambda spec: setattr(spec.joint("j"), "axis", [1, 1, 1]),
    "jnt_pos": lambda spec: setattr(spec.joint("j"), "pos", [0.1, 0.05, 0.02]),
    "body_inertia": lambda spec: setattr(spec.body("b"), "inertia", [0.25, 0.3, 0.4]),
    "dof_armature": lambda spec: setattr(spec.joint("j"), "armature", 0.7),
}


def simple_body(joints, tendon=""):
    return mujoco.MjSpec.from_string(f"""
    <mujoco>
      <option timestep="0.002"/>
      <worldbody>
        <site name="a" pos="0 1 1"/>
        <body name="b">
          {joints}<inertial pos="0 0 0" mass="1" diaginertia=".1 .2 .3"/><site name="s"/>
        </body>
      </worldbody>
      {tendon}
    </mujoco>""")


def compiled(spec, change):
    spec = spec.copy()
    change(spec)
    return spec.compile()


@pytest.mark.parametrize("derived", ["consistent", "stale"])
@pytest.mark.parametrize("joints", JOINTS)
@pytest.mark.parametrize("field", MOVES)
def test_bodies_that_were_compiled_as_simple_move_on_c(field, joints, derived):
    source, diagonal = JOINTS[joints]
    if field.startswith("jnt") and joints in ("ball", "free"):
        return
    spec = simple_body(source)
    fields = compiled_flags.KEEPS_SIMPLE if field in compiled_flags.KEEPS_SIMPLE else ()
    right_model = compiled(spec, MOVES[field])
    leaf = physics.field_of(right_model, field)
    speed = 0.5 * np.arange(1, right_model.nv + 1)
    # a source is compiled with room for the edit
    base = compiled_flags.compile_for(spec, fields)
    engine = physics.make("mujoco", base, STEPS, (), derived)
    np.testing.assert_allclose(
        edited(engine, {field: leaf}, speed), plain(right_model, qvel=speed), atol=2e-7
    )
    # a model that is compiled already, with a diagonal mass matrix, is refused
    base = spec.compile()
    assert base.body_simple[1] > 0
    assert compiled_flags.diagonal_bodies(base).any() == diagonal
    if diagonal and fields:
        rows = np.zeros(1, np.int32)
        with pytest.raises(
            ValueError, match="body 'b' was compiled with a diagonal mass matrix, so the C engine"
        ):
            physics.mujoco_c.write_tasks(
                physics.mujoco_c.Batch(base, 1), base, {field: leaf[None]}, rows, derived
            )


def test_a_centre_of_mass_as_a_task():
    # as plain MuJoCo with the value written in: a hinge whose weight hangs 0.2 m off its axis, 0.5 s
    spec = simple_body('<joint name="j" type="hinge" axis="0 1 0"/>')
    right = plain(compiled(spec, lambda spec: setattr(spec.body("b"), "ipos", [0.2, 0, 0])), 250)
    assert right[0] == pytest.approx(0.99175, abs=1e-5)
    engine = physics.make("mujoco", spec.compile(), 250, (), "consistent")
    assert edited(engine, {"body_ipos": [[0, 0, 0], [0.2, 0, 0]]})[0] == pytest.approx(0.99175, abs=1e-5)


@pytest.mark.parametrize("field", ["tendon_armature", "actuator_armature"])
def test_armature_of_a_tendon_on_c(field):
    tendon = """
    <tendon><spatial name="t"><site site="a"/><site site="s"/></spatial></tendon>
    <actuator><motor name="m" tendon="t"/></actuator>"""
    spec = simple_body(JOINTS["two slides"][0], tendon)
    kind = field.split("_")[0]
    right = compiled(
        spec, lambda spec: setattr(getattr(spec, kind)("t" if kind == "tendon" else "m"), "armature", 1)
    )
    engine = physics.make("mujoco", compiled_flags.compile_for(spec, (field,)), STEPS, (), "consistent")
    np.testing.assert_allclose(
        edited(engine, {field: [1.0]}, [0.5, 0.3]), plain(right, qvel=[0.5, 0.3]), atol=2e-7
    )
    base, leaves = spec.compile(), {field: np.ones((1, 1))}
    batch = physics.mujoco_c.Batch(base, 1)
    with pytest.raises(ValueError, match="tendon armature"):
        physics.mujoco_c.write_tasks(batch, base, leaves, np.zeros(1, np.int32), "consistent")


def test_a_free_body_that_was_compiled_as_simple_moves_on_mjx():
    spec = simple_body(JOINTS["free"][0])
    right = compiled(spec, MOVES["body_ipos"])
    engine = physics.make("mjx", spec.compile(), 20, (), "consistent")
    speed = 0.5 * np.arange(1, 7)
    after = jax.jit(lambda leaf: edited(engine, {"body_ipos": leaf}, speed))(right.body_ipos)
    # with the diagonal alone, z is 0.0511 instead of 0.0519
    np.testing.assert_allclose(after, plain(right, 20, qvel=speed), atol=1e-5)


@pytest.mark.parametrize("field", ["body_mass", "dof_armature"])
def test_stale_masses_of_sliders_on_c(field):
    """A slider's mass is its mass matrix, which is never stale: 1 kg moves 0.0202 m, 2 kg 0.0101 m."""
    model = simple_body(
        '<joint name="j" type="slide" axis="1 0 0"/>', "<actuator><motor joint='j'/></actuator>"
    )
    engine = physics.make("mujoco", model.compile(), STEPS, (), "stale")
    for value, right in ((1.0, 0.0202), (2.0, 0.0101)):
        leaf = [0.0, value] if field == "body_mass" else [value - 1.0]
        leaves = engine.prepare({field: jnp.asarray(leaf)})
        after = engine.step(engine.reset(jnp.zeros(1), jnp.zeros(1), leaves), jnp.ones(1), leaves)
        assert after.qpos[0] == pytest.approx(right, abs=1e-6)


DERIVED = ("dof_invweight0", "tendon_length0")


@pytest.mark.parametrize("engine", ["mujoco", "mjx"])
@pytest.mark.parametrize("field", DERIVED)
def test_fields_that_are_recomputed_cannot_be_edited_unless_stale(field, engine):
    leaf = {field: jnp.full(1, 7.0)}
    with pytest.raises(ValueError, match=f"{field} is computed from other fields"):
        physics.make(engine, model_of(), 1, (), "consistent").prepare(leaf)
    assert physics.make(engine, model_of(), 1, (), "stale").prepare(leaf)[field][0] == 7.0


def test_stale_keeps_a_tasks_own_values_of_derived_fields():
    base = model_of()
    batch = physics.mujoco_c.Batch(base, 1)
    leaves = {field: np.full((1, 1), 7.0) for field in DERIVED}
    physics.mujoco_c.write_tasks(batch, base, leaves, np.zeros(1, np.int32), "stale")
    assert all(batch.expanded(field)[0, 0] == 7.0 for field in DERIVED)


UNREAD = (
    "key_qpos",
    "body_user",
    "sensor_noise",
    "geom_aabb",
    "opt.o_margin",
    "opt.noslip_tolerance",
    "jnt_range",
)


@pytest.mark.parametrize("field", UNREAD)
def test_fields_that_no_step_reads_are_refused_on_c(field):
    leaf = jnp.asarray(physics.field_of(model_of(), field) + 1.0)
    with pytest.raises(ValueError, match=f"^{field} is (not read|read only with)") as error:
        physics.make("mujoco", model_of(), 1).prepare({field: leaf})
    assert "\n" not in str(error.value)


def make_env(*edits, source=BOX, **rest):
    tasks = (TaskDimension("t", 0.5, 2.0, edits),)
    return TaskEnv.from_mjcf(
        source, tasks=tasks, reward=lambda motion: {"x": motion.after.qpos[0]}, check=False, **rest
    )


def test_limits_that_the_model_does_not_have():
    for field in (
        "jnt_range",
        "actuator_ctrlrange",
        "actuator_forcerange",
        "tendon_range",
        "jnt_springyield",
    ):
        with pytest.raises(
            ValueError, match=f"an edit of {field} of .* would do nothing: the compiled model has"
        ):
            make_env(Edit(field, "set"))
    # a scale of zero changes nothing on any engine, and is no reason to put friction rows into MJX's program
    env = make_env(Edit("dof_frictionloss"), engine="mjx")
    assert env.physics.prepare(env.apply_task(jnp.ones(1))) == {}
    limited = BOX.replace('axis="0 1 0"/>', 'axis="0 1 0" range="-90 90"/>')
    make_env(Edit("jnt_range", rows="h"), source=limited)


def test_the_cheetahs_fields_that_are_zero_stay_as_they_were():
    env = envs.make("cheetah_multi", physics="mujoco", set="b")
    leaves = env.apply_task(jnp.full(10, 0.9))
    assert isinstance(leaves["dof_frictionloss"], np.ndarray)
    assert not leaves["dof_frictionloss"].any()
