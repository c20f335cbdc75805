"""Atomic creation of new files. An existing file is never overwritten."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path

from roml_jax.errors import ConfigError


def check_new(path: Path, suffixes: Sequence[str], option: str = "--out") -> Path:
    """Checks that a file can be made and that its suffix is one of ``suffixes``; returns the path.

    Raises:
        ConfigError: if the suffix is wrong, the file exists or its folder cannot be written to; one line.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} must end in {' or '.join(suffixes)}, got {path}")
    if path.exists():
        raise ConfigError(f"{option} {path} exists; nothing is overwritten")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):  # told now, not after the work
        raise ConfigError(f"cannot write {path}: {parent} is not a folder that can be written to")
    return path


def sync(path: Path) -> None:
    """Has a file, or a folder and all in it, written to the disk, where the file system can do so."""
    inside = path.rglob("*") if path.is_dir() else ()
    for one in (*inside, path):
        with contextlib.suppress(OSError):
            handle = os.open(one, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _move(part: Path, path: Path) -> None:
    """Renames a file.

    Raises:
        FileExistsError: if ``path`` exists, unlike a plain rename.
    """
    try:
        os.link(part, path)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a file system without hard links: many network and USB drives
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            part.replace(path)
        except OSError:
            path.unlink()
            raise


@contextlib.contextmanager
def new(path: Path) -> Generator[Path]:
    """Context that yields a temporary path, which is renamed to ``path`` if no error occurred.

    Missing parent folders are created.

    Raises:
        ConfigError: if the file cannot be written or exists already; one line.
    """
    # with the suffix: encoders of films go by it
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        yield part
        _move(part, path)
    except FileExistsError:
        raise ConfigError(f"{path} exists; nothing is overwritten") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
