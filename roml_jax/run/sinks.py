"""Outputs of a run's metrics: a JSON-lines file, TensorBoard, Weights & Biases. All use the same names."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from roml_jax.config import Seed
from roml_jax.errors import ConfigError
from roml_jax.run.folder import METRICS, WANDB, write_whole

_COLUMNS = ("seed", "iteration", "frames", "seconds")


class Sink(Protocol):
    """An output of metrics. It receives rows (values by name), each of one seed."""

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """Writes a row.

        Args:
            place: position of the row's seed in the program.
            row: values by name.
        """
        ...

    def close(self) -> None:
        """Writes pending rows and closes the output."""
        ...


class JsonLines:
    """A file with one JSON object per line, each written when ``write`` returns.

    If the disk is full, rows are kept in memory and written at the next call that succeeds.

    Args:
        path: the file; rows are appended to it.
        say: called with a line for the user.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(self._file).st_size
        self._say, self._waiting, self._well = say, b"", True

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """Appends a row; NaN and infinite values are written as strings."""
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
                self._say(f"metrics cannot be written and are kept in memory: {error.strerror}")
            self._well = False

    def close(self) -> None:
        """Writes pending rows and closes the file."""
        self._flush()
        if self._waiting:
            self._say(f"{self._waiting.count(bytes([10]))} row(s) of metrics could not be written")
        os.close(self._file)


def _slug(seed: Seed) -> str:
    """A seed's label as a folder name."""
    return re.sub(r"[^\w.=-]+", "_", f"seed={seed.label}")


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in _COLUMNS and "/" in name}


class TensorBoard:
    """One TensorBoard event file per seed, with frames as the step; needs the extra ``tensorboard``."""

    def __init__(self, folder: Path, seeds: Sequence[Seed], frames: int) -> None:
        from tensorboardX import SummaryWriter

        # after a resume, TensorBoard hides the events of later frames
        purge = frames + 1 if frames else None
        self._writers = [
            SummaryWriter(str(folder / "tensorboard" / _slug(seed)), purge_step=purge) for seed in seeds
        ]

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """Adds the row's values as scalars.

        Raises:
            OSError: if the thread that writes the file has ended, as after a full disk.
        """
        if _has_ended(self._writers[place]):
            raise OSError("its writer has ended, as after a full disk")
        for name, value in _numbers(row).items():
            self._writers[place].add_scalar(name, value, row["frames"])

    def close(self) -> None:
        """Closes the files, but for those whose writer has ended: it would wait for that one for ever."""
        for writer in self._writers:
            if not _has_ended(writer):
                writer.close()


def _has_ended(writer: Any) -> bool:
    """Whether the thread of a ``SummaryWriter`` has ended; what is added then is never taken."""
    events = getattr(getattr(writer, "file_writer", None), "event_writer", None)
    thread = getattr(events, "_worker", None)
    return thread is not None and not thread.is_alive()


def _identity(folder: Path) -> str:
    """A name of the run that no other has, kept in its folder; a folder's name may be that of other runs."""
    path = folder / WANDB
    if not path.is_file():
        write_whole(path, uuid.uuid4().hex[:16])
    return path.read_text()


class WeightsAndBiases:
    """One Weights & Biases run per seed, in one group; needs the extra ``wandb``.

    Raises:
        ConfigError: if its account or its server does not answer; one line.
    """

    def __init__(self, folder: Path, seeds: Sequence[Seed], config: Mapping[str, Any]) -> None:
        import wandb

        group, identity = folder.resolve().name, _identity(folder)
        try:
            self._runs = [
                wandb.init(
                    project="roml_jax", group=group, name=f"{group} {_slug(seed)}", dir=str(folder),
                    id=re.sub(r"\W", "-", f"{identity}-{_slug(seed)}"), resume="allow", reinit="create_new",
                    config={**config, **seed.columns},
                )
                for seed in seeds
            ]  # fmt: skip
        except wandb.errors.Error as error:
            why = " ".join(str(error).split())
            raise ConfigError(
                f"--log wandb: {why} (WANDB_MODE=offline keeps its files in the run's folder until they are "
                "synchronised)"
            ) from None

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """Logs the row's values."""
        self._runs[place].log({**_numbers(row), "frames": row["frames"]}, step=row["iteration"])

    def close(self) -> None:
        """Finishes the runs."""
        for run in self._runs:
            run.finish()


_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check(names: Sequence[str]) -> None:
    """Rejects names of outputs that do not exist or whose package is not installed.

    Raises:
        ConfigError: one line.
    """
    for name in names:
        if name not in _MODULES:
            raise ConfigError(f"log must be one of {', '.join(_MODULES)}, got {name!r}")
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise ConfigError(
                f"--log {name} needs the package {_MODULES[name]}: pip install roml-jax[{name}]"
            )


class Several:
    """A sink that passes rows to a first sink and to further ones; the run does without one that fails.

    Args:
        sinks: the sinks.
        say: called with a line when one of the further sinks fails; it gets no more rows.
    """

    def __init__(self, sinks: Sequence[Sink], say: Callable[[str], None] = print) -> None:
        self._sinks, self._say, self._failed = sinks, say, set[int]()

    def write(self, place: int, row: Mapping[str, Any]) -> None:
        """Writes the row to each sink."""
        for i, sink in enumerate(self._sinks):
            if i in self._failed:
                continue
            try:
                sink.write(place, row)
            except Exception as error:  # of another package
                if not i:
                    raise
                self._failed.add(i)
                name, why = type(sink).__name__, " ".join(str(error).split())
                self._say(f"{name} gets no more metrics, since it failed ({why}); {METRICS} has them all")

    def close(self) -> None:
        """Closes all sinks, even if one of them raises an error."""
        with contextlib.ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)


def make(
    names: Sequence[str], folder: Path, seeds: Sequence[Seed], config: Mapping[str, Any], frames: int,
    say: Callable[[str], None],
) -> Sink:  # fmt: skip
    """Builds the JSON-lines sink and the named further ones.

    Args:
        names: further sinks: "tensorboard", "wandb".
        folder: the run's folder.
        seeds: the seeds of the program.
        config: every option by name, passed to Weights & Biases.
        frames: frames already done, per seed, if the run is resumed; else 0.
        say: called with a line for the user.
    """
    sinks: list[Sink] = [JsonLines(folder / METRICS, say)]
    if "tensorboard" in names:
        sinks.append(TensorBoard(folder, seeds, frames))
    if "wandb" in names:
        sinks.append(WeightsAndBiases(folder, seeds, config))
    return Several(sinks, say)
