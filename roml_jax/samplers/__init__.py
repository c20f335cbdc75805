"""Task samplers, which choose the tasks that a meta-learner trains on.

To add a sampler, add one file to this folder and import it here.
"""

from roml_jax.samplers.accel import AccelConfig, accel
from roml_jax.samplers.autodr import AutodrConfig, autodr
from roml_jax.samplers.base import TaskSampler, get, make, names, register
from roml_jax.samplers.cem_weighted import CemWeightedConfig, cem_weighted
from roml_jax.samplers.cross_entropy import cem, cem_soft, oracle
from roml_jax.samplers.doraemon import DoraemonConfig, doraemon
from roml_jax.samplers.gdrm import GdrmConfig, gdrm
from roml_jax.samplers.mpts import MptsConfig, mpts
from roml_jax.samplers.naive import NaiveConfig, naive
from roml_jax.samplers.pdts import PdtsConfig, pdts
from roml_jax.samplers.plr import PlrConfig, plr
from roml_jax.samplers.sfl import SflConfig, sfl
from roml_jax.samplers.tail import TailConfig, tail, tail_soft
from roml_jax.samplers.uniform import uniform

__all__ = [
    "AccelConfig",
    "AutodrConfig",
    "CemWeightedConfig",
    "DoraemonConfig",
    "GdrmConfig",
    "MptsConfig",
    "NaiveConfig",
    "PdtsConfig",
    "PlrConfig",
    "SflConfig",
    "TailConfig",
    "TaskSampler",
    "accel",
    "autodr",
    "cem",
    "cem_soft",
    "cem_weighted",
    "doraemon",
    "gdrm",
    "get",
    "make",
    "mpts",
    "naive",
    "names",
    "oracle",
    "pdts",
    "plr",
    "register",
    "sfl",
    "tail",
    "tail_soft",
    "uniform",
]
