"""Runs an exported policy on a half-cheetah of unknown mass, in plain MuJoCo, without importing roml_jax.

    python -m roml_jax.train --env cheetah_mass --frames 3e6 --out runs/cheetah
    python -m roml_jax.export runs/cheetah --out policy.zip
    python examples/deploy.py policy.zip --mass 1.7

The exported file needs only JAX. The policy gets observations and rewards, but not the mass.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import mujoco
import numpy as np
from jax import export

RADIUS = 0.046  # of a limb, in metres; it grows with the mass, as in training
FRAME_SKIP = 5


class Policy:
    """An exported policy, for one robot."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as file:
                self.signature = json.loads(file.read("signature.json"))
                functions = [export.deserialize(bytearray(file.read(name))) for name in
                             ("begin", "act", "observe")]  # fmt: skip
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{path} is no exported policy: {error}") from None
        # under jit a call is a dispatch to a compiled program; without, JAX interprets it anew at every step
        self._begin, self._act, self._observe = (jax.jit(function.call) for function in functions)
        self._warm_up()

    def _warm_up(self) -> None:
        """Compiles all functions, so that the robot's first step is as fast as the others."""
        self.forget()
        obs = np.zeros(self.signature["observation"]["size"])
        for _ in range(2):  # the second time with a memory that the functions returned
            self.act(obs)
            self.observe(0.0, obs)
        self.forget()

    def forget(self) -> None:
        """Another robot: what was learned of the last one is gone."""
        self._memory = self._begin(np.zeros(1, np.int32))  # a seed, for agents that explore

    def act(self, obs: np.ndarray) -> np.ndarray:
        """An action for an observation."""
        self._check(obs)
        action, self._memory = self._act(self._memory, obs[None].astype(np.float32))
        return np.asarray(action[0])

    def observe(self, reward: float, obs: np.ndarray) -> None:
        """What came of the action; the end of an episode is known by the number of steps."""
        self._check(obs)
        rewards, end = np.array([reward], np.float32), np.array([False])
        self._memory = self._observe(self._memory, rewards, obs[None].astype(np.float32), end)

    def _check(self, obs: np.ndarray) -> None:
        """Names the sensors that fail; the exported functions themselves would skip such a step."""
        for name, (start, stop) in self.signature["observation"]["parts"].items():
            if not np.isfinite(obs[start:stop]).all():
                raise ValueError(f"the observation's part {name!r} is not finite: {obs[start:stop]}")


class Cheetah:
    """Gymnasium's half-cheetah with every mass and limb radius times a factor."""

    def __init__(self, mass: float, seed: int) -> None:
        path = resources.files("gymnasium") / "envs/mujoco/assets/half_cheetah.xml"
        spec = mujoco.MjSpec.from_file(str(path))
        total, spec.compiler.settotalmass = spec.compiler.settotalmass, -1  # which MuJoCo warns of
        self.model = spec.compile()
        mujoco.mj_setTotalmass(self.model, total * mass)
        for geom in spec.geoms:
            if geom.type == mujoco.mjtGeom.mjGEOM_CAPSULE:
                geom.size[0] = RADIUS * mass
        thick = spec.compile()
        for field in ("geom_size", "geom_rbound", "geom_aabb", "bvh_aabb"):  # and their collision boxes
            setattr(self.model, field, getattr(thick, field))
        self.model.geom_margin *= 0.5  # MuJoCo adds up the margins of two geoms since 3.4
        self.data = mujoco.MjData(self.model)
        mujoco.mj_setConst(self.model, self.data)
        self._random = np.random.default_rng(seed)

    def observation(self) -> np.ndarray:
        """Positions without the root's x, velocities, and where the torso is."""
        return np.concatenate([self.data.qpos[1:], self.data.qvel, self.data.xpos[1]])

    def reset(self) -> np.ndarray:
        """Near the initial position."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos += self._random.uniform(-0.1, 0.1, self.model.nq)
        self.data.qvel = 0.1 * self._random.normal(size=self.model.nv)
        mujoco.mj_forward(self.model, self.data)
        return self.observation()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float]:
        """One control step of 0.05 s: observation and reward."""
        before = self.data.qpos[0]
        self.data.ctrl = np.clip(action, -1, 1)
        mujoco.mj_step(self.model, self.data, FRAME_SKIP)
        speed = (self.data.qpos[0] - before) / (FRAME_SKIP * self.model.opt.timestep)
        return self.observation(), speed - 0.05 * np.square(action).sum() + self.data.qpos[1]


def adapt(policy: Policy, robot: Cheetah, record: list[Any] | None = None) -> list[float]:
    """Returns of the episodes in which the policy meets a robot for the first time.

    Args:
        policy: asked for greedy actions.
        robot: unknown to it.
        record: gets (observation, action, reward, next observation) of every step, for tests.
    """
    policy.forget()
    returns = []
    for _ in range(policy.signature["episodes"]):
        obs, total = robot.reset(), 0.0
        for _ in range(policy.signature["horizon"]):
            action = policy.act(obs)
            after, reward = robot.step(action)
            policy.observe(reward, after)
            if record is not None:
                record.append((obs, action, reward, after))
            obs, total = after, total + reward
        returns.append(total)
    return returns


def main() -> int:
    """Adapts to a mass and prints the return of each episode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", type=Path, help="what python -m roml_jax.export wrote, for cheetah_mass")
    parser.add_argument("--mass", type=float, default=1.7, help="factor on every mass (training: 0.5 to 2)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        policy = Policy(given.policy)
        if policy.signature["env"] != "cheetah_mass":
            raise ValueError(f"{given.policy} was trained on {policy.signature['env']}, not on cheetah_mass")
        if not given.mass > 0:
            raise ValueError(f"--mass must be positive, got {given.mass:g}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for episode, total in enumerate(adapt(policy, Cheetah(given.mass, given.seed))):
        print(f"mass x {given.mass:g}, episode {episode}: return {total:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
