"""Trained policies for use: NumPy in, NumPy out, and as files that run with JAX alone."""
