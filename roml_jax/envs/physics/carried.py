"""What an episode carries from step to step besides positions, velocities, activations and warm start.

MuJoCo's state is ``mjSTATE_INTEGRATION``. Of its parts, an engine carries those that the model has and that
change within an episode or differ between episodes. Forces that a caller applies are given with each step
and not carried. User data and equality switches are never set, so they keep MuJoCo's initial values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.types import Array

EXACT = frozenset(("time", "history"))
"""Parts that hold times, which single precision would shift against each other. The C engine carries each as
two numbers, (2, ...): the value in single precision and what is missing to double precision."""

DELAYS = frozenset(("actuator_delay", "sensor_delay"))


def in_steps(delays: np.ndarray, timestep: float) -> np.ndarray:
    """Delays (s) that are a whole number of steps up to single precision, made exact; others as they are.

    A delay that is greater than d steps by a rounding error would be one of d + 1 steps.
    """
    steps = np.round(np.asarray(delays, np.float64) / timestep)
    return np.where(np.isclose(delays, steps * timestep, rtol=1e-6, atol=0), steps * timestep, delays)


def check(model: mujoco.MjModel) -> None:
    """Refuses models with state that no episode can carry.

    Raises:
        ValueError: for a model whose bodies sleep or whose contacts are of the kind IPC; one line.
    """
    flags = {"sleep": mujoco.mjtEnableBit.mjENBL_SLEEP, "ipc": mujoco.mjtEnableBit.mjENBL_IPC}
    for name, flag in flags.items():
        if model.opt.enableflags & flag:
            raise ValueError(
                f"the model has the flag {name}=enable, whose memory is not part of MuJoCo's state, so an "
                f"episode cannot carry it; set {name}=disable"
            )


def names(model: mujoco.MjModel, readings: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The carried parts of a model's state, by their names in MuJoCo's data; most models have none.

    The time is carried if something depends on it: a reading, a clock sensor, a delay or a plugin.
    """
    clock = bool(np.any(model.sensor_type == mujoco.mjtSensor.mjSENS_CLOCK))
    parts = {
        "time": "time" in readings or clock or bool(model.nhistory) or bool(model.nplugin),
        "history": bool(model.nhistory),
        "plastic": bool(model.nplastic),  # ty: ignore[missing-attribute]  # the stubs are of MuJoCo 3.17
        "plugin_state": bool(model.npluginstate),
        "mocap_pos": bool(model.nmocap),
        "mocap_quat": bool(model.nmocap),
    }
    return tuple(name for name, has in parts.items() if has)


def given_parts(names: Sequence[str], given: Mapping[str, Array]) -> dict[str, Array]:
    """Those of the carried parts that are given, as the C engine carries them."""
    parts = {name: given[name] for name in names if name in given}
    return {
        name: jnp.stack([part, jnp.zeros_like(part)]) if name in EXACT else part
        for name, part in parts.items()
    }
