"""The package's version, its only copy."""

__version__ = "0.1.0"
