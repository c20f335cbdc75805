"""New files: whole or not at all, and never in the place of another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from roml_jax.errors import ConfigError


def check_new(path: Path, suffixes: Sequence[str]) -> Path:
    """A file that can be made: it is not there, and its ending says a known format.

    Raises:
        ConfigError: one line.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"--out must end in {' or '.join(suffixes)}, got {path}")
    if path.exists():
        raise ConfigError(f"--out {path} exists; nothing is overwritten")
    return path


@contextlib.contextmanager
def new(path: Path) -> Iterator[Path]:
    """A place to write to, which becomes ``path`` when all went well; folders are made.

    Raises:
        ConfigError: if it cannot be written, or there is a file already; one line.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        yield part
        os.link(part, path)  # unlike a rename, this fails where there is a file
    except FileExistsError:
        raise ConfigError(f"{path} exists; nothing is overwritten") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
