"""A run's folder: creation, locking, and its metrics file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from roml_jax import users_code
from roml_jax.errors import ConfigError
from roml_jax.run import files
from roml_jax.users_code import ORIGINS

CONFIG, METRICS, CHECKPOINT, PROVENANCE = "config.yaml", "metrics.jsonl", "checkpoint", "provenance.json"
WANDB = "wandb.id"  # not .wandb, which would be where W&B keeps its files
_LOCK = ".lock"


def write_whole(path: Path, text: str) -> None:
    """Writes a text file atomically; one that cannot be written whole, as on a full disk, stays as it was."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text)
        files.sync(part)  # a power cut after the renaming must not leave an empty file
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def make(out: Path | None, name: str, options: Mapping[str, Any]) -> Path:
    """Creates a run's folder; writes its ``config.yaml``, and where the modules that it imports are.

    Args:
        out: the folder; None for a new one under ``runs/``.
        name: name of the folder under ``runs/``; the current time is appended. Unused if ``out`` is given.
        options: every option by dotted name, for ``config.yaml``.

    Raises:
        ConfigError: if the folder is not empty or cannot be created; one line.
    """
    folder = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries, first = 1, folder
    try:
        while not _is_made(folder, is_new=out is None):  # another run may have begun in this second
            tries += 1
            folder = first.with_name(f"{first.name}-{tries}")
        if any(folder.iterdir()):
            raise ConfigError(f"--out {folder} exists and is not empty; a run needs a new folder")
        write_whole(folder / CONFIG, yaml.safe_dump(dict(options), sort_keys=False))
        _keep_origins(folder, options.get("imports") or ())
    except OSError as error:
        raise ConfigError(f"cannot write to the run's folder {folder}: {error.strerror}") from None
    return folder


def _is_made(folder: Path, is_new: bool) -> bool:
    """Makes a folder; False if it must be new and exists."""
    try:
        folder.mkdir(parents=True, exist_ok=not is_new)
    except FileExistsError:
        if not is_new:
            raise
        return False
    return True


def keep(folder: Path, frames: float, imports: Sequence[str]) -> None:
    """Saves what a run that goes on may change, in its files: its total of frames, and more modules."""
    options = yaml.safe_load((folder / CONFIG).read_text())
    now = options | {"frames": frames, "imports": list(imports)}
    if now != options:
        write_whole(folder / CONFIG, yaml.safe_dump(now, sort_keys=False))
        _keep_origins(folder, imports)


def _keep_origins(folder: Path, imports: Sequence[str]) -> None:
    origins = users_code.origins(imports)
    if origins:
        write_whole(folder / ORIGINS, json.dumps(origins, indent=1) + "\n")


@contextlib.contextmanager
def removed_if_unused(folder: Path) -> Generator[None]:
    """Context that deletes a new run's folder if an error or Ctrl-C ends it before anything was trained."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if (folder / CHECKPOINT).exists():
                (folder / CHECKPOINT).rmdir()  # fails if there is a checkpoint
            if not (folder / METRICS).exists() or not (folder / METRICS).stat().st_size:
                for name in (METRICS, CONFIG, ORIGINS, PROVENANCE, WANDB, _LOCK):
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()  # fails if files of others are in it
        raise


def check(folder: Path) -> None:
    """Refuses a folder that is not a run's.

    Raises:
        ConfigError: one line.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} is not a run's folder: it has no {CONFIG}")


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Generator[None]:
    """Context that holds the folder's lock, so that no other process writes to the folder.

    Args:
        folder: the run's folder.
        say: called with a line for the user if the file system has no locks.

    Raises:
        ConfigError: if another process holds the lock, or the folder is not writable.
    """
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise ConfigError(f"cannot write to the run's folder {folder}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ConfigError(f"the run {folder} is being used by another process") from None
    except OSError as error:  # some file systems of clusters have none
        say(f"{folder} cannot be locked ({error.strerror}): start no other process on this run")
    try:
        yield
    finally:
        os.close(handle)  # the file is not deleted: two processes could otherwise lock two different files


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, without a last row that is incomplete because the run was killed."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_metrics(path: Path, iteration: int) -> str | None:
    """Deletes the rows after an iteration and those of the final test, before a run is resumed.

    Returns:
        One line for the user if rows up to the iteration are missing.
    """
    if not path.is_file():
        return f"{path} is missing: the metrics before iteration {iteration} are lost" if iteration else None
    read, lines = read_metrics(path), path.read_text(errors="replace").splitlines()
    rows = [
        row
        for row in read
        if row["iteration"] <= iteration and not any(name.startswith("test/") for name in row)
    ]
    if len(rows) < len(lines):
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    last = max((row["iteration"] for row in rows), default=0)
    if last >= iteration:
        return None
    cause = f" (its line {len(read) + 1} is damaged)" if len(read) < len(lines) else ""
    return (
        f"{path} ends at iteration {last}{cause}, before the checkpoint of iteration {iteration}: the "
        "metrics between them are lost"
    )


def is_complete(folder: Path, num_seeds: int, saved: int) -> bool:
    """Whether all seeds were trained to the end and tested, and the final state is saved.

    Args:
        folder: the run's folder.
        num_seeds: number of seeds.
        saved: iteration of the last checkpoint.
    """
    tests = [row for row in read_metrics(folder / METRICS) if any(name.startswith("test/") for name in row)]
    return len(tests) == num_seeds and tests[-1]["iteration"] == saved
