"""Recomputed model constants against MuJoCo's own ``mj_setConst``."""

import copy
import warnings
from importlib import resources

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from roml_jax.envs.physics import derived
from roml_jax.quiet import mjx

OPTIMISED = True

LINKS = """
<mujoco>
  <option><flag contact="disable"/></option>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <site name="ceiling" pos="0 0 2"/>
    <body name="arm" pos="0 0 1">
      <joint name="shoulder" type="ball" armature="0.02"/>
      <geom name="upper" type="capsule" fromto="0 0 0 0.3 0.1 0" size="0.04"/>
      <site name="elbow" pos="0.3 0.1 0.05"/>
      <body name="rail" pos="0.3 0.1 0">
        <joint name="out" type="slide" axis="1 0 1" armature="0.1" pos="0.02 0 0"/>
        <joint name="turn" type="hinge" axis="0 1 0.3" pos="-0.05 0.01 0" ref="20"/>
        <geom type="box" size="0.1 0.05 0.03" pos="0.05 0.02 0" euler="10 20 30"/>
        <site name="hand" pos="0.2 0 0.1"/>
      </body>
    </body>
    <body name="other" pos="-0.5 0 1">
      <joint name="lift" type="slide" axis="0 0 1"/>
      <joint name="spin" axis="1 0 0" ref="30"/>
      <geom type="ellipsoid" size="0.1 0.05 0.2" pos="0 0.1 0"/>
      <site name="tip" pos="0 0.3 0.1"/>
    </body>
    <geom name="drum" type="cylinder" size="0.1 0.2" pos="0 0.15 1.5" euler="90 0 0"/>
  </worldbody>
  <tendon>
    <fixed name="coupling" armature="0.05">
      <joint joint="out" coef="0.7"/><joint joint="turn" coef="-1.3"/>
    </fixed>
    <spatial name="rope"><site site="elbow"/><geom geom="drum"/><site site="tip"/></spatial>
    <spatial name="pulled">
      <site site="ceiling"/><site site="hand"/><pulley divisor="2"/><site site="hand"/><site site="tip"/>
    </spatial>
  </tendon>
  <equality>
    <connect body1="rail" body2="other" anchor="0.1 0.2 0"/>
    <weld body1="arm" body2="other" anchor="0.1 0 0.2"/>
    <weld body1="arm" body2="rail" relpose="0.3 0.2 0 0.6 0.8 0 0"/>
    <weld site1="hand" site2="tip"/>
    <joint joint1="turn" joint2="spin"/>
  </equality>
  <actuator>
    <motor joint="turn" gear="3"/>
    <motor joint="shoulder" gear="1 2 3"/>
    <motor tendon="coupling" gear="2"/>
    <position tendon="pulled" kp="10"/>
    <motor site="hand" gear="1 0 0 0 0.5 0"/>
  </actuator>
</mujoco>
"""

STATIC = """
<mujoco>
  <worldbody>
    <body name="table" pos="1 0 0">
      <geom type="box" size="0.3 0.3 0.1"/>
      <body name="bolted" pos="0 0 0.2" euler="0 30 0"><geom type="sphere" size="0.1"/></body>
      <body name="lever" pos="0 0.2 0.3">
        <joint axis="0 1 0" armature="0.01"/>
        <geom type="capsule" size="0.03 0.2"/>
        <body name="welded" pos="0.1 0 0"><geom type="sphere" size="0.05"/></body>
      </body>
    </body>
    <body name="weightless" pos="0 0 0.5"><site/></body>
    <body name="target" mocap="true" pos="0 1 0.5"><geom size="0.1"/></body>
    <body name="free" pos="0 0 1"><freejoint/><geom type="box" size="0.1 0.2 0.3"/></body>
    <geom type="plane" size="1 2 0.1"/>
    <body name="puck" pos="0 0 2">
      <joint type="slide" axis="1 0 0" armature="0.3"/><joint type="slide" axis="0 1 0"/>
      <geom type="sphere" size="0.1"/>
    </body>
  </worldbody>
  <equality><connect body1="free" body2="target" anchor="0.1 0 0"/></equality>
</mujoco>
"""

NAMES = (
    "links", "static", "humanoid",
    pytest.param("half_cheetah", marks=pytest.mark.slow), pytest.param("ant", marks=pytest.mark.slow),
)  # fmt: skip
EDITED = ("body_mass", "body_inertia", "body_pos", "body_quat", "body_ipos", "dof_armature", "geom_size")


def load(name):
    if name in ("links", "static"):
        return mujoco.MjModel.from_xml_string({"links": LINKS, "static": STATIC}[name])
    path = resources.files("gymnasium") / "envs" / "mujoco" / "assets" / f"{name}.xml"
    spec = mujoco.MjSpec.from_file(str(path))
    # neither matters here, and MJX has no PGS
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*settotalmass.*")
        return spec.compile()


def edits(model):
    """Fields that tasks change, some by factors per body; every edit holds all of EDITED."""
    rng = np.random.default_rng(0)

    def factors(low=0.5, high=2.0):
        return np.exp(rng.uniform(np.log(low), np.log(high), model.nbody))

    random = factors()
    # MuJoCo refuses an inertial frame that leaves a body it compiled as simple
    offset = 0.1 * rng.normal(size=(model.nbody, 3)) * (model.body_simple == 0)[:, None]
    turn = model.body_quat + 0.2 * rng.normal(size=(model.nbody, 4))
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    changes = {
        "none": {},
        "half": {"body_mass": 0.5 * model.body_mass},
        "double": {"body_mass": 2 * model.body_mass, "body_inertia": 2 * model.body_inertia},
        "masses": {"body_mass": random * model.body_mass},
        "inertia": {"body_inertia": factors()[:, None] * model.body_inertia},
        "poses": {"body_pos": factors()[:, None] * model.body_pos, "body_quat": turn},
        "centres": {"body_ipos": model.body_ipos + offset},
        "sizes": {"geom_size": 1.5 * model.geom_size},
        "armature": {"dof_armature": model.dof_armature + rng.uniform(0, 0.5, model.nv)},
    }
    changes["all"] = {name: value for change in changes.values() for name, value in change.items()}
    originals = {name: getattr(model, name).copy() for name in EDITED}
    return {label: originals | change for label, change in changes.items()}


def by_c(model, change):
    """MuJoCo's own constants of the edited model."""
    edited = copy.copy(model)
    for name, value in change.items():
        getattr(edited, name)[:] = value
    mujoco.mj_setConst(edited, mujoco.MjData(edited))
    return edited


def assert_close(ours, theirs, rtol=1e-6):
    for name, leaf in ours.items():
        expected = getattr(theirs, name)
        np.testing.assert_allclose(leaf, expected, rtol, atol=rtol * 1e-3 * abs(expected).max(), err_msg=name)


def compiled(model):
    """(jitted set_const of edits, the model on the device, a list that grows with each trace)."""
    device_model = mjx.put_model(model, impl="jax")
    traces = []

    def set_const(change):
        traces.append(1)
        return derived.set_const(device_model.tree_replace(change))

    return set_const, device_model, traces


@pytest.mark.parametrize("name", NAMES)
def test_constants_are_mujocos(name, x64):
    model = load(name)
    set_const, _, _ = compiled(model)
    changes = edits(model)
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *changes.values())
    at_once = jax.tree.map(np.asarray, jax.jit(jax.vmap(set_const))(batch))
    stale = by_c(model, {})
    moved = set()
    for i, change in enumerate(changes.values()):
        theirs = by_c(model, change)
        assert_close({field: leaf[i] for field, leaf in at_once.items()}, theirs)
        moved |= {
            field for field in at_once if not np.allclose(getattr(theirs, field), getattr(stale, field))
        }
    # a humanoid's tendons have no length at qpos0, whatever its masses
    assert moved == set(at_once) - ({"tendon_length0"} if name == "humanoid" else set())


def test_a_batch_is_its_members_without_recompiling(x64):
    model = load("static")
    set_const, device_model, traces = compiled(model)
    changes = list(edits(model).values())[-8:]
    one = jax.jit(set_const)
    one_by_one = [one(change) for change in changes]
    at_once = jax.jit(jax.vmap(set_const))
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *changes)
    together = jax.tree.map(np.asarray, at_once(batch))
    at_once(jax.tree.map(lambda leaf: leaf[::-1], batch))
    assert len(traces) == 2
    for i, ours in enumerate(one_by_one):
        for field, leaf in ours.items():
            np.testing.assert_allclose(together[field][i], leaf, rtol=1e-9, atol=1e-12, err_msg=field)
            own = getattr(device_model, field)
            assert (leaf.shape, leaf.dtype, leaf.weak_type) == (own.shape, own.dtype, own.weak_type), field


def test_every_constant_is_covered(x64):
    """All that MuJoCo recomputes and MJX holds, but for cameras and lights."""
    model = load("links")
    theirs = by_c(model, edits(model)["all"])
    moved = {
        name
        for name in (field.name for field in mjx.Model.fields())
        if isinstance(getattr(model, name, None), np.ndarray)
        and name not in EDITED
        and not np.array_equal(getattr(model, name), getattr(theirs, name))
    }
    ours = set(jax.eval_shape(derived.set_const, mjx.put_model(model, impl="jax")))
    # the flags are fixed in MJX, which takes no such shortcuts; the boxes it reads nowhere
    assert moved - {"body_sameframe", "geom_sameframe", "site_sameframe", "geom_aabb"} == ours


def test_single_precision_is_enough():
    model = load("half_cheetah")
    set_const, _, _ = compiled(model)
    change = edits(model)["all"]
    ours = jax.jit(set_const)(jax.tree.map(jnp.float32, change))
    assert_close(ours, by_c(model, change), rtol=2e-4)
    assert all(leaf.dtype == jnp.float32 for leaf in ours.values())


def test_inertia_follows_a_new_density(x64):
    model = load("static")
    device_model = mjx.put_model(model, impl="jax")
    consistent = jax.jit(lambda change: derived.consistent(device_model, change))
    mass, inertia = 3 * model.body_mass, 3 * model.body_inertia
    leaves = consistent({"body_mass": mass})
    np.testing.assert_allclose(leaves["body_mass"], mass)
    np.testing.assert_allclose(leaves["body_inertia"], inertia)
    assert_close(leaves, by_c(model, {"body_mass": mass, "body_inertia": inertia}))
    # unless the task says what the inertia is
    leaves = consistent({"body_mass": mass, "body_inertia": model.body_inertia.copy()})
    assert_close(leaves, by_c(model, {"body_mass": mass}))


def test_a_body_without_mass_keeps_its_inertia():
    mass, inertia = np.array([0.0, 2.0, 0.0]), np.array([[0.0, 0, 0], [1, 2, 3], [4, 5, 6]])
    scaled = jax.jit(derived.inertia_scaled)(mass, inertia, np.array([0.0, 3.0, 7.0]))
    np.testing.assert_allclose(scaled, [[0, 0, 0], [1.5, 3, 4.5], [4, 5, 6]])


def test_other_implementations_are_refused():
    class Warp:
        impl = mjx.Impl.WARP

    with pytest.raises(ValueError, match="jax implementation, got warp"):
        derived.set_const(Warp())
