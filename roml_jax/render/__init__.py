"""Visualisation of rollouts: ``python -m roml_jax.render RUN --task mass=1.7``."""
