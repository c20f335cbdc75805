"""RoML with weights: the tasks of the cross-entropy method, weighted in the policy's update as those of GDRM.

Sources: Greenberg et al. 2023 (RoML), and ``roml_jax.samplers.gdrm`` for the weights. That both together help
was found here: docs/samplers.md, "Variants of RoML".
"""

from __future__ import annotations

from dataclasses import dataclass

from roml_jax import checks
from roml_jax.cem import CemConfig
from roml_jax.samplers.base import TaskSampler, register
from roml_jax.samplers.cross_entropy import cem
from roml_jax.samplers.gdrm import GdrmConfig, gdrm
from roml_jax.tasks import TaskFamily


@dataclass(frozen=True)
class CemWeightedConfig(CemConfig):
    """Options of the cross-entropy method, and of the weights."""

    eta: float = 1.0
    """Inverse temperature of the softmax over minus an iteration's standardised returns; 0 is ``cem``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, "sampler", 0, "eta")


DEFAULTS = CemWeightedConfig()


@register("cem_weighted")
def cem_weighted(family: TaskFamily, alpha: float, config: CemWeightedConfig = DEFAULTS) -> TaskSampler:
    """RoML whose tasks of low returns also weigh more in the policy's update."""
    weighing = gdrm(family, alpha, GdrmConfig(eta=config.eta, standardise=True))
    return cem(family, alpha, config)._replace(weights=weighing.weights)
