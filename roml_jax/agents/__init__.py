"""Meta-learning agents. To add one, add one file to this folder and import it here."""

from roml_jax.agents import maml, multitask, pearl, regression, rl2, varibad
from roml_jax.agents.base import Agent, MetaLearner, get, make, names, register

__all__ = [
    "Agent",
    "MetaLearner",
    "get",
    "make",
    "maml",
    "multitask",
    "names",
    "pearl",
    "register",
    "regression",
    "rl2",
    "varibad",
]
