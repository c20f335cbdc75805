"""Compiles the whole iteration for devices that are not there: ``python -m benchmarks.compiled``."""
