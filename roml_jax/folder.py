"""A run's folder: made new, used by one process at a time, and cut back to where a run goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from roml_jax.config import Config, ConfigError, to_mapping

CONFIG, METRICS, CHECKPOINT = "config.yaml", "metrics.jsonl", "checkpoint"
_LOCK = ".lock"


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there with all of its text or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def make(config: Config) -> Path:
    """The run's own new folder, with its configuration.

    Raises:
        ConfigError: if it holds something already or cannot be made.
    """
    folder = config.out or Path("runs") / f"{config.env}-{config.sampler}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = 1
    named = folder
    try:
        while config.out is None and folder.exists():
            tries += 1
            folder = named.with_name(f"{named.name}-{tries}")
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"--out {folder} exists and is not empty; a run needs a new folder")
        write_whole(folder / CONFIG, yaml.safe_dump(to_mapping(config), sort_keys=False))
    except OSError as error:
        raise ConfigError(f"cannot write to the run's folder {folder}: {error.strerror}") from None
    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process writes to the folder.

    Raises:
        ConfigError: if one does already, or the folder cannot be written to.
    """
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise ConfigError(f"cannot write to the run's folder {folder}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ConfigError(f"the run {folder} is being used by another process") from None
    try:
        yield
    finally:
        os.close(handle)  # the file stays: one that is removed could be locked by two


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, but for a last one that was being written when the run was killed."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_metrics(path: Path, iteration: int) -> None:
    """Leaves the rows of training and evaluation up to an iteration: what a run that goes on has done."""
    if not path.is_file():
        return
    rows = [
        row
        for row in read_metrics(path)
        if row["iteration"] <= iteration and not any(name.startswith("test/") for name in row)
    ]
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def is_complete(folder: Path, num_runs: int, saved: int) -> bool:
    """Whether all runs were trained to their end and tested, and that state is the one that is saved.

    Args:
        folder: the run's.
        num_runs: R.
        saved: iteration of the last checkpoint.
    """
    tests = [row for row in read_metrics(folder / METRICS) if any(name.startswith("test/") for name in row)]
    return len(tests) == num_runs and tests[-1]["iteration"] == saved
