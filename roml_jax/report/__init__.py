"""Comparison of runs on one HTML page: ``python -m roml_jax.report RUN... --out report.html``."""
