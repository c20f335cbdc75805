"""Changes of a small model, one for each field that a task may edit, and what plain MuJoCo makes of them.

A probe changes the model's source so that one field (or several that belong together) has another value. The
reference is plain ``mujoco`` on the model that is compiled from the changed source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

STEPS = 60

# Everything that a field can act on and that MJX simulates. Nothing here uses a feature that MJX lacks.
MODEL = """
<mujoco>
  <option timestep="0.002" cone="elliptic" magnetic="0 -0.5 0"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1" friction="0.5 0.01 0.001"/>
    <site name="anchor" pos="0 -2 1"/>
    <body name="arm" pos="0 0 2">
      <joint name="hip" type="hinge" axis="0 1 0" damping="0.1" stiffness="2" springref="20" armature="0.05"
             limited="true" range="-5 5"/>
      <inertial pos="0.3 0 0.02" quat="1 0.1 0 0" mass="1" diaginertia="0.02 0.03 0.04"/>
      <site name="tip" pos="0.5 0 0"/>
      <body name="fore" pos="0.5 0 0">
        <joint name="elbow" type="hinge" axis="0 1 0" damping="0.1" actuatorfrclimited="true"
               actuatorfrcrange="-3 3"/>
        <inertial pos="0.15 0 0" mass="0.5" diaginertia="0.002 0.004 0.004"/>
        <geom name="forearm" type="capsule" fromto="0 0 0 .3 0 0" size=".03" contype="0" conaffinity="0"/>
      </body>
    </body>
    <body name="puck" pos="0 1 0.099">
      <joint name="puck_x" type="slide" axis="1 0 0"/>
      <joint name="puck_z" type="slide" axis="0 0 1"/>
      <joint name="puck_y" type="hinge" axis="0 1 0"/>
      <inertial pos="0.001 0 0" mass="1" diaginertia="0.004 0.004 0.004"/>
      <geom name="puck" type="sphere" size="0.1" friction="0.7 0.01 0.001" condim="6"
            solref="0.05 1"/>
      <site name="pad" size="0.15"/>
    </body>
    <body name="brick" pos="0 3 0.101">
      <joint name="brick_z" type="slide" axis="0 0 1"/>
      <inertial pos="0 0 0" mass="1" diaginertia="0.01 0.01 0.01"/>
      <geom name="brick" type="capsule" size="0.1 0.2" quat="0.7 0 0.7 0"/>
    </body>
    <body name="pair" pos="0 -1 0.098">
      <joint name="pair_x" type="slide" axis="1 0 0"/>
      <joint name="pair_z" type="slide" axis="0 0 1"/>
      <geom name="paired" type="sphere" size="0.1" pos="0.001 0 0" mass="1" contype="0" conaffinity="0"/>
    </body>
    <body name="bob" pos="0 -2 0.5">
      <joint name="bob_z" type="slide" axis="0 0 1"/>
      <joint name="bob_y" type="slide" axis="0 1 0"/>
      <inertial pos="0.001 0 0" mass="1" diaginertia="0.004 0.004 0.004"/>
      <site name="bob" pos="0 0.05 0"/>
    </body>
    <body name="sled" pos="0 -5 0.5">
      <joint name="sled" type="slide" axis="1 0 0" frictionloss="50"/>
      <inertial pos="0 0 0" mass="1" diaginertia="0.004 0.004 0.004"/>
    </body>
    <body name="left" pos="0 -3 1">
      <joint name="left" type="slide" axis="0 0 1"/>
      <geom type="sphere" size=".1" mass="1" contype="0" conaffinity="0"/>
    </body>
    <body name="right" pos="0 -4 1">
      <joint name="right" type="slide" axis="0 0 1"/>
      <geom type="sphere" size=".1" mass="2" contype="0" conaffinity="0"/>
    </body>
    <body name="cart" pos="0 -6 1">
      <joint name="cart" type="slide" axis="1 0 0"/>
      <geom type="sphere" size=".1" mass="2" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <contact>
    <pair name="pair" geom1="floor" geom2="paired" condim="3" friction="0.5 0.5 0.01 0.001 0.001"
          solreffriction="0.02 1"/>
  </contact>
  <equality>
    <joint name="gear" joint1="left" joint2="right" polycoef="0 0.5 0 0 0" solref="0.05 1"/>
  </equality>
  <tendon>
    <spatial name="cord" limited="true" range="0 0.45" solreflimit="0.05 1" actuatorfrclimited="true"
             actuatorfrcrange="-2 2">
      <site site="anchor"/><site site="bob"/>
    </spatial>
    <fixed name="belt" frictionloss="50" stiffness="10" damping="1" springlength="0.1">
      <joint joint="cart" coef="1"/>
    </fixed>
    <fixed name="rope" stiffness="30" springlength="0.3"><joint joint="left" coef="1"/></fixed>
  </tendon>
  <actuator>
    <position name="servo" joint="hip" kp="5" ctrllimited="true" ctrlrange="-1 1" forcelimited="true"
              forcerange="-8 8"/>
    <motor name="motor" joint="elbow" gear="2" ctrllimited="true" ctrlrange="-1.2 1.2"/>
    <general name="filter" joint="puck_x" dyntype="filter" dynprm="0.1" gainprm="2" actlimited="true"
             actrange="-0.5 0.5"/>
    <motor name="winch" tendon="cord"/>
    <motor name="thruster" site="tip" gear="0 0 1 0 0 0"/>
    <muscle name="muscle" joint="right" lengthrange="-0.5 0.5" range="0.75 1.05" force="20"/>
  </actuator>
  <sensor><magnetometer site="tip"/><touch name="touch" site="pad"/></sensor>
</mujoco>
"""
CTRL = np.array([1.0, 1.0, 1.0, -1.0, 1.0, 0.5])
QVEL = np.array([0.3, 0.3, 0.5, -0.1, 0.3, -0.3, 0.6, -0.2, 0.4, 0.6, 0.3, 0.3, 0.2, 0.3])

Change = Callable[[mujoco.MjSpec], mujoco.MjSpec | None]


def _of(kind: str, name: str = "", **attributes: Any) -> Change:
    """A change of attributes of one element of the source."""

    def change(spec: mujoco.MjSpec) -> None:
        single = {"option": spec.option, "pair": spec.pairs[0], "equality": spec.equalities[0]}
        element = single[kind] if kind in single else getattr(spec, kind)(name)
        for attribute, value in attributes.items():
            setattr(element, attribute, value)

    return change


def _all(*changes: Change) -> Change:
    return lambda spec: [change(spec) for change in changes] and None


def _text(old: str, new: str) -> Change:
    """A change of the source's text."""
    return lambda spec: mujoco.MjSpec.from_string(MODEL.replace(old, new))


_SOFT, _WEAK = [0.2, 1.0], [0.3, 0.4, 0.01, 0.5, 2.0]


def _prm(*values: float) -> list[float]:
    return [*values, *[0.0] * (10 - len(values))]


PROBES: dict[str, Change] = {
    "body_mass": _of("body", "arm", mass=3.0, inertia=[0.06, 0.09, 0.12]),  # density: the inertia follows
    "body_inertia": _of("body", "arm", inertia=[0.1, 0.12, 0.2]),
    "body_ipos": _of("body", "arm", ipos=[0.1, 0.0, 0.2]),
    "body_iquat": _of("body", "arm", iquat=[0.3, 0.4, 0.5, 0.1]),
    "body_pos": _of("body", "fore", pos=[0.3, 0.1, 0.1]),
    "body_quat": _of("body", "fore", quat=[0.9, 0.1, 0.2, 0.3]),
    "body_gravcomp": _of("body", "arm", gravcomp=0.5),
    "jnt_pos": _of("joint", "hip", pos=[0.1, 0.0, 0.1]),
    "jnt_axis": _of("joint", "elbow", axis=[0.3, 1.0, 0.2]),
    "jnt_stiffness": _of("joint", "elbow", stiffness=[5.0, 0.0, 0.0]),
    "jnt_stiffnesspoly": _of("joint", "hip", stiffness=[2.0, 5.0, 5.0]),
    "jnt_springyield": _of("joint", "hip", springyield=0.3),
    "jnt_range": _of("joint", "hip", range=[-5.0, 0.5]),
    "jnt_margin": _of("joint", "hip", margin=0.05),
    "jnt_solref": _of("joint", "hip", solref_limit=_SOFT),
    "jnt_solimp": _of("joint", "hip", solimp_limit=_WEAK),
    "jnt_actfrcrange": _of("joint", "elbow", actfrcrange=[-0.5, 0.5]),
    "qpos0": _of("joint", "elbow", ref=30.0, springref=0.0),
    "qpos_spring": _of("joint", "hip", springref=60.0),
    "dof_armature": _of("joint", "elbow", armature=0.3),
    "dof_damping": _of("joint", "elbow", damping=[1.0, 0.0, 0.0]),
    "dof_dampingpoly": _of("joint", "elbow", damping=[0.1, 0.5, 0.5]),
    "dof_frictionloss": _of("joint", "elbow", frictionloss=1.0),
    "dof_solref": _of("joint", "sled", solref_friction=_SOFT),
    "dof_solimp": _of("joint", "sled", solimp_friction=_WEAK),
    "geom_friction": _of("geom", "puck", friction=[0.1, 0.01, 0.001]),
    "geom_solref": _of("geom", "puck", solref=[0.1, 1.0]),
    "geom_solimp": _of("geom", "puck", solimp=_WEAK),
    "geom_solmix": _of("geom", "floor", solmix=10.0),
    "geom_margin": _of("geom", "puck", margin=0.02),
    "geom_gap": _of("geom", "puck", gap=0.05),
    "geom_adhesion": _of("geom", "puck", adhesion=10.0),
    "geom_surfacevel": _of("geom", "floor", surfacevel=[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    "geom_pos": _of("geom", "puck", pos=[0.05, 0.0, 0.0]),
    "geom_quat": _of("geom", "brick", quat=[0.9, 0.5, 0.0, 0.0]),
    "geom_size": _of("geom", "puck", size=[0.12, 0.0, 0.0]),
    "site_pos": _of("site", "bob", pos=[0.0, 0.1, 0.1]),
    "site_size": _of("site", "pad", size=[0.01, 0.0, 0.0]),
    "sensor_cutoff": _of("sensor", "touch", cutoff=1.0),
    "wrap_prm": _text('joint="left" coef="1"', 'joint="left" coef="2"'),
    "site_quat": _of("site", "tip", quat=[0.9, 0.0, 0.5, 0.0]),
    "pair_friction": _of("pair", friction=[0.05, 0.05, 0.01, 0.001, 0.001]),
    "pair_solref": _of("pair", solref=[0.1, 1.0]),
    "pair_solimp": _of("pair", solimp=_WEAK),
    "pair_solreffriction": _of("pair", solreffriction=_SOFT),
    "pair_margin": _of("pair", margin=0.02),
    "pair_gap": _of("pair", gap=0.02),
    "pair_adhesion": _of("pair", adhesion=10.0),
    "eq_data": _of("equality", data=[0.2, 0.5, *[0.0] * 10]),
    "eq_solref": _of("equality", solref=_SOFT),
    "eq_solimp": _of("equality", solimp=_WEAK),
    "tendon_range": _of("tendon", "cord", range=[0.0, 0.3]),
    "tendon_margin": _of("tendon", "cord", margin=0.1),
    "tendon_solref_lim": _of("tendon", "cord", solref_limit=_SOFT),
    "tendon_solimp_lim": _of("tendon", "cord", solimp_limit=_WEAK),
    "tendon_actfrcrange": _of("tendon", "cord", actfrcrange=[-0.2, 0.2]),
    "tendon_stiffness": _of("tendon", "cord", stiffness=[50.0, 0.0, 0.0]),
    "tendon_stiffnesspoly": _of("tendon", "cord", stiffness=[0.0, 5000.0, 5000.0]),
    "tendon_springyield": _of("tendon", "belt", springyield=0.01),
    "tendon_damping": _of("tendon", "cord", damping=[10.0, 0.0, 0.0]),
    "tendon_dampingpoly": _of("tendon", "cord", damping=[0.0, 50.0, 50.0]),
    "tendon_armature": _of("tendon", "cord", armature=1.0),
    "tendon_frictionloss": _of("tendon", "cord", frictionloss=3.0),
    "tendon_solref_fri": _of("tendon", "belt", solref_friction=_SOFT),
    "tendon_solimp_fri": _of("tendon", "belt", solimp_friction=_WEAK),
    "tendon_lengthspring": _of("tendon", "belt", springlength=[0.5, 0.6]),
    "actuator_gear": _of("actuator", "motor", gear=[3.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    "actuator_gainprm": _of("actuator", "motor", gainprm=_prm(2.0)),
    "actuator_biasprm": _of("actuator", "servo", biasprm=_prm(0.5, -3.0)),
    "actuator_dynprm": _of("actuator", "filter", dynprm=_prm(0.5)),
    "actuator_ctrlrange": _of("actuator", "motor", ctrlrange=[-0.5, 0.5]),
    "actuator_forcerange": _of("actuator", "servo", forcerange=[-0.5, 0.5]),
    "actuator_actrange": _of("actuator", "filter", actrange=[-0.05, 0.05]),
    "actuator_lengthrange": _of("actuator", "muscle", lengthrange=[-0.3, 0.6]),
    "actuator_damping": _of("actuator", "motor", damping=[0.5, 0.0, 0.0]),
    "actuator_dampingpoly": _of("actuator", "motor", damping=[0.0, 0.5, 0.5]),
    "actuator_armature": _of("actuator", "motor", armature=0.3),
    "opt.gravity": _of("option", gravity=[1.0, 2.0, -5.0]),
    "opt.density": _of("option", density=1000.0),
    "opt.viscosity": _of("option", viscosity=5.0),
    "opt.impratio": _of("option", impratio=20.0),
    "opt.magnetic": _of("option", magnetic=[1.0, 0.0, 0.0]),
}

# Changes that need several fields: (the change, the fields beside the key).
TOGETHER: dict[str, tuple[Change, tuple[str, ...]]] = {
    "geom_size": (_of("geom", "paired", size=[0.08, 0.0, 0.0], mass=0.5), ("body_mass", "body_inertia")),
    "actuator_gainprm": (
        _of("actuator", "servo", gainprm=_prm(9.0), biasprm=_prm(0.0, -9.0)),
        ("actuator_biasprm",),
    ),
    "opt.wind": (_of("option", density=100.0, wind=[5.0, 5.0, 0.0]), ("opt.density",)),
    "geom_fluid": (
        _all(_of("option", density=500.0), _of("geom", "forearm", fluid_ellipsoid=1)),
        ("opt.density",),
    ),
}
