"""Meta-learning agents. A new one is one file and one line here."""

from roml_jax.agents import varibad
from roml_jax.agents.base import Agent, get, make, names, register

register("varibad", varibad.make)

__all__ = ["Agent", "get", "make", "names", "register"]
