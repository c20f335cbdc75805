"""A one-legged robot that hops although its mass, ground, motors and network are not known exactly.

The model is an MJCF file. A task is a factor on all masses, a factor on the friction of the foot, a factor on
the strength of the motors, and the latency of the actions. The policy observes none of them, and its sensors
are noisy. A fall ends an episode.

    python -m roml_jax.train --import examples.robust_hopper --env robust_hopper --sampler cem --seeds 0..4

docs/robust_hopper.md goes from this file to a verdict and an exported policy.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from roml_jax import envs

MODEL = Path(__file__).with_name("hopper.xml")
SLIP = envs.Edit("geom_friction", "scale", ("foot", "floor"), column=0)
HEIGHT, PITCH = 0.7, 0.3  # the robot has fallen with its torso below (m) or tilted more than this (rad)


def upright(view: envs.View) -> jax.Array:
    """Whether the robot has not fallen."""
    return (view.qpos[1] > HEIGHT) & (jnp.abs(view.qpos[2]) < PITCH)


def reward(motion: envs.Motion) -> dict[str, jax.Array]:
    """Speed (m/s), minus a penalty on actions, plus one for each step upright."""
    return {
        "forward": (motion.after.qpos[0] - motion.before.qpos[0]) / motion.dt,
        "control": -1e-3 * jnp.square(motion.action).sum(),
        "upright": 1.0 * upright(motion.after),
    }


def robust_hopper() -> envs.Env:
    """Hop forward; tasks are mass, friction, motor strength and latency; sensors are noisy."""
    env = envs.TaskEnv.from_mjcf(
        MODEL,
        tasks=(
            envs.TaskDimension("mass", 0.5, 2.0, (envs.Edit("body_mass"),), "log"),
            envs.TaskDimension("friction", 0.3, 1.5, (SLIP,), "log"),
            envs.TaskDimension("motor", 0.5, 1.5, (envs.Edit("actuator_gear", column=0),), "log"),
            envs.TaskDimension("latency_ms", 0.0, 32.0),
        ),
        observation={
            "position": lambda view: view.qpos[1:],  # without x
            "velocity": lambda view: jnp.clip(view.qvel, -10.0, 10.0),
        },
        reward=reward,
        terminate=lambda view: ~upright(view),
        action="ctrlrange",
        frame_skip=4,  # a control step is 8 ms
        horizon=250,
        episodes=2,
        name="robust_hopper",
    )  # fmt: skip
    env = envs.noise(env, std={"position": 0.005, "velocity": 0.05}, bias={"position": 0.01})
    return envs.delay(env, action="latency_ms", unit="ms")


envs.register("robust_hopper", robust_hopper)
