"""The package's version, its only copy."""

__version__ = "0.1.0"
PROGRAM = f"roml-jax {__version__}"
"""What ``--version`` prints."""
