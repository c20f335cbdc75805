"""A run's checkpoints, written with orbax: asynchronous and atomic; only the last one is kept.

``RUN/checkpoint/ITERATION`` has one folder per item: ``state`` (the whole MetaState), ``last``, ``best_mean``
and ``best_cvar`` (the learner's acting parameters) and ``about`` (JSON).
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from roml_jax.run import distributed, files, memory

ABOUT = "about"
FORMAT = 3
"""Format version of the saved state. Version 2 added the samplers' risk level; in version 3, the states of
optimisers and the history of the cross-entropy method are few arrays."""
_PATIENCE = 10.0  # seconds to wait for orbax's remaining threads after a failed checkpoint


class CheckpointError(Exception):
    """A checkpoint cannot be read or used; the message is one line."""


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def plain(tree: Any) -> Any:
    """Replaces random keys by their raw key data."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def solid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array on disk. Axes of size 0 (no latent) become 1: orbax rejects empty arrays."""
    return tuple(max(size, 1) for size in shape)


def _storable(tree: Any) -> Any:
    """Replaces empty arrays by zeros of their on-disk shape, with the same sharding."""

    def stored(x: Any) -> Any:
        return x if x.size else jnp.zeros(solid(x.shape), x.dtype, device=getattr(x, "sharding", None))

    return jax.tree.map(stored, tree)


@jax.jit
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _line(error: BaseException) -> str:
    """The message of an error from orbax or a lower layer, in one line of at most 300 characters."""
    text = str(error)
    if "No space left on device" in text:
        return "no space left on the disk"
    return " ".join(text.split())[:300] or type(error).__name__


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's ``checkpoint`` folder, or None; its iteration is its name.

    Orbax renames a folder when all of its files are written. An iteration that was saved again has a zero
    more before its number, so that its first checkpoint could stay until then.
    """
    if not folder.is_dir():
        return None
    named = (path for path in folder.iterdir() if path.name.isdecimal())
    complete = (path for path in named if ocp.utils.is_checkpoint_finalized(path))
    return max(complete, key=lambda path: (int(path.name), len(path.name)), default=None)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """Logging filter that drops orbax's records; the errors they report are also raised."""
    trace = record.exc_info[2] if record.exc_info else None
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    return not any("orbax" in text for text in (record.pathname, record.getMessage(), *files))


def _is_late(seen: Any) -> bool:
    """Whether the error comes from orbax's part of a write or read that has failed, and was told, already."""
    code = getattr(seen.object, "cr_code", None)
    if code is not None and "orbax" in code.co_filename:
        return True
    return isinstance(seen.exc_value, RuntimeError) and str(seen.exc_value) == "Event loop is closed"


def _quietened() -> Callable[[], None]:
    """Suppresses the many tracebacks of a failed write or read, which is reported in one line.

    Returns:
        What undoes it. No context manager: one that is not left is left when it is collected.
    """
    logs = logging.getLogger("absl"), logging.getLogger("asyncio")  # asyncio logs failed tasks on deletion
    before = sys.unraisablehook

    def hears(record: logging.LogRecord) -> bool:  # one of this call's own, since a logger has a filter once
        return _is_not_orbax(record)

    for log in logs:
        log.addFilter(hears)
    sys.unraisablehook = lambda seen: None if _is_late(seen) else before(seen)

    def undo() -> None:
        sys.unraisablehook = before
        for log in logs:
            log.removeFilter(hears)

    return undo


def _end_of_threads() -> None:
    """Waits for orbax's remaining threads; they may log further errors."""
    end = time.monotonic() + _PATIENCE
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax"):
            # the join method of orbax's thread class would raise the error again
            threading.Thread.join(thread, max(0.0, end - time.monotonic()))


def _prune(folder: Path) -> None:
    """Deletes everything but the newest complete checkpoint."""
    newest = latest(folder)
    for path in folder.iterdir():
        if path != newest:
            shutil.rmtree(path, ignore_errors=True)


class Checkpoints:
    """Writes the checkpoints of a run, in the background if memory has room for a copy of the state.

    A checkpoint that could not be written is reported; the previous checkpoint is kept. With several
    processes, all processes must call the same methods in the same order.

    Args:
        folder: the run's ``checkpoint`` folder. Incomplete checkpoints in it are deleted.
        say: called with a line for the user.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder.absolute(), say
        self._main = jax.process_index() == 0
        # process 0 says it, since it removes the others, and all must write to the same path
        self._written = distributed.from_main(lambda: getattr(latest(self._folder), "name", ""))
        if self._main:
            self._folder.mkdir(exist_ok=True)
            _prune(self._folder)
        self._pending: str | None = None
        self._lost = False  # whether the last one could not be written
        self._has_failed = False
        self._loud = _quietened()
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def save(self, iteration: int, items: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Starts to write pytrees of arrays. The arrays may be donated as soon as this returns.

        Args:
            iteration: of the checkpoint. If the last one is of it, that one stays until this one is written.
            items: pytrees by name.
            about: facts about the checkpoint; must be serialisable as JSON.
        """
        self.wait()
        items, in_place = {name: _storable(plain(tree)) for name, tree in items.items()}, False
        if jax.default_backend() == "cpu":
            # on CPU orbax reads the arrays in place, while the next chunk of training overwrites them
            room = memory.available()
            in_place = room is not None and memory.size_of(items) > 0.8 * room
            items = items if in_place else _copied(items)
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        written = self._written
        again = written and int(written) == iteration
        self._pending = f"0{written}" if again else str(iteration)
        try:
            self._writer.save(
                self._folder / self._pending,
                args=ocp.args.Composite(**args, **{ABOUT: ocp.args.JsonSave({**about, "format": FORMAT})}),
                force=True,
            )
        except (OSError, ValueError) as error:
            self._failed(error)
        self._clean()
        if in_place:
            self.wait()

    def wait(self) -> int | None:
        """Waits for the checkpoint in progress.

        Returns:
            The iteration of the run's last checkpoint; None if there is none, or if the last one that was to
            be written could not be.
        """
        if self._pending is not None:
            try:
                self._writer.wait_until_finished()
            except (OSError, ValueError) as error:
                self._failed(error)
            else:
                self._written, self._pending, self._lost = self._pending, None, False
                if self._main:
                    # a power cut must not find the old one deleted and the new one not yet on the disk
                    files.sync(self._folder)
                    _prune(self._folder)
            self._clean()
        return int(self._written) if self._written and not self._lost else None

    def _failed(self, error: BaseException) -> None:
        last, number = latest(self._folder), int(self._pending or 0)
        remaining = f"the last good one is of iteration {int(last.name)}" if last else "no earlier one exists"
        self._say(f"the checkpoint of iteration {number} was not written: {_line(error)}; {remaining}")
        self._pending, self._has_failed, self._lost = None, True, True
        _end_of_threads()
        if self._main:
            _prune(self._folder)  # frees the disk space of the incomplete checkpoint

    def _clean(self) -> None:
        """Collects failed asyncio tasks now, with their warnings suppressed."""
        if self._has_failed:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # "coroutine was never awaited"
                gc.collect()

    def close(self) -> None:
        """Waits for the checkpoint in progress and closes the writer."""
        self.wait()
        self._writer.close()
        del self._writer  # it holds references to the failed tasks
        self._clean()
        if not self._has_failed:
            self._loud()  # after a failure the filters stay: a task may still be deleted later


def _read(path: Path, args: Any) -> Any:
    handler = ocp.CompositeCheckpointHandler()
    return _reading(path, handler, lambda reader: reader.restore(path.absolute(), args=args))


def _reading(path: Path, handler: Any, read: Callable[[ocp.Checkpointer], Any]) -> Any:
    """Reads of a checkpoint with one of orbax's handlers; its errors become one line."""
    loud = _quietened()
    with ocp.Checkpointer(handler) as reader:
        try:
            value = read(reader)
        except json.JSONDecodeError:
            why = (
                "is damaged: one of its JSON files is incomplete; "
                "restore the folder from a copy, or train again"
            )
        except Exception as error:  # orbax and the layers below raise errors of many kinds
            why = f"cannot be read, it may be damaged or incomplete: {_line(error)}"
        else:
            loud()
            return value
    # The filters stay: what else was read at the same time fails now, or when its thread ends.
    gc.collect()
    raise CheckpointError(f"the checkpoint {path} {why}")


def about(path: Path) -> dict[str, Any]:
    """The ``about`` item of a checkpoint: its version, iteration, configuration and so on.

    Raises:
        CheckpointError: if the checkpoint is damaged.
    """
    return _read(path, ocp.args.Composite(**{ABOUT: ocp.args.JsonRestore()}))[ABOUT]


def check_version(path: Path, about: Mapping[str, Any], version: str) -> None:
    """Rejects a checkpoint that another version of the package wrote.

    Raises:
        CheckpointError: if the version or the format differs; one line.
    """
    written, kind = about.get("version"), about.get("format", 1)
    if kind != FORMAT:
        raise CheckpointError(
            f"{path} has a state of format {kind}, but roml_jax {version} reads format {FORMAT}: resume it "
            "with the version that wrote it"
        )
    if written != version:
        raise CheckpointError(f"{path} was written by roml_jax {written}, but this is roml_jax {version}")


def restore(path: Path, item: str, like: Any) -> Any:
    """Reads an item into the structure and shapes of ``like``. Random keys have JAX's default implementation.

    The devices may differ from those that the checkpoint was saved from. With several processes, all
    processes must call this, and ``like`` must have shardings.

    Args:
        path: one checkpoint, as returned by ``latest``.
        item: the name of the item.
        like: a pytree of arrays or of their shapes (``jax.eval_shape`` of the state's init). Its shardings
            are used; an array without one is placed on this process's first device.

    Raises:
        CheckpointError: if the item is missing or damaged, or has other shapes.
    """
    here = SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(
        lambda x, wanted: jax.ShapeDtypeStruct(
            solid(np.shape(x)), x.dtype, sharding=getattr(wanted, "sharding", None) or here
        ),
        jax.eval_shape(plain, like),
        like,
    )
    _check_item(path, item)
    saved = _read(path, ocp.args.Composite(**{item: ocp.args.StandardRestore(shapes)}))[item]
    return jax.tree.map(rebuilt, saved, like)


def rebuilt(leaf: Any, wanted: Any) -> Any:
    """An array as ``wanted`` is, from its stored form: a random key, or an array without elements."""
    if _is_key(wanted):
        return jax.random.wrap_key_data(leaf)
    return leaf if np.size(wanted) else jnp.zeros(wanted.shape, leaf.dtype, device=leaf.sharding)


def _check_item(path: Path, item: str) -> None:
    if not (path / item).is_dir():
        raise CheckpointError(f"the checkpoint {path} has no {item}")


def contents(path: Path, item: str) -> Any:
    """The arrays of an item as stored: nested mappings and lists of shapes, placed on the first device.

    Raises:
        CheckpointError: if the item is missing or damaged.
    """
    _check_item(path, item)
    here = SingleDeviceSharding(jax.local_devices()[0])
    where = (path / item).absolute()
    about = _reading(path, ocp.PyTreeCheckpointHandler(), lambda reader: reader.metadata(where))
    tree = getattr(about.item_metadata, "tree", None)
    if tree is None:
        raise CheckpointError(f"the checkpoint {path} cannot be read: its {item} has no list of arrays")
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree)


def restore_part(path: Path, item: str, shapes: Any) -> Any:
    """Reads a part of an item, as stored.

    Args:
        path: one checkpoint, as returned by ``latest``.
        item: the name of the item.
        shapes: the part of what ``contents`` returns, without some entries of its mappings.

    Raises:
        CheckpointError: if the item is damaged.
    """
    args = ocp.args.PyTreeRestore(
        shapes, restore_args=ocp.checkpoint_utils.construct_restore_args(shapes), partial_restore=True
    )
    where = (path / item).absolute()
    return _reading(path, ocp.PyTreeCheckpointHandler(), lambda reader: reader.restore(where, args=args))
