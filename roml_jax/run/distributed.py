"""One run on several processes: connecting, agreeing on options and signals, ending.

Every process runs the same program with the same options; XLA moves arrays between their devices. Only
process 0 creates folders, writes metrics and prints.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from roml_jax.config import ConfigError, DistributedConfig

_LONGEST = 8192  # maximum bytes of a message between processes
_LOOKS = 20  # checks, half a second apart, for a folder that another machine has just created


def initialize(config: DistributedConfig) -> None:
    """Connects to the other processes, if the options name any. Must be called before JAX uses a device.

    Raises:
        ConfigError: if the options do not identify the processes, or they cannot connect; one line.
    """
    named = (config.coordinator, config.processes, config.process_id)
    if not config.auto and named == (None, None, None):
        return
    if config.auto and named != (None, None, None):
        raise ConfigError("distributed.auto detects coordinator, processes and process_id: do not set them")
    if not config.auto:
        _check(config)
    # not used here; if it is enabled, SIGTERM no longer ends a process
    jax.config.update("jax_enable_preemption_service", False)
    try:
        # on a cluster, explicit options take precedence over its settings
        detection = None if config.auto else "deactivate"
        jax.distributed.initialize(*named, cluster_detection_method=detection)
    except (ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"the processes could not connect: {line}") from None


def _check(config: DistributedConfig) -> None:
    """Rejects options that do not identify the processes."""
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
    """Whether this is process 0, the only one that prints and writes."""
    return jax.process_index() == 0


def check_same(options: Mapping[str, Any]) -> None:
    """Rejects processes with different options, whose programs would deadlock.

    Raises:
        ConfigError: in every process, if the options are not the same in all processes.
    """
    if jax.process_count() == 1:
        return
    digest = zlib.crc32(repr(sorted(options.items())).encode())
    if not np.all(multihost_utils.process_allgather(np.uint32(digest)) == digest):
        raise ConfigError("the processes have different options; all but distributed.* must be the same")


def any_of(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set in any process. All processes get the same result."""
    if jax.process_count() == 1:
        return flags
    return tuple(map(bool, multihost_utils.process_allgather(np.array(flags)).any(axis=0)))


def shared_folder(make: Callable[[], Path]) -> Path:
    """Creates a folder in process 0 and waits until all processes see it.

    Args:
        make: creates the folder; called in process 0 only.

    Raises:
        ConfigError: in every process, if ``make`` raises it in process 0 or a process does not see the
            folder.
    """
    if jax.process_count() == 1:
        return make()
    folder = Path(from_main(lambda: str(make().absolute())))
    looks = (folder.is_dir() or time.sleep(0.5) for _ in range(_LOOKS))
    if not multihost_utils.process_allgather(np.bool_(any(looks))).all():
        raise ConfigError(f"not all processes see the run's folder {folder}: --out must be on a shared disk")
    return folder


def from_main(say: Callable[[], str]) -> str:
    """Sends the string that ``say`` returns in process 0 to all; its ConfigError is raised in all."""
    if jax.process_count() == 1:
        return say()
    answer = ""
    if is_main():
        try:
            answer = "+" + say()
        except ConfigError as error:
            answer = f"-{error}"
    message = np.zeros(_LONGEST, np.uint8)
    encoded = np.frombuffer(answer.encode()[:_LONGEST], np.uint8)
    message[: len(encoded)] = encoded
    received = bytes(multihost_utils.broadcast_one_to_all(message)).rstrip(b"\0").decode(errors="replace")
    if received.startswith("-"):
        raise ConfigError(received[1:])
    return received[1:]


def abandon(code: int) -> None:
    """Ends this process immediately if the run has several processes; otherwise returns.

    A normal exit would wait for the other processes, which may in turn be waiting for this one. The others
    end when they detect that it is gone.

    Args:
        code: the exit code.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def not_waiting() -> Generator[None]:
    """Context in which an unexpected error prints its traceback and ends this process immediately."""
    try:
        yield
    except Exception:
        if jax.distributed.is_initialized():
            traceback.print_exc()
            abandon(1)
        raise
