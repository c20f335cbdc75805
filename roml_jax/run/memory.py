"""Whether a run's state fits in memory, known before anything is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from roml_jax.agents.base import Storage
from roml_jax.config.values import flag
from roml_jax.errors import ConfigError

_GIB = 2**30
_SHARE = 0.9  # of what is free; the rest is for activations and the compiler


def size_of(tree: Any) -> int:
    """Bytes of a pytree of arrays or of their shapes; random keys count as the numbers they hold."""

    def one(x: Any) -> int:
        width = 16 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
        return int(np.prod(x.shape)) * width

    return sum(one(x) for x in jax.tree.leaves(tree))


def available() -> int | None:
    """Bytes that the first device has free, the machine's for a CPU; None where nobody tells."""
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
    devices: int = 1,
) -> None:
    """Rejects seeds whose state cannot fit in memory, with settings that would fit.

    Args:
        state: their MetaState, as shapes.
        num_seeds: that it holds.
        storage: where the learner keeps experience; None for none.
        rows: that the storage's option asks for.
        least_rows: the fewest that the learner can work with.
        devices: that the seeds are spread over.

    Raises:
        ConfigError: one line.
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
        if storage.halved_by and needed - replay / 2 <= _SHARE * room:
            name, value = storage.halved_by
            ways.append(f"{flag(name)} {value}, half the replay")
    raise ConfigError(
        f"{num_seeds} seed(s) need {needed / _GIB:.1f} GiB of state ({replay / _GIB:.1f} of it replay), "
        f"and {room / _GIB:.1f} GiB are free"
        + (f"; what would fit: {', or '.join(ways)}" if ways else "; not even one seed fits")
    )
