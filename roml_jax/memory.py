"""Whether a run's state fits into memory, known before anything is allocated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from roml_jax.config import Config, ConfigError, to_mapping

_GIB = 2**30
_CAPACITY = {"vae.buffer_trajectories", "buffer_visits"}  # options that say how large a replay is
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


def check(config: Config, state: Any, num_runs: int, devices: int = 1) -> None:
    """Refuses runs whose state cannot fit, and says what would.

    Args:
        config: the runs'.
        state: their MetaState, as shapes.
        num_runs: that it holds.
        devices: that the runs are spread over.

    Raises:
        ConfigError: one line.
    """
    room, needed = available(), size_of(state) / devices
    if room is None or needed <= _SHARE * room:
        return
    replay = size_of(getattr(state.learner, "replay", ())) / devices
    ways = []
    per_run = needed * devices / num_runs
    if num_runs > 1 and per_run < _SHARE * room:
        ways.append(f"at most {int(devices * _SHARE * room / per_run)} runs in one program")
    spare = _SHARE * room - (needed - replay)
    if replay and spare > 0:
        options = to_mapping(config)
        for name in _CAPACITY & options.keys():
            rows = int(options[name] * spare / replay)
            if name == "buffer_visits" and options["slots"]:  # whole batches, and whole turns of the slots
                rows -= rows % math.lcm(config.num_tasks, options["slots"])
            if rows >= config.num_tasks:
                ways.append(f"--{name.replace('_', '-')} {rows}")
        if options.get("vae.replay_dtype") == "full" and needed - replay / 2 <= _SHARE * room:
            ways.append("--vae.replay-dtype bfloat16, half the replay")
    raise ConfigError(
        f"{num_runs} run(s) need {needed / _GIB:.1f} GiB of state ({replay / _GIB:.1f} of it replay), "
        f"and {room / _GIB:.1f} GiB are free"
        + (f"; what would fit: {', or '.join(ways)}" if ways else "; no number of runs would fit")
    )
