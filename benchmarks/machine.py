"""Description and speed of the machine, for the benchmarks' results."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def describe() -> dict[str, Any]:
    """Processor, accelerator, library versions and calibration."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.is_file()
        else []
    )
    device = jax.devices()[0]
    packages = ("jax", "flax", "optax", "mujoco", "mujoco-mjx", "brax", "distrax")
    return {
        "cpu": names[0].split(":", 1)[1].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": f"{device.platform}: {device.device_kind}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "calibration_per_s": round(calibrate(), 2),
    }


def calibrate(rounds: int = 7) -> float:
    """Median speed of a fixed workload, in rounds per second; other figures are divided by it."""

    def body(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        x = jnp.tanh(x @ x.T / 64)
        return jnp.sort(x, axis=1), None

    work = jax.jit(lambda x: jax.lax.scan(body, x, None, length=50)[0])
    x = jax.random.normal(jax.random.key(0), (128, 128))
    return 1 / median_seconds(lambda: jax.block_until_ready(work(x)), rounds)


def median_seconds(run: Callable[[], Any], rounds: int) -> float:
    """Median time of a function in seconds; it is run once before, to compile it."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # glibc's names for mallopt


def keep_memory() -> None:
    """Keeps memory that a program frees in this process, with glibc; call before programs are timed.

    XLA allocates a program's memory for each of its runs. A part of an iteration that is timed alone would
    touch new pages each time, which takes up to half of its time. Inside a training, which is one program, it
    does not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory_gib() -> float:
    """Peak memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if platform.system() == "Darwin" else 2**20)
