"""Environments whose task is an argument. To add one, add one file to this folder and register it here."""

from roml_jax.envs import ant, cheetah, humanoid, khazad_dum, planar, probe, sine
from roml_jax.envs.actions import Actions
from roml_jax.envs.adapters import from_brax, from_playground
from roml_jax.envs.base import Env, EnvState, from_options, get, make, names, register
from roml_jax.envs.carry import Carry
from roml_jax.envs.door import check
from roml_jax.envs.edits import Edit, TaskDimension
from roml_jax.envs.forces import force, pushes
from roml_jax.envs.sensors import delay, history, noise
from roml_jax.envs.targets import commands, mocap, mocap_at
from roml_jax.envs.task_env import TaskEnv
from roml_jax.envs.view import Motion, View
from roml_jax.envs.wrappers import Wrapper, inside

register("ant_body", ant.body)
register("ant_goal", ant.goal)
register("ant_mass", ant.mass)
register("ant_vel", ant.velocity)
register("cheetah_body", cheetah.body)
register("cheetah_mass", cheetah.mass)
register("cheetah_multi", cheetah.multi)
register("cheetah_vel", cheetah.velocity)
register("hopper_dynamics", planar.hopper)
register("humanoid_body", humanoid.body)
register("humanoid_mass", humanoid.mass)
register("humanoid_vel", humanoid.velocity)
register("khazad_dum", khazad_dum.KhazadDum)
register("probe_observation", probe.ProbeObservation)
register("probe_memory", probe.ProbeMemory)
register("probe_risk", probe.ProbeRisk)
register("probe_target", probe.ProbeTarget)
register("sine", sine.Sine)
register("walker2d_dynamics", planar.walker2d)

__all__ = [
    "Actions",
    "Carry",
    "Edit",
    "Env",
    "EnvState",
    "Motion",
    "TaskDimension",
    "TaskEnv",
    "View",
    "Wrapper",
    "check",
    "commands",
    "delay",
    "force",
    "from_brax",
    "from_options",
    "from_playground",
    "get",
    "history",
    "inside",
    "make",
    "mocap",
    "mocap_at",
    "names",
    "noise",
    "pushes",
    "register",
]
