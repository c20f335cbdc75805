"""Host devices: one per core, so that a CPU trains several seeds at the same time."""

from __future__ import annotations

import os

import jax

from roml_jax.config import Config
from roml_jax.errors import ConfigError
from roml_jax.run import sharding

_FLAG = "xla_force_host_platform_device_count"
_OPTION = "jax_num_cpu_devices"


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _started(count: int) -> bool:
    """Sets the number of host devices; returns whether it could, which it cannot once JAX has started."""
    try:
        jax.config.update(_OPTION, count)
    except RuntimeError:
        return False
    return True


def devices(count: int | None = None) -> int:
    """Starts several host devices, so that the seeds of a run are divided among the cores of a CPU.

    Call it before anything that uses JAX's devices: ``roml_jax.devices()``, then ``roml_jax.train(...)``. The
    command ``python -m roml_jax.train`` does this by itself. On an accelerator it has no effect.

    Args:
        count: number of devices; the number of cores by default.

    Returns:
        The number of host devices.

    Raises:
        ConfigError: if JAX has started with another number of devices, or for a count below 1; one line.
    """
    chosen = cores() if count is None else count
    if chosen < 1:
        raise ConfigError(f"the number of devices must be at least 1, got {chosen}")
    if not _started(chosen):
        there = len(jax.devices("cpu"))
        if there != chosen:
            raise ConfigError(
                f"JAX has started with {there} host device(s), so there cannot be {chosen}: call "
                "roml_jax.devices before anything else that uses JAX"
            )
    return chosen


def for_run(config: Config) -> None:
    """Starts as many host devices as cores that divide a run's seeds, or as its mesh needs.

    Has no effect in a run of several processes, with ``--mesh none``, or where the environment says how many
    host devices there are.
    """
    distributed = config.distributed
    several = distributed.auto or distributed.processes is not None
    by_hand = _FLAG in os.environ.get("XLA_FLAGS", "") or getattr(jax.config, _OPTION) != -1
    if several or by_hand or config.mesh == "none":
        return
    seeds = len(config.plan)
    count = next(n for n in range(min(cores(), seeds), 0, -1) if seeds % n == 0)
    if config.mesh != "auto":
        try:
            count = sharding.devices_of(config.mesh)
        except ValueError:
            return  # told with the valid meshes when the run is built
    if count > 1:
        _started(count)
