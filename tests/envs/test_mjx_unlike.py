"""What MJX simulates otherwise than MuJoCo: said where it is known, and refused where it is wrong at once."""

import mujoco
import numpy as np
import pytest

from roml_jax.envs import TaskDimension, TaskEnv, physics
from roml_jax.envs.door import examine
from roml_jax.envs.physics import mjx_unlike
from roml_jax.quiet import mjx

SERVO = '<position name="servo" joint="hinge" kp="200" kv="20"/>'
LIMITED = SERVO.replace("/>", ' forcerange="-5 5"/>')
MUSCLE = '<muscle name="biceps" joint="hinge" lengthrange="0.1 1"/>'
FAST = "implicitfast"


def model(actuator="", integrator=FAST, joint="", sensor="", assets=""):
    return mujoco.MjModel.from_xml_string(f"""
    <mujoco>
      <option integrator="{integrator}"/>
      <asset>{assets}</asset>
      <worldbody>
        <geom type="plane" size="5 5 0.1" contype="0" conaffinity="0"/>
        <camera name="eye" pos="0 0 2"/>
        <body name="arm" pos="0 0 1">
          <joint name="hinge" axis="0 1 0" {joint}/>
          <geom name="rod" size="0.05 0.2" type="capsule" contype="0"/>
          <site name="tip" pos="0 0 -0.3" zaxis="0 0 -1"/>
        </body>
      </worldbody>
      <actuator>{actuator}</actuator>
      <sensor>{sensor}</sensor>
    </mujoco>
    """)


@pytest.mark.parametrize(("options", "said"), [
    ({"actuator": LIMITED}, "force of actuator 'servo' is at its limit"),
    ({"actuator": SERVO, "joint": 'actuatorfrcrange="-5 5"'}, "force of actuator 'servo' is at its limit"),
    ({"actuator": MUSCLE}, "leaves out the damping of muscles, such as 'biceps'"),
    ({"actuator": SERVO}, None),
    ({"actuator": LIMITED, "integrator": "Euler"}, None),
    ({"actuator": MUSCLE, "integrator": "Euler"}, None),
    ({"actuator": '<motor joint="hinge" forcerange="-5 5"/>'}, None),
])  # fmt: skip
def test_what_is_integrated_otherwise_with_implicitfast_is_told(options, said):
    found = mjx_unlike.unlike(model(**options))
    assert (found is None) == (said is None)
    assert said is None or said in found


@pytest.mark.slow
@pytest.mark.parametrize(("actuator", "is_alike"), [(LIMITED, False), (MUSCLE, False), (SERVO, True)])
def test_it_is_integrated_otherwise(actuator, is_alike):
    """Once MJX follows MuJoCo here, the sentence goes."""
    made = model(actuator)
    data, on_device = mujoco.MjData(made), mjx.put_model(made)
    data.qvel[:], data.ctrl[:] = 5.0, 1.0
    theirs = mjx.step(on_device, mjx.put_data(made, data))
    mujoco.mj_step(made, data)
    assert (abs(np.asarray(theirs.qvel) - data.qvel).max() < 1e-4) == is_alike


def arm(engine="mujoco", check=True, **options):
    tasks = [TaskDimension("load", 0.1, 1.0)]
    return TaskEnv.from_mjcf(
        model(**options), tasks=tasks, reward=lambda motion: {"still": -abs(motion.after.qvel[0])},
        engine=engine, check=check,
    )  # fmt: skip


def test_the_check_tells_it_for_mjx_and_not_for_the_c_engine(monkeypatch):
    unchecked = {engine: arm(engine, check=False, actuator=LIMITED) for engine in ("mujoco", "mjx")}
    monkeypatch.setattr(examine, "_program", lambda *_: (None, None))  # nothing has to be compiled
    monkeypatch.setattr(examine, "_engine_of", lambda env: "mujoco")
    found = {engine: examine.check(env, engine=False).of("warning") for engine, env in unchecked.items()}
    assert any("is at its limit" in line for line in found["mjx"])
    assert not any("is at its limit" in line for line in found["mujoco"])


RAY, PAINT = '<rangefinder name="ray" site="tip" {}/>', '<material name="any"/>'


@pytest.mark.parametrize(("sensor", "wrong"), [
    (RAY.format(""), None),
    (RAY.format('data="dist normal"'), "rangefinders other than of a site's distance, which sensor 'ray' is"),
    (RAY.format('data="normal"'), "rangefinders other than of a site's distance"),
    ('<rangefinder name="ray" camera="eye"/>', "rangefinders other than of a site's distance"),
])  # fmt: skip
def test_sensors_that_mjx_reads_wrongly_are_refused(sensor, wrong):
    made = model(sensor=sensor, assets=PAINT)
    if wrong is None:
        physics.make("mjx", made, 1, readings=("sensordata",)).prepare({})
        return
    with pytest.raises(ValueError, match=wrong):
        physics.make("mjx", made, 1, readings=("sensordata",)).prepare({})
    physics.make("mjx", made, 1)  # what is not read may be there


def test_rays_in_a_model_without_materials_are_refused():
    with pytest.raises(ValueError, match="rangefinders in a model without materials; add one"):
        physics.make("mjx", model(sensor=RAY.format("")), 1)
