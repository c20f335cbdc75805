"""Meta-learning agents. A new one is one file and one line here."""

from roml_jax.agents import varibad
from roml_jax.agents.base import Agent, make, names, register

register("varibad", varibad.make)

__all__ = ["Agent", "make", "names", "register"]
