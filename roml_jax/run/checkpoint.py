"""A run's state on disk, with orbax: asynchronous, whole or not at all, the last one kept.

``RUN/checkpoint/ITERATION`` has one folder per item: ``state`` (the whole MetaState), ``last``, ``best_mean``
and ``best_cvar`` (what acts of the learner) and ``about`` (JSON).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from roml_jax.run import memory

ABOUT = "about"
FORMAT = 2
"""Of the state that is saved; 2 since samplers keep their risk level in it."""
_PATIENCE = 10.0  # seconds that a failed checkpoint waits for its other threads


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; one line."""


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def plain(tree: Any) -> Any:
    """Random keys as the numbers they hold."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _solid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that an array has on disk: orbax refuses one of no numbers, as without a latent."""
    return tuple(max(size, 1) for size in shape)


def _storable(tree: Any) -> Any:
    """Arrays of no numbers as zeros, where they would be."""

    def stored(x: Any) -> Any:
        return x if x.size else jnp.zeros(_solid(x.shape), x.dtype, device=getattr(x, "sharding", None))

    return jax.tree.map(stored, tree)


def _line(error: BaseException) -> str:
    """What an error of orbax, or of what is below it, says, in one line."""
    text = str(error)
    if "No space left on device" in text:
        return "no space left on the disk"
    return " ".join(text.split())[:300] or type(error).__name__


def _iterations(folder: Path) -> list[int]:
    """Of the checkpoints that are complete: orbax gives a folder its name when all of it is there."""
    if not folder.is_dir():
        return []
    named = (path for path in folder.iterdir() if path.name.isdecimal())
    return sorted(int(path.name) for path in named if ocp.utils.is_checkpoint_finalized(path))


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's ``checkpoint`` folder, or None."""
    known = _iterations(folder)
    return folder / str(known[-1]) if known else None


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """What is logged of orbax's failures is raised, too."""
    return "orbax" not in record.pathname and "orbax" not in record.getMessage()


def _is_late(seen: Any) -> bool:
    """Whether it is a write that ends after orbax gave up all of a checkpoint, as one of them failed."""
    return isinstance(seen.exc_value, RuntimeError) and str(seen.exc_value) == "Event loop is closed"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps off the screen the hundreds of tracebacks of a failed checkpoint, which is told in a line."""
    logs = logging.getLogger("absl"), logging.getLogger("asyncio")  # of tasks that failed, when they go
    before = sys.unraisablehook
    for log in logs:
        log.addFilter(_is_not_orbax)
    sys.unraisablehook = lambda seen: None if _is_late(seen) else before(seen)
    try:
        yield
    finally:
        sys.unraisablehook = before
        for log in logs:
            log.removeFilter(_is_not_orbax)


def _end_of_threads() -> None:
    """Waits for orbax's threads: one failure ends a checkpoint, while others are yet to tell of theirs."""
    end = time.monotonic() + _PATIENCE
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax"):
            # orbax's own join would raise once more what failed
            threading.Thread.join(thread, max(0.0, end - time.monotonic()))


def _prune(folder: Path) -> None:
    """Leaves the newest complete checkpoint and nothing else."""
    newest = latest(folder)
    for path in folder.iterdir():
        if path != newest:
            shutil.rmtree(path, ignore_errors=True)


class Checkpoints:
    """Writes the checkpoints of a run, in the background where memory has room for a copy.

    A checkpoint that could not be written is told of, and the one before it stays. With several
    processes all of them call the same methods in the same order.

    Args:
        folder: the run's ``checkpoint`` folder; what is incomplete in it is removed.
        say: takes a line for the user.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder.absolute(), say
        self._main = jax.process_index() == 0
        if self._main:
            self._folder.mkdir(exist_ok=True)
            _prune(self._folder)
        self._pending: int | None = None
        self._written: int | None = None
        self._has_failed = False
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(_quiet())
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def save(self, iteration: int, items: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Starts to write pytrees of arrays, which may be donated as soon as this returns.

        Args:
            iteration: names the checkpoint.
            items: pytrees by name.
            about: what JSON can hold.
        """
        self.wait()
        items, alone = {name: _storable(plain(tree)) for name, tree in items.items()}, False
        if jax.default_backend() == "cpu":
            # orbax reads a CPU's arrays where they are, and the next chunk of training writes there
            room = memory.available()
            alone = room is not None and memory.size_of(items) > 0.8 * room
            items = items if alone else jax.tree.map(jnp.copy, items)
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._pending = iteration
        try:
            path = self._folder / str(iteration)
            self._writer.save(
                path,
                args=ocp.args.Composite(**args, **{ABOUT: ocp.args.JsonSave({**about, "format": FORMAT})}),
                force=True,
            )
        except (OSError, ValueError) as error:
            self._failed(error)
        self._clean()
        if alone:
            self.wait()

    def wait(self) -> int | None:
        """Waits for the last one started; returns the iteration of the last that was written."""
        if self._pending is None:
            return self._written
        try:
            self._writer.wait_until_finished()
        except (OSError, ValueError) as error:
            self._failed(error)
        else:
            self._written, self._pending = self._pending, None
            if self._main:
                _prune(self._folder)
        self._clean()
        return self._written

    def _failed(self, error: BaseException) -> None:
        left = latest(self._folder)
        kept = f"the last good one is of iteration {left.name}" if left else "there is none yet"
        self._say(f"the checkpoint of iteration {self._pending} was not written: {_line(error)}; {kept}")
        self._pending, self._has_failed = None, True
        _end_of_threads()
        if self._main:
            _prune(self._folder)  # what was written of it takes up the disk

    def _clean(self) -> None:
        """Collects the tasks of failures while nobody hears them, as they speak when they go."""
        if self._has_failed:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # that some never ran
                gc.collect()

    def close(self) -> None:
        """Waits for the last one started and ends the writer."""
        self.wait()
        self._writer.close()
        del self._writer  # which holds the tasks of its last failure
        self._clean()
        self._quiet.close()


def _read(path: Path, args: Any) -> Any:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        try:
            return reader.restore(path.absolute(), args=args)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint {path} cannot be read: {_line(error)}") from None


def about(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        CheckpointError: if it is damaged.
    """
    return _read(path, ocp.args.Composite(**{ABOUT: ocp.args.JsonRestore()}))[ABOUT]


def check_version(path: Path, about: Mapping[str, Any], version: str) -> None:
    """Refuses a checkpoint whose state another version of the package wrote.

    Raises:
        CheckpointError: one line.
    """
    written, kind = about.get("version"), about.get("format", 1)
    if kind != FORMAT:
        raise CheckpointError(
            f"{path} has a state of format {kind}, and roml_jax {version} reads format {FORMAT}: continue it "
            "with the version that wrote it"
        )
    if written != version:
        raise CheckpointError(f"{path} was written by roml_jax {written}, and this is {version}")


def restore(path: Path, item: str, like: Any) -> Any:
    """Reads an item back into the structure and shapes of ``like``; keys are of JAX's default kind.

    It may be read on other devices than it was saved from. With several processes all of them call
    this, and the shapes say where arrays go.

    Args:
        path: one checkpoint, as ``latest`` gives it.
        item: its name.
        like: a pytree of arrays or of their shapes (``jax.eval_shape`` of the state's init), with
            shardings where arrays go elsewhere than on this process's first device.

    Raises:
        CheckpointError: if it is damaged or of other shapes.
    """
    here = SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(
        lambda x, wanted: jax.ShapeDtypeStruct(
            _solid(np.shape(x)), x.dtype, sharding=getattr(wanted, "sharding", None) or here
        ),
        jax.eval_shape(plain, like),
        like,
    )
    if not (path / item).is_dir():
        raise CheckpointError(f"the checkpoint {path} has no {item}")
    saved = _read(path, ocp.args.Composite(**{item: ocp.args.StandardRestore(shapes)}))[item]

    def rebuild(leaf: Any, wanted: Any) -> Any:
        if _is_key(wanted):
            return jax.random.wrap_key_data(leaf)
        return leaf if np.size(wanted) else jnp.zeros(wanted.shape, leaf.dtype, device=leaf.sharding)

    return jax.tree.map(rebuild, saved, like)
