"""Reproduces the paper's experiments: ``python -m benchmarks.reproduce --env khazad_dum``."""
