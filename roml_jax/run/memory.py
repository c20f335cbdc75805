"""Checks before any allocation whether a run's state fits in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from roml_jax.agents.base import Storage
from roml_jax.config.values import flag
from roml_jax.errors import ConfigError

_GIB = 2**30
_SHARE = 0.9  # of the free memory; the rest is for activations and the compiler


def size_of(tree: Any) -> int:
    """Bytes of a pytree of arrays or of their shapes. A random key counts 16 bytes."""

    def one(x: Any) -> int:
        width = 16 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
        return int(np.prod(x.shape)) * width

    return sum(one(x) for x in jax.tree.leaves(tree))


def available() -> int | None:
    """Free bytes of the first device (for a CPU: of the machine, or its cgroup limit); None if unknown."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    limit = Path("/sys/fs/cgroup/memory.max")
    confined = limit.read_text().strip() if limit.is_file() else "max"
    return min(free["MemAvailable"], int(confined)) if confined.isdigit() else free["MemAvailable"]


def check(
    state: Any,
    num_seeds: int,
    *,
    storage: Storage | None = None,
    rows: int = 0,
    least_rows: int = 1,
    devices: float = 1,
) -> None:
    """Rejects seeds whose state cannot fit in memory, with settings that would fit.

    Args:
        state: the MetaState of all seeds, as shapes.
        num_seeds: number of seeds in the state.
        storage: where the learner stores experience; None if it stores none.
        rows: number of stored rows that the storage's option sets.
        least_rows: the smallest number of rows that the learner can work with.
        devices: number of memories that the seeds are spread over; below 1 if one holds states repeatedly.

    Raises:
        ConfigError: if the state does not fit; one line with settings that would fit.
    """
    room, needed = available(), size_of(state) / devices
    if room is None or needed <= _SHARE * room:
        return
    replay = size_of(storage.take(state.learner)) / devices if storage else 0.0
    ways = []
    per_seed = needed * devices / num_seeds
    if num_seeds > 1 and per_seed < _SHARE * room:
        ways.append(f"at most {int(devices * _SHARE * room / per_seed)} seeds in one program")
    spare = _SHARE * room - (needed - replay)
    if storage and replay and spare > 0:
        fitting = int(rows * spare / replay)
        fitting -= fitting % storage.multiple
        if fitting >= least_rows:
            ways.append(f"{flag(storage.rows)} {fitting}")
    if storage and storage.halved_by:
        halved = storage.halved_by
        less = size_of(halved.part(storage.take(state.learner))) / devices / 2
        if needed - less <= _SHARE * room:
            ways.append(f"{flag(halved.name)} {halved.value} ({less / _GIB:.1f} GiB less)")
    raise ConfigError(
        f"{num_seeds} seed(s) need {needed / _GIB:.1f} GiB of state ({replay / _GIB:.1f} of it replay), "
        f"but {room / _GIB:.1f} GiB are free"
        + (f"; settings that fit: {', or '.join(ways)}" if ways else "; not even one seed fits")
    )
