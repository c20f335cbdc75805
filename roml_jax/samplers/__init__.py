"""Task samplers, which choose the tasks that a meta-learner trains on.

To add a sampler, add one file to this folder and import it here.
"""

from roml_jax.samplers.autodr import AutodrConfig, autodr
from roml_jax.samplers.base import TaskSampler, get, make, names, register
from roml_jax.samplers.cross_entropy import cem, cem_soft, oracle
from roml_jax.samplers.doraemon import DoraemonConfig, doraemon
from roml_jax.samplers.naive import NaiveConfig, naive
from roml_jax.samplers.tail import TailConfig, tail, tail_soft
from roml_jax.samplers.uniform import uniform

__all__ = [
    "AutodrConfig",
    "DoraemonConfig",
    "NaiveConfig",
    "TailConfig",
    "TaskSampler",
    "autodr",
    "cem",
    "cem_soft",
    "doraemon",
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
