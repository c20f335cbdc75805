"""Runs compared on one page: ``python -m roml_jax.report RUN... --out report.html``."""
