"""Evaluation on held-out tasks; as a command on a run's folder: ``python -m roml_jax.evaluate RUN``."""

from roml_jax.held_out import Purpose, draw, make_evaluate, summarise

__all__ = ["Purpose", "draw", "make_evaluate", "summarise"]
