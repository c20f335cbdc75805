"""The check of an environment: edits that do nothing, values that cannot be, engines that are wrong."""

import io
import itertools
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from rich.console import Console

from roml_jax import envs
from roml_jax.envs import Edit, TaskDimension, TaskEnv, base, door
from roml_jax.envs import __main__ as command
from roml_jax.envs.door import contacts, examine, explain, oracle, rules

# A hinge box far above the floor, a crate whose contact with the floor is an explicit pair, a puck on a floor
# tile of higher priority, a marble, a wedge that is a mesh, a mocap target.
SCENE = """
<mujoco>
  <option timestep="0.002"/>
  <asset><mesh name="wedge" vertex="0 0 0 .3 0 0 0 .3 0 0 0 .3"/></asset>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1"/>
    <geom name="tile" type="plane" size="5 5 .1" pos="0 0 -.01" priority="1" contype="2" conaffinity="2"/>
    <body name="arm" pos="0 0 2">
      <joint name="hinge" axis="0 1 0" damping="0.1"/>
      <geom name="box" type="box" size=".2 .1 .02" pos=".3 0 0" mass="1" contype="0" conaffinity="0"/>
    </body>
    <body name="crate" pos="0 1 .2">
      <freejoint/><geom name="crate" type="box" size=".1 .1 .1" mass="1" conaffinity="0"/>
    </body>
    <body name="puck" pos="0 2 .1">
      <freejoint/><geom name="puck" size=".1" mass="1" contype="2" conaffinity="0"/>
    </body>
    <body name="marble" pos="0 3 .1">
      <freejoint/><geom name="marble" size=".1" mass="1" conaffinity="0"/>
    </body>
    <body name="wedge" pos="0 4 .1">
      <freejoint/><geom name="wedge" type="mesh" mesh="wedge" conaffinity="0"/>
    </body>
    <body name="target" mocap="true" pos="0 5 1">
      <geom name="target" size=".1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <contact><pair name="crate_floor" geom1="crate" geom2="floor"/></contact>
  <actuator><motor name="motor" joint="hinge" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


def scene(*tasks, **options):
    options = {"engine": "mujoco", "frame_skip": 5, "reward": angle, "check": False} | options
    return TaskEnv.from_mjcf(SCENE, tasks=tasks, **options)


def angle(motion):
    return {"angle": motion.after.qpos[0]}


def dimension(edit, low=0.5, high=2.0, **more):
    return TaskDimension(f"{edit.field} {edit.rows}", low, high, (edit,), **more)


DEAD = {
    Edit("geom_friction", rows="crate"): "its contacts are those of the explicit pair 'crate_floor'; edit "
    "pair_friction",
    Edit("geom_friction", rows="puck"): "geoms that it touches have a higher priority ('tile'); edit "
    "geom_friction of those",
    Edit("geom_friction", rows="marble", column=2): "contacts of condim 3 do not read column 2; raise condim "
    "in the model",
    Edit("geom_friction", rows="target"): "the geom touches nothing (contype and conaffinity, excluded or "
    "parent bodies)",
    Edit("geom_size", rows="wedge"): "a mesh's shape is its vertices, and geom_size only describes it; scale "
    "the mesh in the model",
    Edit("geom_size", rows="floor"): "a plane is infinite, and its size is for rendering only",
    Edit("geom_size", "add", "marble", 1): "a sphere reads only the first 1 column",
    Edit("geom_size", rows="box"): "the geom touches nothing, and geom_size changes no mass; edit body_mass "
    "and body_inertia",
    Edit("body_pos", "add", "marble"): "the body has a free joint, so its pose is in qpos; set it in start",
    Edit("geom_rgba"): "the field is for rendering only",
    Edit("dof_frictionloss"): "the original values are 0, and 0 times the task is 0; use how='add' or 'set'",
    Edit("qpos_spring", "add", "hinge"): "jnt_stiffness is 0 there",
    Edit("body_mass", "add", "target"): "the body cannot move",
    Edit("jnt_axis", rows="hinge"): "it leaves the direction as it is, and its length is 1",
    Edit("actuator_biasprm", "set"): "the actuator has no bias (biastype none)",
}


@pytest.fixture(scope="module")
def dead_scene():
    return scene(*map(dimension, DEAD))


def test_an_edit_that_does_nothing_is_told_with_its_reason_and_cure(dead_scene):
    errors = door.check(dead_scene).of("error")
    found = {line.split("'")[1]: line.split(" changes nothing: ")[1] for line in errors}
    assert found == {dimension(edit).name: reason for edit, reason in DEAD.items()}


def test_without_its_rules_the_check_still_tells_what_does_nothing(dead_scene, monkeypatch):
    monkeypatch.setattr(rules, "why_dead", lambda model, change: None)
    monkeypatch.setattr(rules, "dead_rows", lambda model, change: {})
    monkeypatch.setattr(examine, "_CONDITIONAL", ())
    report = door.check(dead_scene)
    told = {line.split("'")[1] for line in report.of("warning") if "changes nothing" in line}
    assert told == {dimension(edit).name for edit in DEAD}


IMPOSSIBLE = {
    (Edit("body_mass", "add", "arm"), -2.0, 1.0): "body_mass of 'arm' is -1 and must not be negative",
    (Edit("body_mass", rows="crate"), 0.0, 1.0): "body_mass of 'crate' is 0 and must be positive",
    (Edit("geom_size", rows="crate"), 0.0, 1.0): "geom_size of 'crate' is 0 and must be positive",
    (
        Edit("dof_damping", "add", "hinge"),
        -1.0,
        1.0,
    ): "dof_damping of 'hinge' is -0.9 and must not be negative",
    (Edit("body_inertia", rows="puck"), -1.0, 1.0): "body_inertia of 'puck' is -0.004 and must be positive",
    (Edit("opt.density", "set"), -1.0, 1.0): "opt.density is -1 and must not be negative",
    (Edit("actuator_ctrlrange", "set", column=1), -2.0, 1.0): "actuator_ctrlrange of 'motor' is empty: "
    "[-1.0, -2.0]",
}


MOTOR = '<motor name="motor" joint="hinge" ctrllimited="true" ctrlrange="-1 1"/>'
SERVOS = """
    <position name="servo" joint="hinge" kp="5"/>
    <velocity name="brake" joint="hinge" kv="2"/>
    <muscle name="biceps" joint="hinge" lengthrange="-1 1"/>
    <muscle name="triceps" joint="hinge" lengthrange="-1 1" force="20"/>
"""
SURPRISES = {
    (Edit("actuator_gear", rows="servo", column=0),): "'servo' is a servo: a gear of g moves its target",
    (Edit("actuator_gear", rows="brake", column=0),): "'brake' is a servo: a gear of g moves its target",
    (
        Edit("actuator_gainprm", rows="servo", column=0),
    ): "'servo' is a servo: its gain alone moves its target",
    (Edit("actuator_gear", rows="biceps", column=0),): "'biceps' is a muscle of force -1: MuJoCo chooses",
    (Edit("actuator_gear", rows="triceps", column=0),): None,
    (Edit("actuator_gear", rows="motor", column=0),): None,
    (Edit("actuator_gainprm", rows="motor", column=0),): None,
    (
        Edit("actuator_gainprm", rows="biceps", column=3),
        Edit("actuator_biasprm", rows="biceps", column=3),
    ): None,
    (Edit("actuator_gainprm", rows="servo", column=0), Edit("actuator_biasprm", rows="servo")): None,
}


@pytest.mark.parametrize(
    "edits", SURPRISES, ids=lambda edits: f"{edits[0].field}-{edits[0].rows}-{len(edits)}"
)
def test_edits_that_make_a_servo_or_a_muscle_no_weaker_are_told(edits):
    source = SCENE.replace(MOTOR, MOTOR + SERVOS)
    assert source != SCENE
    env = TaskEnv.from_mjcf(
        source, tasks=(TaskDimension("weak", 0.5, 0.9, edits),), engine="mujoco", reward=angle, check=False
    )
    said, expected = door.check(env), SURPRISES[edits]
    assert not said.of("error")
    lines = [line for line in said.of("warning") if "servo" in line or "muscle" in line]
    assert len(lines) == (expected is not None)
    assert all(line.startswith(f"task 'weak': {expected}") for line in lines)


def test_values_that_cannot_be_are_told_before_anything_is_stepped():
    env = scene(*itertools.starmap(dimension, IMPOSSIBLE))
    found = {line.split("'")[1]: line.split("': ", 1)[1] for line in door.check(env).of("error")}
    for (edit, *_), text in IMPOSSIBLE.items():
        assert found[f"{edit.field} {edit.rows}"] == f"{text} at the low end of the range"


ALIVE = (
    dimension(Edit("body_mass")), dimension(Edit("geom_friction", rows="marble", column=0)),
    dimension(Edit("pair_friction")), dimension(Edit("opt.density", "set"), 0.0, 1000.0),
    dimension(Edit("dof_frictionloss", "set", "hinge"), 0.0, 1.0), dimension(Edit("opt.gravity")),
    dimension(Edit("body_gravcomp", "set", "arm"), 0.0, 1.0), dimension(Edit("actuator_gear", column=0)),
    dimension(Edit("dof_damping", "add", "hinge")), dimension(Edit("geom_rgba"), inert=True),
)  # fmt: skip


@pytest.fixture(scope="module")
def alive():
    """An environment of whose edits all act but one, which is declared; and its report."""
    env = scene(*ALIVE)
    return env, door.check(env)


def test_edits_that_act_pass_without_a_word(alive):
    report = alive[1]
    assert report.passed
    assert report.of("warning") == ()
    moved = {row.dimension: row.moved for row in report.rows if row.end.startswith("high")}
    assert all(
        moved[task.name]["qvel"] > 0 for task in ALIVE if not task.inert and "body_pos" not in task.name
    )
    # single precision is the only difference from plain MuJoCo
    assert 0 < max(row.difference for row in report.rows) < 1e-4


def test_friction_that_does_not_reach_an_explicit_pair_is_a_warning():
    report = door.check(scene(dimension(Edit("geom_friction"))))
    assert report.passed
    assert report.of("warning") == (
        "task 'geom_friction None': geom_friction does not reach the explicit pair 'crate_floor'; edit "
        "pair_friction, too",
    )


def test_the_larger_friction_is_used():
    report = door.check(scene(dimension(Edit("geom_friction", rows="marble"), 0.2, 0.9)))
    (line,) = report.of("error")
    assert line.endswith("a contact uses the larger friction of its two geoms, that of 'floor'; edit both")


# Engines that are wrong on purpose.


def broken(env, **functions):
    return replace(env, physics=env.physics._replace(**functions))


def test_an_engine_that_drops_an_edit_is_found_with_the_field(alive):
    """As MJX did with fields that are zero in the model (fault 1)."""
    env, prepare = alive[0], alive[0].physics.prepare
    dropped = ("dof_frictionloss", "opt.density", "body_gravcomp")

    def forgets(leaves):
        return prepare({name: leaf for name, leaf in leaves.items() if name not in dropped})

    errors = door.check(broken(env, prepare=forgets)).of("error")
    assert {next(field for field in dropped if field in line) for line in errors} == set(dropped)
    assert all("differs from plain MuJoCo by" in line and "edited (high end)" in line for line in errors)


def test_an_engine_that_drops_a_feature_of_the_model_is_found():
    """As MJX did with what is newer than it (fault 2)."""
    env = scene(dimension(Edit("body_mass")))
    reduced = mujoco.MjModel.from_xml_string(SCENE.replace('damping="0.1"', ""))
    wrong = envs.physics.make("mujoco", reduced, 5, (), "consistent")
    (line,) = door.check(broken(env, prepare=wrong.prepare, reset=wrong.reset, step=wrong.step)).of("error")
    assert "in qvel of joint 'hinge' after a control step of the unedited model" in line


def test_an_engine_that_fails_at_an_edit_is_one_line_with_the_field():
    """As the C engine did with the center of mass of a simple body (fault 3)."""
    env = scene(dimension(Edit("body_mass", rows="arm")), dimension(Edit("dof_damping", rows="hinge")))

    def refuse(mass):
        if mass > 1.5:
            raise ValueError("body 1 is compiled as simple")
        return mass

    def fails(state, ctrl, leaves, *frozen):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        mass = jax.pure_callback(refuse, shape, leaves["body_mass"][1], vmap_method="sequential")
        return env.physics.step(state, ctrl + 0 * mass, leaves, *frozen)

    errors = door.check(broken(env, step=fails)).of("error")
    assert errors == (
        "task 'body_mass arm': the engine cannot step the model with its edit of body_mass: ValueError: "
        "body 1 is compiled as simple",
    )


def test_a_clamp_to_the_unedited_range_is_found():
    """As ``TaskEnv.step`` did (fault 4)."""
    env = scene(dimension(Edit("actuator_ctrlrange")))
    own = env.physics.step

    def clamps(state, ctrl, leaves, *frozen):
        return own(state, jnp.clip(ctrl, -1.0, 1.0), leaves, *frozen)

    (line,) = door.check(broken(env, step=clamps)).of("error")
    assert "with actuator_ctrlrange edited" in line


def test_an_engine_that_remembers_the_episode_before_is_found():
    """As the C engine did with plastic springs (fault 8)."""
    env, seen = scene(dimension(Edit("body_mass"))), itertools.count()

    def remembers(state, ctrl, leaves, *frozen):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        worn = jax.pure_callback(
            lambda _: np.float32(1e-6 * next(seen)), shape, ctrl[0], vmap_method="sequential"
        )
        return env.physics.step(state, ctrl + worn, leaves, *frozen)

    errors = door.check(broken(env, step=remembers)).of("error")
    assert any("the same episodes gave other numbers the second time" in line for line in errors)


ZERO_IN_THE_MODEL = {
    "dof_frictionloss": 1.0,
    "body_gravcomp": 0.5,
    "opt.density": 1000.0,
    "opt.viscosity": 5.0,
}
HINGE = """
<mujoco><option timestep="0.002"/><worldbody><body><joint name="hinge" axis="0 1 0" {joint}/>
<geom type="box" size=".2 .1 .02" pos=".3 0 0" mass="1"/></body></worldbody>
<actuator><motor joint="hinge" {motor}/></actuator></mujoco>
"""


def refused_or_right(xml, edit, low, high):
    """Whether MJX refuses the environment in one line, or its steps are MuJoCo's."""
    task = TaskDimension("task", low, high, (edit,))
    try:
        env = TaskEnv.from_mjcf(xml, tasks=(task,), reward=angle, engine="mjx", check=False, frame_skip=5)
    except ValueError as error:
        return "\n" not in str(error)
    return door.check(env).passed


@pytest.mark.slow
@pytest.mark.parametrize("field", ZERO_IN_THE_MODEL)
def test_mjx_simulates_or_refuses_an_edit_of_what_is_zero(field):
    edit = Edit(field, "set")
    assert refused_or_right(HINGE.format(joint="", motor=""), edit, 0.0, ZERO_IN_THE_MODEL[field])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("joint", "motor"),
    [('stiffness="30" springyield="2"', ""), ("", 'damping="2"'), ('damping=".1 .2"', "")],
)
def test_mjx_simulates_or_refuses_what_is_newer_than_it(joint, motor):
    assert refused_or_right(HINGE.format(joint=joint, motor=motor), Edit("body_mass"), 0.5, 2.0)


def test_a_contact_that_mjx_leaves_out_is_named():
    """Of a tilted box on a plane, MJX keeps only the corners within 1 mm of the deepest."""
    xml = """<mujoco><worldbody><geom name="floor" type="plane" size="1 1 1"/>
    <body pos="0 0 .098"><freejoint/><geom name="crate" type="box" size=".1 .1 .1"/></body>
    </worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    qpos = np.array(model.qpos0)
    qpos[3:] = np.cos(0.004), 0, np.sin(0.004), 0  # 1.6 mm between the edges
    situation = explain.Situation(qpos, np.zeros(6), np.zeros(0), np.zeros(0), 1)
    reason = explain.why(model, situation, tolerance=0.1)
    assert reason == "contacts between geoms 'floor' and 'crate': 2 in MJX, 4 in MuJoCo"


# What the check stands on.

COMPILED = {
    # field: (row, value) and how the same is written in the model's file
    "body_ipos": (1, (0.1, 0.02, 0.05), ('<inertial pos="0 0 0"', '<inertial pos=".1 .02 .05"')),
    "geom_pos": (1, (0.0, 0.0, 0.05), ('pos="0 0 0.07"', 'pos="0 0 .05"')),
    "dof_damping": (0, 3.0, ('damping="1"', 'damping="3"')),
}


@pytest.mark.parametrize("field", COMPILED)
def test_an_edited_copy_is_the_compiled_model(field):
    """Also of a body that was compiled as simple, and a geom whose frame was its body's."""
    row, value, (old, new) = COMPILED[field]
    xml = """<mujoco><worldbody><geom type="plane" size="1 1 1"/><body pos="0 0 .2">
    <joint axis="0 1 0" damping="1"/><joint type="slide" axis="0 0 1"/>
    <inertial pos="0 0 0" mass="1" diaginertia=".01 .02 .015"/>
    <geom type="box" size=".1 .1 .1" pos="0 0 0.07"/></body></worldbody></mujoco>"""
    assert old in xml
    base_model = mujoco.MjModel.from_xml_string(xml)
    leaf = oracle.field_of(base_model, field).copy()
    leaf[row] = value
    edited = oracle.edited(base_model, {field: leaf})
    wanted = mujoco.MjModel.from_xml_string(xml.replace(old, new))
    ends = []
    for model in (edited, wanted):
        data = mujoco.MjData(model)
        data.qvel[:] = 1.0
        mujoco.mj_step(model, data, 200)
        ends.append(data.qpos.copy())
    np.testing.assert_allclose(*ends, atol=1e-12)


def test_what_a_geom_can_touch_is_what_mujoco_lets_touch():
    """Spheres in one place: their contacts are all that the model allows."""
    xml = """<mujoco><worldbody><geom name="world" size="1"/>
    <body name="a"><freejoint/><geom size="1"/><geom size="1" contype="2"/>
      <body name="b"><joint/><geom size="1"/><body name="c"><geom size="1"/>
        <body name="d"><joint/><geom size="1"/></body></body></body></body>
    <body name="e"><freejoint/><geom name="e" size="1" conaffinity="2"/></body>
    <body name="f"><joint/><geom name="f" size="1"/></body>
    <body name="g"><freejoint/><geom size="1" contype="0" conaffinity="0"/></body>
    </worldbody><contact><exclude body1="a" body2="f"/><pair geom1="world" geom2="e"/></contact></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    explicit = {tuple(sorted(pair)) for pair in zip(model.pair_geom1, model.pair_geom2, strict=True)}
    touching = {tuple(sorted(map(int, contact.geom))) for contact in data.contact} - explicit
    allowed = {
        tuple(sorted((geom, other)))
        for geom in range(model.ngeom)
        for other in contacts.partners(model, geom).dynamic
    }
    assert allowed == touching
    assert len(allowed) > 5


# At the door, and as a command.


def test_an_environment_with_a_dead_edit_is_refused_in_one_line():
    task = dimension(Edit("geom_friction", rows="crate"))
    with pytest.raises(ValueError, match=r"^robot: .* changes nothing: .*; edit pair_friction$") as caught:
        scene(task, check=True)
    assert "\n" not in str(caught.value)
    scene(task, check=False)


def test_a_doubtful_edit_is_warned_of_once():
    hinged = HINGE.format(joint="", motor="")
    # along the hinge's axis, the center of mass makes no difference
    task = TaskDimension("along", 0.0, 0.1, (Edit("body_ipos", "add", 1, 1), Edit("body_mass", "add", 1)))
    with pytest.warns(UserWarning, match="changes nothing in 32 states") as caught:
        TaskEnv.from_mjcf(hinged, tasks=(task,), reward=angle, engine="mujoco")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TaskEnv.from_mjcf(hinged, tasks=(replace(task, inert=True),), reward=angle, engine="mujoco")


def test_what_only_a_critic_sees_is_checked_too():
    hinged = HINGE.format(joint="", motor="")

    def report(mass):
        env = TaskEnv.from_mjcf(
            hinged, tasks=(dimension(Edit("body_mass")),), reward=angle, engine="mujoco", check=False,
            privileged={"mass": mass},
        )  # fmt: skip
        return door.check(env)

    fine, odd = report(lambda view: view.task), report(lambda view: jnp.log(view.task - 1.0))
    assert fine.parts[-1] == door.Part("mass (critic)", 0.5, 2.0, True)
    assert fine.passed
    assert not odd.parts[-1].finite
    assert not odd.passed


@pytest.mark.parametrize("width", [80, 160])
def test_the_report_fits_the_terminal(alive, width):
    stream = io.StringIO()
    door.show(Console(file=stream, width=width), alive[1])
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.rstrip().endswith("passed")
    assert "declared" in text


@pytest.fixture
def registered():
    names = []

    def register(name, constructor):
        names.append(name)
        envs.register(name, constructor)

    yield register
    for name in names:
        base._registry._constructors.pop(name)


def test_the_command_says_by_its_exit_code_what_it_found(registered, capsys):
    registered("door_good", lambda: scene(dimension(Edit("body_mass")), check=True))
    registered("door_bad", lambda: scene(dimension(Edit("geom_rgba")), check=True))
    assert command.main(["door_good", "--check"]) == 0
    out = capsys.readouterr().out
    assert "body_mass None" in out
    assert "velocity" in out
    assert command.main(["door_bad", "--check"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "changes nothing: the field is for rendering only" in out
    assert command.main(["door_goof", "--check"]) == 2
    assert command.main(["khazad_dum", "--check", "--physics", "mjx"]) == 2
    assert "khazad_dum has no physics engine: leave out --physics" in capsys.readouterr().err
