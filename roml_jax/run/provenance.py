"""Where a run comes from: version, commit, command, machine and time of each session that trained it."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from roml_jax import users_code
from roml_jax._version import __version__
from roml_jax.config import Config
from roml_jax.experiment import Experiment
from roml_jax.run import distributed
from roml_jax.run.folder import PROVENANCE, write_whole
from roml_jax.run.start import State

_PACKAGE = Path(__file__).parent.parent / "__init__.py"
_SECONDS = 5.0  # longest time to wait for git


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command; None if it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_SECONDS,
            check=False, env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit_of(file: Path) -> str | None:
    """The git commit of a source file's checkout, with ", modified" if files beside it have changed.

    None if git does not track the file: a package installed into a folder of another checkout has no commit.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file.parent, "rev-parse", "HEAD")
    clean = _git(file.parent, "diff-index", "--quiet", "HEAD", "--", ".") is not None
    return commit if clean or commit is None else f"{commit}, modified"


def _installed_commit() -> str | None:
    """The commit that pip installed the package from; None if it was not installed from a repository."""
    try:
        text = importlib.metadata.distribution("roml-jax").read_text("direct_url.json")
        return None if text is None else json.loads(text).get("vcs_info", {}).get("commit_id")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def _commits(modules: Sequence[str]) -> dict[str, str]:
    """The commits of the package and of a user's modules, by name, where there are any."""
    commits = {"roml_jax": commit_of(_PACKAGE) or _installed_commit()}
    commits |= {name: commit_of(Path(path)) for name, path in users_code.origins(modules).items()}
    return {name: commit for name, commit in commits.items() if commit is not None}


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _device() -> str:
    devices = jax.devices()
    kind = devices[0].device_kind
    return f"{len(devices)} x {kind}" if len(devices) > 1 else kind


def read(folder: Path) -> list[dict[str, Any]]:
    """The sessions of a run, the first one first; empty for a run of an older version or a damaged file."""
    try:
        sessions = json.loads((folder / PROVENANCE).read_text())
    except (OSError, ValueError):
        return []
    good = isinstance(sessions, list) and all(isinstance(one, dict) for one in sessions)
    return sessions if good else []


class Session:
    """One call of the command that trains a run, as an entry of ``provenance.json``.

    The entry is written when the session starts and completed when it ends. Entries of earlier sessions stay.

    Args:
        folder: the run's folder.
        about: further values of the entry: the command and the number of seeds.
        modules: names of the user's modules.
        before: (iterations, frames of a seed, training seconds) done before.
        say: called with a line for the user.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], modules: Sequence[str],
        before: tuple[int, int, float], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._path, self._before, self._say = folder / PROVENANCE, before, say
        self._began, self._earlier = time.monotonic(), read(folder)
        if self._path.exists() and not self._earlier:
            kept = self._path.with_suffix(".damaged.json")
            self._path.replace(kept)
            say(f"{self._path} is damaged; it is kept as {kept.name}")
        self._entry: dict[str, Any] = {
            "started": _now(), **about, "roml_jax": __version__, "commits": _commits(modules),
            "jax": jax.__version__, "python": platform.python_version(), "device": _device(),
            "cpus": os.cpu_count(), "processes": jax.process_count(), "from_iteration": before[0],
            "ended": None, "outcome": None, "to_iteration": None, "frames": None, "wall_seconds": None,
            "training_seconds": None, "frames_per_second": None,
        }  # fmt: skip
        self._write()

    def _write(self) -> None:
        try:
            write_whole(self._path, json.dumps([*self._earlier, self._entry], indent=1) + "\n")
        except OSError as error:
            self._say(f"{self._path} cannot be written: {error.strerror}")

    def trained(self, iteration: int, frames: int, seconds: float) -> None:
        """Takes the state of the training after a chunk, which ``end`` writes.

        Args:
            iteration: number of iterations done.
            frames: frames of a seed done.
            seconds: training time of all sessions.
        """
        _, frames_before, seconds_before = self._before
        frames, seconds = frames - frames_before, seconds - seconds_before
        self._entry |= {
            "to_iteration": iteration, "frames": frames, "training_seconds": round(seconds, 3),
            "frames_per_second": round(frames / seconds, 1) if seconds > 0 else None,
        }  # fmt: skip

    def end(self, outcome: str) -> None:
        """Writes how the session ended, and how long it took."""
        wall = round(time.monotonic() - self._began, 3)
        self._entry |= {"ended": _now(), "outcome": outcome, "wall_seconds": wall}
        self._write()


def start(
    config: Config, parts: Experiment, folder: Path, restored: State | None, command: str | None,
    say: Callable[[str], None],
) -> Session | None:  # fmt: skip
    """Writes this session's entry.

    Args:
        config: the run's configuration.
        parts: the run's functions.
        folder: the run's folder.
        restored: the state that the session resumes from; None for a new run.
        command: the command that was called; None for that of the process.
        say: called with a line for the user.

    Returns:
        The session; None in a process that does not write.
    """
    if not distributed.is_main():
        return None
    about = {"command": command or shlex.join(sys.argv), "seeds": len(config.plan)}
    done, seconds = (0, 0.0) if restored is None else (restored.done, restored.seconds)
    return Session(folder, about, config.imports, (done, parts.frames.after(done), seconds), say)


def _outcome(error: BaseException) -> str:
    signal = getattr(error, "signal", None)
    if signal is not None:
        return f"stopped by {signal.name}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def recorded(session: Session | None) -> Generator[None]:
    """Context that completes a session's entry at its end, whatever ends it. None records nothing."""
    outcome = "complete"
    try:
        yield
    except BaseException as error:
        outcome = _outcome(error)
        raise
    finally:
        if session is not None:
            session.end(outcome)
