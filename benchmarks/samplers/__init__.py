"""Compares all task samplers under one protocol: ``python -m benchmarks.samplers``."""
