"""Evaluation on held-out tasks. The command ``python -m roml_jax.evaluate RUN`` evaluates a run's folder."""

from roml_jax.held_out import Purpose, draw, make_evaluate, summarise

__all__ = ["Purpose", "draw", "make_evaluate", "summarise"]
