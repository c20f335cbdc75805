"""Trains groups of seeds until the time is over, and picks up where it ended."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.reproduce import raw
from benchmarks.reproduce.protocol import Group
from roml_jax.run import folder as run_folder

_GRACE = 120.0  # seconds that a run may take for its chunk and its checkpoint once it is told to stop


def _command(group: Group, folder: Path) -> list[str]:
    """Starts the group's run, or goes on with it."""
    begun = (folder / run_folder.CONFIG).is_file()
    where = ["--resume", str(folder)] if begun else [*group.options, "--out", str(folder)]
    return [sys.executable, "-m", "roml_jax.train", *where]


def _train(group: Group, folder: Path, until: float | None) -> bool:
    """Whether the run came to its end before the time was over.

    Raises:
        RuntimeError: if it failed.
    """
    process = subprocess.Popen(_command(group, folder))
    try:
        code = process.wait(None if until is None else max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        code = process.wait(_GRACE)
    except KeyboardInterrupt:
        process.wait(_GRACE)  # the signal went to the run, too
        raise
    if code not in (0, 128 + signal.SIGTERM):
        raise RuntimeError(f"the training of {folder} failed with exit code {code}")
    return code == 0


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process alone works on a group; the operating system ends a claim with its process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def run(groups: Iterable[Group], work: Path, results: Path, minutes: float | None, console: Console) -> bool:
    """Trains what has no result yet, in order; groups that another process works on are left to it.

    Args:
        groups: of seeds.
        work: folder of the runs with their checkpoints, which may be taken to another machine.
        results: folder of the compact results.
        minutes: of time; None for as long as it takes.
        console: for the user.

    Returns:
        Whether everything has its result, or is left to another process.
    """
    until = None if minutes is None else time.monotonic() + 60 * minutes
    for group in groups:
        if raw.exists(results / group.folder):
            continue
        if until is not None and time.monotonic() >= until:
            return False
        folder = work / group.folder
        with claimed(folder) as mine:
            if not mine or raw.exists(results / group.folder):
                continue
            console.rule(str(group.folder))
            if not _train(group, folder, until):
                return False
            raw.write(folder, results / group.folder)
    return True
