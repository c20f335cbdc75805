"""Files of options: YAML, and the presets that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from roml_jax.config.values import flatten
from roml_jax.errors import ConfigError, unknown


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of options.

    Raises:
        ConfigError: if it cannot be read, is not YAML or not a mapping.
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
        raise ConfigError(f"{path} must hold options by name, not a {type(content).__name__}")
    return content


def presets_folder() -> Path:
    """Where the presets are: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def preset(*names: str) -> dict[str, Any]:
    """The options of the presets of these names, by dotted names, a later one over an earlier one.

    Args:
        names: of an environment, an agent or both (``ENV_AGENT``); one without a preset adds nothing.
    """
    options: dict[str, Any] = {}
    for name in names:
        path = presets_folder() / f"{name}.yaml"
        if path.is_file():
            options |= dict(flatten(read_yaml(path)))
    return options


def named_file(given: str) -> Path:
    """The file that ``--config`` means: a path, or the name of one that comes with the package.

    Raises:
        ConfigError: for a name, not a path, that nothing has; one line.
    """
    path = Path(given)
    if path.exists() or path.suffix or path.name != given:
        return path
    names = {shipped.stem: shipped for shipped in presets_folder().glob("*.yaml")}
    if given not in names:
        raise unknown("file or configuration", given, names)
    return names[given]
