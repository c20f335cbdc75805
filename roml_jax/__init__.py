"""roml_jax: robust meta-reinforcement learning as one compiled program.

Importing the package loads JAX and nothing else; each part is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from roml_jax._version import __version__

if TYPE_CHECKING:
    from roml_jax import (
        agents,
        cem,
        config,
        deploy,
        envs,
        evaluate,
        experiment,
        held_out,
        meta,
        proposals,
        report,
        risk,
        rollout,
        samplers,
        tasks,
        testing,
        types,
    )
    from roml_jax.api import open, train
    from roml_jax.config import Config
    from roml_jax.config import make as make_config
    from roml_jax.deploy.policy import Policy, load
    from roml_jax.errors import ConfigError
    from roml_jax.run.devices import devices

_MODULES = (
    "agents", "cem", "config", "deploy", "envs", "evaluate", "experiment", "held_out", "meta", "proposals",
    "report", "risk", "rollout", "samplers", "tasks", "testing", "train", "types",
)  # fmt: skip
# Public name: the module that has it, and its name there.
_NAMES = {
    "Config": ("roml_jax.config", "Config"),
    "ConfigError": ("roml_jax.errors", "ConfigError"),
    "Policy": ("roml_jax.deploy.policy", "Policy"),
    "devices": ("roml_jax.run.devices", "devices"),
    "load": ("roml_jax.deploy.policy", "load"),
    "make_config": ("roml_jax.config", "make"),
    "open": ("roml_jax.api", "open"),
}

__all__ = [
    "Config",
    "ConfigError",
    "Policy",
    "__version__",
    "agents",
    "cem",
    "config",
    "deploy",
    "devices",
    "envs",
    "evaluate",
    "experiment",
    "held_out",
    "load",
    "make_config",
    "meta",
    "open",
    "proposals",
    "report",
    "risk",
    "rollout",
    "samplers",
    "tasks",
    "testing",
    "train",
    "types",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"roml_jax.{name}")
    if name in _NAMES:
        module, attribute = _NAMES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'roml_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
