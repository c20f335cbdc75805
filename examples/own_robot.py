"""A robot of your own: a cart carries a crate, which slides off if the cart accelerates too fast.

The tasks are two edits of the model: a payload that is added to the crate's mass, and a factor on the
friction between crate and bed. The robot observes neither. The reward is the distance travelled in two
seconds. Losing the crate ends the episode and costs half a metre. High speed pays off on most tasks but not
on slippery ones, so the plain and the robust meta-learner should choose different speeds.

    python examples/own_robot.py
    python -m roml_jax.train --import examples.own_robot --env own_robot --sampler cem --frames 5e5
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

import roml_jax as roml
from roml_jax import envs
from roml_jax.api import Run

CART = """
<mujoco>
  <option timestep="0.01" cone="pyramidal"/>
  <worldbody>
    <body name="cart" pos="0 0 0.1">
      <joint name="rail" type="slide" axis="1 0 0" damping="0.5"/>
      <geom name="bed" type="box" size="0.4 0.2 0.02" mass="1" friction="0.4"/>
    </body>
    <body name="crate" pos="0 0 0.17">
      <joint name="slip" type="slide" axis="1 0 0"/>
      <joint name="lift" type="slide" axis="0 0 1"/>
      <geom name="box" type="box" size="0.1 0.1 0.05" mass="1" friction="0.4"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="drive" joint="rail" gear="8" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""
ALPHA, FRAMES = 0.05, 5.2e5
EDGE = 0.3  # metres from the bed's middle to where the crate tips


def _slip(view: envs.View) -> jax.Array:
    """Where the crate is on the bed, in metres from its middle."""
    return view.qpos[1] - view.qpos[0]


def _reward(motion: envs.Motion) -> dict[str, jax.Array]:
    return {
        "distance": motion.after.qpos[0] - motion.before.qpos[0],
        "lost": -0.5 * (jnp.abs(_slip(motion.after)) > EDGE),
    }


def own_robot() -> envs.TaskEnv:
    """Carry a crate as far as possible; the tasks are its payload (kg) and its friction (a factor)."""
    return envs.TaskEnv.from_mjcf(
        CART,
        tasks=(
            envs.TaskDimension("payload", 0.0, 2.0, (envs.Edit("body_mass", "add", "crate"),)),
            envs.TaskDimension(
                "friction", 0.25, 2.0, (envs.Edit("geom_friction", "scale", ("bed", "box"), column=0),), "log"
            ),
        ),
        reward=_reward,
        observation={"speed": lambda view: view.qvel[:1], "travelled": lambda view: view.qpos[:1]},
        terminate=lambda view: jnp.abs(_slip(view)) > EDGE,
        frame_skip=10,
        horizon=20,
        episodes=2,
        engine="mujoco",
        name="own_robot",
    )


envs.register("own_robot", own_robot)


def train(sampler: str, frames: float = FRAMES, seed: int = 0) -> Run:
    """Trains VariBAD on the robot with a sampler, and tests it on 1,000 held-out tasks."""
    return roml.train(
        "own_robot", sampler=sampler, frames=frames, alpha=ALPHA, seeds=[seed], num_tasks=64, chunk=20,
        learning_starts=200, quiet=True,
        **{"eval.test_tasks": 1000, "ppo.lr": 1e-3, "ppo.epochs": 4, "ppo.layers": [32],
           "ppo.minibatches": 4, "ppo.clip": 0.2, "vae.latent": 3, "vae.hidden": 32, "vae.latents": 5,
           "vae.decodes": 5, "vae.buffer_trajectories": 1000, "vae.tbptt": None},
    )  # fmt: skip


def main() -> None:
    """Trains both and prints mean and CVaR on the same held-out tasks."""
    for sampler in ("uniform", "cem"):
        start = time.monotonic()
        (summary,) = train(sampler).summary()
        print(
            f"{sampler:8s} mean {summary['return_mean']:5.2f} m  CVaR_{ALPHA:g} {summary['cvar']:5.2f} m  "
            f"({time.monotonic() - start:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
