"""Several processes as one run: starting together, agreeing on what to do, ending together.

Every process runs the same program on the same options; XLA moves arrays between their devices. What
only one may do (folders, metrics, the console) process 0 does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from roml_jax.config import ConfigError, DistributedConfig

_LONGEST = 8192  # bytes of a message between processes
_LOOKS = 20  # at a folder that another machine has just made, half a second apart


def initialize(config: DistributedConfig) -> None:
    """Joins the other processes, if there are to be any; before anything asks for a device.

    Raises:
        ConfigError: where the options do not say who is who, or the others do not come; one line.
    """
    named = (config.coordinator, config.processes, config.process_id)
    if not config.auto and named == (None, None, None):
        return
    if config.auto and named != (None, None, None):
        raise ConfigError("distributed.auto finds out coordinator, processes and process_id: give none")
    if not config.auto:
        _check(config)
    # a service that nobody here asks anything, but with which SIGTERM would no longer end a process
    jax.config.update("jax_enable_preemption_service", False)
    try:
        # explicit options mean themselves, on a cluster too
        known = {} if config.auto else {"cluster_detection_method": "deactivate"}
        jax.distributed.initialize(*named, **known)
    except (ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"the processes did not come together: {line}") from None


def _check(config: DistributedConfig) -> None:
    """Refuses options that do not say who is who."""
    coordinator, processes, process_id = config.coordinator, config.processes, config.process_id
    if coordinator is None or processes is None or process_id is None:
        raise ConfigError(
            "several processes need distributed.coordinator, .processes and .process-id, or distributed.auto"
        )
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdecimal():
        raise ConfigError(f"distributed.coordinator must be HOST:PORT, got {coordinator!r}")
    if process_id >= processes:
        raise ConfigError(
            f"distributed.process_id must be below distributed.processes={processes}, got {process_id}"
        )


def is_main() -> bool:
    """Whether this is process 0, the one that prints and writes."""
    return jax.process_index() == 0


def check_same(options: Mapping[str, Any]) -> None:
    """Refuses processes that were told different things: their programs would wait for each other.

    Raises:
        ConfigError: in every process, if the options are not the same in all.
    """
    if jax.process_count() == 1:
        return
    digest = zlib.crc32(repr(sorted(options.items())).encode())
    if not np.all(multihost_utils.process_allgather(np.uint32(digest)) == digest):
        raise ConfigError("the processes have different options; all but distributed.* must be the same")


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Whether a flag is up in any process; the same in all."""
    if jax.process_count() == 1:
        return flags
    return tuple(map(bool, multihost_utils.process_allgather(np.array(flags)).any(axis=0)))


def shared_folder(make: Callable[[], Path]) -> Path:
    """A folder that process 0 makes and all processes see.

    Raises:
        ConfigError: in every process, with what process 0 has to say, or where one does not see it.
    """
    if jax.process_count() == 1:
        return make()
    folder = Path(_from_main(lambda: str(make().absolute())))
    looks = (folder.is_dir() or time.sleep(0.5) for _ in range(_LOOKS))
    if not multihost_utils.process_allgather(np.bool_(any(looks))).all():
        raise ConfigError(f"not all processes see the run's folder {folder}: --out must be on a shared disk")
    return folder


def _from_main(say: Callable[[], str]) -> str:
    """What process 0 says, in all processes; its ConfigError is raised in all."""
    said = ""
    if is_main():
        try:
            said = "+" + say()
        except ConfigError as error:
            said = f"-{error}"
    message = np.zeros(_LONGEST, np.uint8)
    encoded = np.frombuffer(said.encode()[:_LONGEST], np.uint8)
    message[: len(encoded)] = encoded
    told = bytes(multihost_utils.broadcast_one_to_all(message)).rstrip(b"\0").decode(errors="replace")
    if told.startswith("-"):
        raise ConfigError(told[1:])
    return told[1:]


def abandon(code: int) -> None:
    """Ends this process at once if there are others; returns if there are none.

    An orderly end waits for all, and the others may be in the middle of something that needs this one.
    They end when they notice that it is gone.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def not_waiting() -> Iterator[None]:
    """An unexpected error within ends this process at once, told as usual."""
    try:
        yield
    except Exception:
        if jax.distributed.is_initialized():
            traceback.print_exc()
            abandon(1)
        raise
