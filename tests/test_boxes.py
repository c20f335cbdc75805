"""Refreshed collision boxes against freshly compiled models, and the contacts that they let through."""

import copy
import warnings
from importlib import resources

import mujoco
import numpy as np
import pytest

from roml_jax.envs.physics import boxes

BOXES = ("geom_rbound", "geom_aabb", "bvh_aabb")
SHAPES = """
<mujoco>
  <worldbody>
    <geom type="plane" size="1 1 0.1" euler="0 5 0"/>
    <body pos="0 0 1">
      <joint axis="0 1 0"/>
      <inertial pos="0.1 0.2 0.3" mass="1" diaginertia="1 1 1" euler="20 30 40"/>
      <geom type="sphere" size="0.1" pos="0.3 0 0"/>
      <geom type="capsule" size="0.1 0.2" pos="-0.5 0.5 0" euler="10 20 30"/>
      <geom type="ellipsoid" size="0.1 0.2 0.3" pos="0 0 0.9" euler="40 20 30"/>
      <geom type="cylinder" size="0.1 0.2" pos="0.1 1.4 0" euler="10 50 30"/>
      <geom type="box" size="0.1 0.2 0.3" pos="2 0.3 0.1" euler="10 20 60"/>
      <geom type="box" size="0.5 0.5 0.5" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
</mujoco>
"""


def spec_of(name):
    if name == "shapes":
        return mujoco.MjSpec.from_string(SHAPES)
    path = resources.files("gymnasium") / "envs" / "mujoco" / "assets" / f"{name}.xml"
    return mujoco.MjSpec.from_file(str(path))


def compiled(spec):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*settotalmass.*")
        return spec.compile()


def thickened(name, factor=2.0):
    """(a model whose geoms are thicker than its boxes know, the original)."""
    original = compiled(spec_of(name))
    edited = copy.copy(original)
    edited.geom_size[1:, 0] *= factor
    return edited, original


def recompiled(model, name):
    """The same edited geometry compiled anew, with the inertial frames that the edit left alone."""
    spec = spec_of(name)
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_FALSE
    spec.compiler.settotalmass = -1
    for geom, size, pos, quat in zip(
        spec.geoms, model.geom_size, model.geom_pos, model.geom_quat, strict=True
    ):
        geom.size, geom.pos, geom.quat = size, pos, quat
        geom.fromto = np.full(6, np.nan)
    for i, body in enumerate(spec.bodies):
        body.explicitinertial = i > 0
        body.mass, body.inertia = model.body_mass[i], model.body_inertia[i]
        body.ipos, body.iquat = model.body_ipos[i], model.body_iquat[i]
    return compiled(spec)


@pytest.mark.parametrize("name", ["shapes", "half_cheetah", "humanoid", "ant"])
def test_boxes_are_the_compilers(name):
    edited, original = thickened(name, 1.1)
    scratch = boxes.make_scratch(original)
    fresh = recompiled(edited, name)
    np.testing.assert_array_equal(fresh.bvh_child, edited.bvh_child)
    np.testing.assert_array_equal(fresh.bvh_nodeid, edited.bvh_nodeid)
    assert all(not np.allclose(getattr(edited, field), getattr(fresh, field)) for field in BOXES)
    for refresh in (boxes.refresh_stale, boxes.set_const_c):
        model = copy.copy(edited)
        refresh(model, scratch)
        for field in BOXES:
            # planes reach to 1e10, so the tolerance is relative as well
            np.testing.assert_allclose(getattr(model, field), getattr(fresh, field), 1e-12, 1e-9)


def test_stale_keeps_everything_else():
    edited, original = thickened("humanoid")
    edited.body_mass[:] *= 2
    before = copy.copy(edited)
    boxes.refresh_stale(edited, boxes.make_scratch(original))
    changed = {
        name
        for name in dir(edited)
        if isinstance(getattr(edited, name), np.ndarray)
        and not np.array_equal(getattr(edited, name), getattr(before, name))
    }
    assert changed == {*BOXES, "body_subtreemass"}
    np.testing.assert_allclose(edited.body_subtreemass, 2 * original.body_subtreemass)


def test_consistent_recomputes_the_weights():
    edited, original = thickened("humanoid")
    scratch = boxes.make_scratch(original)
    edited.body_mass[:] *= 2
    edited.body_inertia[:] *= 2
    edited.dof_armature[:] *= 2
    boxes.set_const_c(edited, scratch)
    np.testing.assert_allclose(edited.dof_invweight0, original.dof_invweight0 / 2)
    # a scratch that served one model serves the next
    again = copy.copy(original)
    boxes.set_const_c(again, scratch)
    for field in ("dof_invweight0", "body_invweight0", *BOXES):
        np.testing.assert_array_equal(getattr(again, field), getattr(original, field))


def contacts(model, qpos):
    """The geom pairs and distances in contact, in order."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_collision(model, data)
    return sorted((*contact.geom, *contact.pos, contact.dist) for contact in data.contact)


@pytest.mark.parametrize("name", ["half_cheetah", "humanoid"])
def test_no_contact_is_culled(name):
    edited, original = thickened(name)
    open_boxes = copy.copy(edited)
    open_boxes.geom_rbound[1:] = 10.0
    open_boxes.geom_aabb[1:, 3:] = 10.0
    open_boxes.bvh_aabb[:] = 10.0 * np.array([0, 0, 0, 1, 1, 1])
    refreshed = copy.copy(edited)
    boxes.refresh_stale(refreshed, boxes.make_scratch(original))
    rng = np.random.default_rng(0)
    total = missed = 0
    for _ in range(50):
        qpos = original.qpos0 + rng.uniform(-0.5, 0.5, original.nq)
        expected = contacts(open_boxes, qpos)
        assert contacts(refreshed, qpos) == expected
        total += len(expected)
        missed += len(expected) - len(contacts(edited, qpos))
    assert total > 50
    assert missed > 0  # with the boxes left as they were
