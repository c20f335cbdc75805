"""Tasks as edits of a hand-written model: what they change, and what cannot be."""

import re

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from cart import MODEL, cart

from roml_jax.envs import Edit, TaskDimension
from roml_jax.envs.door import rules
from roml_jax.envs.edits import family, make_apply_task


def leaves(*edits, task=2.0):
    dimension = TaskDimension("t", 0.0, 10.0, edits)
    return make_apply_task(MODEL, (dimension,))(jnp.array([task]))


def changed(field, *edits, task=2.0):
    """Which numbers of a field a task changes, and to what."""
    (name,) = new = leaves(*edits, task=task)
    assert name == field
    old, new = np.asarray(getattr(MODEL, field), np.float32), np.asarray(new[field])
    assert old.shape == new.shape
    return {where: float(new[where]) for where in map(tuple, np.argwhere(old != new).tolist())}


def test_scale_set_and_add():
    np.testing.assert_allclose(leaves(Edit("body_mass"))["body_mass"], MODEL.body_mass * 2)
    half = Edit("body_mass", "scale", factor=0.5)
    np.testing.assert_allclose(leaves(half)["body_mass"], MODEL.body_mass)
    np.testing.assert_allclose(
        leaves(Edit("body_mass", "add", factor=3.0))["body_mass"], MODEL.body_mass + 6, rtol=1e-6
    )
    assert (np.asarray(leaves(Edit("body_mass", "set"))["body_mass"]) == 2.0).all()


def test_rows_by_name_index_and_column():
    pole = MODEL.body("pole").id
    assert changed("body_mass", Edit("body_mass", "add", "pole")) == {(pole,): pytest.approx(2.3)}
    assert changed("body_mass", Edit("body_mass", "add", pole)) == {(pole,): pytest.approx(2.3)}
    assert changed("body_mass", Edit("body_mass", "set", -1)) == {(MODEL.nbody - 1,): 2.0}
    assert changed("body_mass", Edit("body_mass", "set", np.int32(2))) == {(2,): 2.0}
    rod, lamp = MODEL.geom("rod").id, MODEL.geom("lamp").id
    two = Edit("geom_friction", "set", ("rod", lamp), column=0)
    assert changed("geom_friction", two) == {(rod, 0): 2.0, (lamp, 0): 2.0}
    assert changed("actuator_gear", Edit("actuator_gear", "set", "push", column=0)) == {(0, 0): 2.0}
    assert changed("jnt_stiffness", Edit("jnt_stiffness", "set", "hinge")) == {(2,): 2.0}


def test_joints_stand_for_their_degrees_of_freedom():
    assert changed("dof_damping", Edit("dof_damping", "set", "hinge")) == {(2,): 2.0}
    assert set(changed("dof_damping", Edit("dof_damping", "set", "ball"))) == {(3,), (4,), (5,)}
    assert set(changed("qpos0", Edit("qpos0", "add", "ball"))) == {(3,), (4,), (5,), (6,)}
    assert changed("qpos_spring", Edit("qpos_spring", "set", "lift")) == {(1,): 2.0}


SEVERAL = mujoco.MjModel.from_xml_string("""
<mujoco>
  <worldbody>
    <body name="arm"><joint name="ball" type="ball"/><geom size=".1"/>
      <body pos="0 0 .2"><joint name="hinge"/><geom size=".1" pos="0 0 .3"/></body>
    </body>
    <body name="held"><freejoint/><geom size=".1"/></body>
  </worldbody>
  <equality>
    <weld body1="arm" body2="held" relpose="0 0 .5 1 0 0 0"/>
    <joint joint1="hinge" polycoef="0 0 0 0 0"/>
  </equality>
  <actuator>
    <pid name="two" joint="hinge"/><orientation name="three" joint="ball"/>
    <motor name="knee" joint="hinge" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
""")


def test_an_actuators_name_stands_for_the_rows_of_its_controls_or_outputs():
    """The first has two controls, the second three outputs: their rows are not the actuators' numbers."""

    def rows(field, name, **options):
        dimension = TaskDimension("t", 0.0, 10.0, (Edit(field, "set", name, **options),))
        new = np.asarray(make_apply_task(SEVERAL, (dimension,))(jnp.array([7.0]))[field])
        return sorted(set(np.argwhere(new == 7.0)[:, 0].tolist()))

    assert SEVERAL.nactuator < SEVERAL.nout < SEVERAL.nu
    assert rows("actuator_ctrlrange", "knee") == [SEVERAL.nu - 1]
    assert rows("actuator_gear", "knee", column=0) == [SEVERAL.nout - 1]
    assert rows("actuator_gear", "three", column=0) == [1, 2, 3]
    assert rows("actuator_gainprm", "knee", column=0) == [2]
    assert rules.row_name(SEVERAL, "actuator_gear", SEVERAL.nout - 1) == "'knee'"
    with pytest.raises(ValueError, match="an edit of actuator_ctrlrange of 'three' would do nothing"):
        rows("actuator_ctrlrange", "three")


@pytest.mark.parametrize(
    ("field", "row", "column"),
    [("geom_quat", "rod", 2), ("body_quat", "pole", 1), ("body_iquat", "pole", 3), ("jnt_axis", "hinge", 0)],
)
def test_edited_directions_have_length_1_as_after_compilation(field, row, column):
    new = np.asarray(leaves(Edit(field, "add", row, column), task=0.5)[field])
    old = np.array(getattr(MODEL, field))
    at = getattr(MODEL, {"geom": "geom", "body": "body", "jnt": "joint"}[field.split("_")[0]])(row).id
    old[at, column] += 0.5
    old[at] /= np.linalg.norm(old[at])
    np.testing.assert_allclose(new, old, atol=1e-7)
    assert (new[at] != getattr(MODEL, field)[at]).any()


def test_the_orientation_of_a_weld_has_length_1_and_other_constraints_keep_their_data():
    dimension = TaskDimension("t", -9.0, 9.0, (Edit("eq_data", "add", column=7),))
    new = np.asarray(make_apply_task(SEVERAL, (dimension,))(jnp.array([1.0]))["eq_data"])
    np.testing.assert_allclose(new[0, 6:10], np.array([1, 1, 0, 0]) / np.sqrt(2), atol=1e-7)
    np.testing.assert_allclose(new[0, :6], SEVERAL.eq_data[0, :6], atol=1e-7)
    assert new[1, 7] == 1.0


def test_a_direction_of_length_0_stays_finite():
    new = np.asarray(leaves(Edit("jnt_axis", "scale", "hinge"), task=0.0)["jnt_axis"])
    assert np.isfinite(new).all()


def test_edits_of_one_field_compose_in_order():
    dimensions = (
        TaskDimension("factor", 0.5, 2.0, (Edit("body_mass", "scale", "cart"),)),
        TaskDimension("load", 0.0, 9.0, (Edit("body_mass", "add", "cart"), Edit("body_mass", "set", "pole"))),
    )
    mass = make_apply_task(MODEL, dimensions)(jnp.array([1.5, 7.0]))["body_mass"]
    np.testing.assert_allclose(mass, [0.0, 2 * 1.5 + 7, 7.0, 0.1], rtol=1e-6)
    mass = make_apply_task(MODEL, dimensions[::-1])(jnp.array([7.0, 1.5]))["body_mass"]
    np.testing.assert_allclose(mass, [0.0, (2 + 7) * 1.5, 7.0, 0.1], rtol=1e-6)


@pytest.mark.parametrize(("derived", "follows"), [("consistent", 2.0), ("stale", 1.0)])
def test_the_inertia_of_one_body_does_not_keep_the_others_from_following_their_masses(derived, follows):
    dimensions = (
        TaskDimension("size", 0.5, 9.0, (Edit("body_inertia", "scale", "cart"), Edit("body_mass"))),
        TaskDimension("pole", 0.5, 9.0, (Edit("body_mass", "scale", "pole"),)),
    )
    inertia = make_apply_task(MODEL, dimensions, derived)(jnp.array([2.0, 3.0]))["body_inertia"]
    factors = np.array([1.0, 2.0, 3 * follows if derived == "consistent" else 1.0, follows])
    np.testing.assert_allclose(inertia, MODEL.body_inertia * factors[:, None], rtol=1e-6)


def test_columns_of_set_and_an_edit_of_several_numbers_at_once():
    size = changed("geom_size", Edit("geom_size", "scale", "rod"))
    assert size == {(2, 0): pytest.approx(0.04), (2, 1): pytest.approx(0.5)}


WRONG = {
    "field": ((Edit("body_mas"),), "a model has no field 'body_mas'; did you mean 'body_mass'?"),
    "part": ((Edit("opt.gravty"),), "a model has no field 'opt.gravty'; did you mean 'opt.gravity'?"),
    "method": ((Edit("geom"),), "a model has no field 'geom'"),
    "name": (
        (Edit("body_mass", rows="poll"),),
        "the model has no body named 'poll'; did you mean 'pole'? (it has world, cart, pole, lantern)",
    ),
    "joint": (
        (Edit("dof_damping", rows="hing"),),
        "the model has no joint named 'hing'; did you mean 'hinge'? (it has rail, lift, hinge, ball)",
    ),
    "nameless": ((Edit("opt.gravity", rows="z"),), "rows of opt.gravity have no names"),
    "row": ((Edit("body_mass", rows=4),), "body_mass has 4 rows; row 4 does not exist"),
    "no rows": ((Edit("body_mass", rows=()),), "an edit of body_mass has an empty list of rows"),
    "column": ((Edit("geom_size", column=3),), "geom_size of shape (4, 3) has no column 3"),
    "flat": ((Edit("body_mass", column=0),), "body_mass of shape (4,) has no column 0"),
    "scalar": ((Edit("opt.density", rows=0),), "opt.density is a single number"),
    "integer": ((Edit("body_parentid"),), "a task cannot edit body_parentid: it is constant"),
    "option": ((Edit("opt.iterations"),), "a task cannot edit opt.iterations: it is constant"),
    "timestep": ((Edit("opt.timestep"),), "a task cannot edit opt.timestep: it is constant"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_edited_is_one_line(case):
    edits, line = WRONG[case]
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        cart((TaskDimension("t", 0.0, 1.0, edits),))
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


DIMENSIONS = {
    "range": ({"low": 1.0, "high": 1.0}, "finite range with low < high, got [1.0, 1.0]"),
    "log": ({"low": 0.0, "high": 1.0, "scale": "log"}, "on a log scale needs low > 0, got 0.0"),
    "scale": ({"low": 0.0, "high": 1.0, "scale": "logarithmic"}, "scale must be one of linear, log"),
    "edits": ({"low": 0.0, "high": 1.0, "edits": Edit("body_mass")}, "must be a tuple: (Edit(...),)"),
}


@pytest.mark.parametrize("case", DIMENSIONS)
def test_dimensions_that_cannot_be(case):
    options, line = DIMENSIONS[case]
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        TaskDimension("t", **options)
    assert line in str(error.value)
    assert "'t'" in str(error.value)


def test_ways_of_editing_and_names_that_cannot_be():
    with pytest.raises(ValueError, match=r"edit of body_mass.how must be one of scale, set, add, got 'mul'"):
        Edit("body_mass", "mul")
    mass = TaskDimension("mass", 0.5, 2.0)
    for tasks in ((), (mass, mass)):
        with pytest.raises(ValueError, match="one distinct name per dimension"):
            family(tasks)
