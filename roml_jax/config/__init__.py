"""Configuration of a run: frozen dataclasses, filled from presets, a file, Python or the command line."""

from roml_jax.config.layers import import_modules, make, parse, read, with_options
from roml_jax.config.schema import (
    FREE,
    WHICH,
    Config,
    DistributedConfig,
    EvalConfig,
    Which,
    check_same,
    to_mapping,
)
from roml_jax.config.seed_plan import Seed
from roml_jax.errors import ConfigError, UnknownNameError

__all__ = [
    "FREE",
    "WHICH",
    "Config",
    "ConfigError",
    "DistributedConfig",
    "EvalConfig",
    "Seed",
    "UnknownNameError",
    "Which",
    "check_same",
    "import_modules",
    "make",
    "parse",
    "read",
    "to_mapping",
    "with_options",
]
