"""Trained policies in the package, shown in the browser: ``python -m roml_jax.demo cheetah_mass``."""
