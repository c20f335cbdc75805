"""Meta-learning agents. A new one is one file and one line here."""

from roml_jax.agents import maml, multitask, pearl, rl2, varibad
from roml_jax.agents.base import Agent, get, make, names, register

register("varibad", varibad.make)
register("rl2", rl2.make)
register("pearl", pearl.make)
register("maml", maml.make)
register("multitask", multitask.multitask)
register("oracle", multitask.oracle)

__all__ = ["Agent", "get", "make", "names", "register"]
