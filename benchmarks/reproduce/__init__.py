"""The paper's experiments again: ``python -m benchmarks.reproduce --env khazad_dum``."""
