"""Task samplers: which tasks a meta-learner trains on. A new one is one file and one import here."""

from roml_jax.samplers.base import TaskSampler, get, make, names, register
from roml_jax.samplers.cross_entropy import cem, cem_soft, oracle
from roml_jax.samplers.naive import NaiveConfig, naive
from roml_jax.samplers.tail import TailConfig, tail, tail_soft
from roml_jax.samplers.uniform import uniform

__all__ = [
    "NaiveConfig",
    "TailConfig",
    "TaskSampler",
    "cem",
    "cem_soft",
    "get",
    "make",
    "naive",
    "names",
    "oracle",
    "register",
    "tail",
    "tail_soft",
    "uniform",
]
