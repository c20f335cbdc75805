"""Environments whose tasks are arguments. A new one is one file and one line here."""

from roml_jax.envs import cheetah, khazad_dum, probe
from roml_jax.envs.base import Env, EnvState, from_options, get, make, names, register

register("cheetah_mass", cheetah.CheetahMass)
register("khazad_dum", khazad_dum.KhazadDum)
register("probe_observation", probe.ProbeObservation)
register("probe_memory", probe.ProbeMemory)
register("probe_risk", probe.ProbeRisk)

__all__ = ["Env", "EnvState", "from_options", "get", "make", "names", "register"]
