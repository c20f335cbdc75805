"""YAML files of options, and the presets in the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from roml_jax.config.values import flatten
from roml_jax.errors import ConfigError, unknown


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of options. An empty file gives no options.

    Raises:
        ConfigError: if the file cannot be read, is not YAML or is not a mapping; one line.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise ConfigError(f"{path} is not YAML{where}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must map option names to values, got a {type(content).__name__}")
    return content


def presets_folder() -> Path:
    """The folder of the presets: in the installed package, or beside the package in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def preset(*names: str) -> dict[str, Any]:
    """Options of the named presets, by dotted name. A later preset overrides an earlier one.

    Args:
        *names: names of an environment, an agent or both (``ENV_AGENT``). Names without a preset are skipped.
    """
    options: dict[str, Any] = {}
    for name in names:
        path = presets_folder() / f"{name}.yaml"
        if path.is_file():
            options |= dict(flatten(read_yaml(path)))
    return options


def named_file(given: str) -> Path:
    """The path of the file that ``--config`` names.

    Args:
        given: a path, or the name of a preset in the package.

    Raises:
        ConfigError: for a name that is neither a file nor a preset; one line.
    """
    path = Path(given)
    if path.exists() or path.suffix or path.name != given:
        return path
    names = {shipped.stem: shipped for shipped in presets_folder().glob("*.yaml")}
    if given not in names:
        raise unknown("file or configuration", given, names)
    return names[given]
