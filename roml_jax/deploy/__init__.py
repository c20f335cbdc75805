"""Deployment of trained policies: NumPy in, NumPy out, and export to files that need only JAX."""
