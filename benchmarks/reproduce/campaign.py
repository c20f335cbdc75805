"""Trains groups of seeds within a time limit; a later call continues."""

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

_GRACE = 120.0  # seconds that a run has for its chunk and its checkpoint after SIGTERM


def _command(group: Group, folder: Path) -> list[str]:
    """The command that starts the group's run, or resumes it if it has begun."""
    begun = (folder / run_folder.CONFIG).is_file()
    options = ["--resume", str(folder)] if begun else [*group.options, "--out", str(folder)]
    return [sys.executable, "-m", "roml_jax.train", *options]


def _train(group: Group, folder: Path, until: float | None) -> bool:
    """Trains a group; returns whether the run ended before the time ``until``.

    Raises:
        RuntimeError: if the training failed.
    """
    process = subprocess.Popen(_command(group, folder))
    try:
        code = process.wait(None if until is None else max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        code = process.wait(_GRACE)
    except KeyboardInterrupt:
        process.wait(_GRACE)  # the run got the signal too
        raise
    if code not in (0, 128 + signal.SIGTERM):
        raise RuntimeError(f"the training of {folder} failed with exit code {code}")
    return code == 0


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Locks a group's folder; yields whether this process got the lock, which ends with the process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def run(groups: Iterable[Group], work: Path, results: Path, minutes: float | None, console: Console) -> bool:
    """Trains all seeds without a result, in order; skips groups that another process works on.

    A seed that has a result in a group of another size is left out.

    Args:
        groups: of seeds.
        work: folder of the runs with their checkpoints, which may be moved to another machine.
        results: folder of the compact results.
        minutes: time limit; None for no limit.
        console: for messages.

    Returns:
        Whether every seed has its result or was skipped; False if the time limit was reached.
    """
    until = None if minutes is None else time.monotonic() + 60 * minutes
    for whole in groups:
        held = (results / whole.folder).parent
        group = whole.without(raw.seeds(held))
        if group is None:
            continue
        if until is not None and time.monotonic() >= until:
            return False
        folder = work / group.folder
        with claimed(folder) as is_claimed:
            if not is_claimed or group.without(raw.seeds(held)) != group:
                continue  # another process works on it, or has just ended it
            console.rule(str(group.folder))
            if not _train(group, folder, until):
                return False
            raw.write(folder, results / group.folder)
    return True
