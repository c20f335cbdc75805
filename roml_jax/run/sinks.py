"""Where a run's numbers go: a file of JSON lines, TensorBoard, Weights & Biases. The names are the same."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from roml_jax.config import Seed
from roml_jax.errors import ConfigError
from roml_jax.run.folder import METRICS

_COLUMNS = ("seed", "iteration", "frames", "seconds")


class Sink(Protocol):
    """Takes rows: numbers by name, of one seed at a time."""

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """Takes a row of the seed with that place among the program's."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


class JsonLines:
    """One JSON object per line, each on disk when ``write`` returns.

    While the disk refuses them rows wait, and are written as soon as it takes them.

    Args:
        path: what is there stays.
        say: takes a line for the user.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(self._file).st_size
        self._say, self._waiting, self._well = say, b"", True

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """Appends a row; numbers that JSON does not know become strings."""
        del place
        safe = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        self._waiting += json.dumps(safe).encode() + b"\n"
        self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                written = os.write(self._file, self._waiting)
                self._waiting = self._waiting[written:]
                self._size += written
            self._well = True
        except OSError as error:
            if self._well:
                self._say(f"metrics wait, the disk does not take them: {error.strerror}")
            self._well = False

    def close(self) -> None:
        """Closes the file."""
        self._flush()
        if self._waiting:
            self._say(f"{self._waiting.count(bytes([10]))} rows of metrics were never written")
        os.close(self._file)


def _slug(seed: Seed) -> str:
    """A seed's name for a folder."""
    return re.sub(r"[^\w.=-]+", "_", f"seed={seed.label}")


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in _COLUMNS and "/" in name}


class TensorBoard:
    """An event file per seed, against frames; needs the extra ``tensorboard``."""

    def __init__(self, folder: Path, seeds: Sequence[Seed], frames: int) -> None:
        from tensorboardX import SummaryWriter

        # rows beyond the frames that a resumed run has made are hidden
        purge = {"purge_step": frames + 1} if frames else {}
        self._writers = [SummaryWriter(str(folder / "tensorboard" / _slug(seed)), **purge) for seed in seeds]

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """Adds the row's numbers as scalars."""
        for name, value in _numbers(row).items():
            self._writers[place].add_scalar(name, value, row["frames"])

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers:
            writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases for each seed, in one group; needs the extra ``wandb``."""

    def __init__(self, folder: Path, seeds: Sequence[Seed], config: Mapping[str, Any]) -> None:
        import wandb

        self._runs = [
            wandb.init(
                project="roml_jax", group=folder.name, name=f"{folder.name} {_slug(seed)}", dir=str(folder),
                id=re.sub(r"\W", "-", f"{folder.name}-{_slug(seed)}"), resume="allow", reinit="create_new",
                config={**config, **seed.columns},
            )
            for seed in seeds
        ]  # fmt: skip

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """Logs the row's numbers."""
        self._runs[place].log({**_numbers(row), "frames": row["frames"]}, step=row["iteration"])

    def close(self) -> None:
        """Finishes the runs."""
        for run in self._runs:
            run.finish()


_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check(names: Sequence[str]) -> None:
    """Refuses what is not known or not installed.

    Raises:
        ConfigError: one line.
    """
    for name in names:
        if name not in _MODULES:
            raise ConfigError(f"log must be of {', '.join(_MODULES)}, got {name!r}")
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise ConfigError(
                f"--log {name} needs the package {_MODULES[name]}: pip install roml-jax[{name}]"
            )


class Several:
    """Rows go to each of some sinks."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """To each."""
        for sink in self._sinks:
            sink.write(place, row)

    def close(self) -> None:
        """Closes all, whatever one has to say."""
        with contextlib.ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)


def make(
    names: Sequence[str], folder: Path, seeds: Sequence[Seed], config: Mapping[str, Any], frames: int,
    say: Callable[[str], None],
) -> Sink:  # fmt: skip
    """The file of JSON lines, and what else is named.

    Args:
        names: "tensorboard", "wandb".
        folder: the run's.
        seeds: of the program.
        config: every option, for those who show it.
        frames: that a run which goes on has made already.
        say: takes a line for the user.
    """
    sinks: list[Sink] = [JsonLines(folder / METRICS, say)]
    if "tensorboard" in names:
        sinks.append(TensorBoard(folder, seeds, frames))
    if "wandb" in names:
        sinks.append(WeightsAndBiases(folder, seeds, config))
    return Several(sinks)
