"""Two public robots through every command: train, evaluate, render, export, sim2sim.

    python -m benchmarks.robots [--robots barkour shadow_hand] [--out benchmarks/results/robots-cpu.json]

Barkour has position servos around a home pose; the Shadow hand turns a block, its actions are shares of each
servo's range. Both train ten iterations, which is enough to try every command, not to learn. A robot passes
if all commands end well and ``sim2sim`` finds returns within 0.5 % of plain MuJoCo's.

Importing this module registers the environments. The hand's model is in the package gymnasium-robotics,
which is no dependency: pip install --no-deps gymnasium-robotics. Nothing of it is imported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import mujoco

from benchmarks import machine, models
from roml_jax import envs
from roml_jax.types import Array

_UPSIDE_DOWN = 0.0  # cosine of barkour's tilt at which an episode ends
_BLOCK = 24  # the block's first coordinate, after the hand's joints
_DROPPED = 0.1  # height (m) of a block that has been dropped


def _model(name: str) -> Path:
    file = models.find(models.MODELS[name])
    if file is None:
        raise ValueError(f"{name} is in the package {models.MODELS[name].package}, which is not installed")
    return file


def _tilt(view: envs.View) -> Array:
    """The cosine of the angle between the trunk's axis and the vertical."""
    _, x, y, _ = view.qpos[3:7]
    return 1.0 - 2.0 * (x * x + y * y)


def barkour() -> envs.TaskEnv:
    """Walk forward; position servos move around the standing pose; a fall on the back ends an episode."""
    return envs.TaskEnv.from_mjcf(
        _model("barkour"),
        tasks=(models.MASS, models.MODELS["barkour"].second),
        action=envs.Actions(home="standing", scale=0.3),
        start="standing",
        reward=lambda motion: {
            "forward": (motion.after.qpos[0] - motion.before.qpos[0]) / motion.dt,
            "upright": _tilt(motion.after),
            "smooth": -0.01 * jnp.square(motion.after.action - motion.before.action).sum(),
        },
        observation={
            "pose": lambda view: view.qpos[2:],
            "velocity": lambda view: view.qvel,
            "last": lambda view: view.action,
        },
        terminate=lambda view: _tilt(view) < _UPSIDE_DOWN,
        frame_skip=10, horizon=100, engine="mujoco", name="barkour",
    )  # fmt: skip


def shadow_hand() -> envs.TaskEnv:
    """Turn a block in the hand; actions are shares of each servo's range; a dropped block ends an episode."""
    spec = mujoco.MjSpec.from_file(str(_model("shadow hand")))
    spec.delete(spec.body("target"))  # a marker without contacts, which would fall for ever
    return envs.TaskEnv.from_mjcf(
        spec,
        tasks=(models.MASS, models.MODELS["shadow hand"].second),
        action="ctrlrange",
        reward=lambda motion: {
            "turn": motion.after.qvel[_BLOCK + 5],  # the block's spin around its third axis, rad/s
            "held": 1.0 * ~_dropped(motion.after),
        },
        observation={
            "joints": lambda view: view.qpos[:_BLOCK],
            "block": lambda view: view.qpos[_BLOCK : _BLOCK + 7],
            "velocity": lambda view: view.qvel[: _BLOCK + 6],
        },
        terminate=_dropped,
        frame_skip=20, horizon=50, engine="mujoco", name="shadow_hand",
    )  # fmt: skip


def _dropped(view: envs.View) -> Array:
    return view.qpos[_BLOCK + 2] < _DROPPED


ROBOTS = {"barkour": barkour, "shadow_hand": shadow_hand}
for _name, _robot in ROBOTS.items():
    envs.register(_name, _robot)

TRAINING = [
    "--sampler", "cem", "--sampler.batch-size", "32", "--num-tasks", "16", "--seeds", "0", "1",
    "--ppo.minibatches", "4", "--ppo.epochs", "2", "--vae.buffer-trajectories", "64", "--vae.updates", "1",
    "--learning-starts", "0", "--eval.tasks", "16", "--eval.test-tasks", "32",
]  # fmt: skip
ITERATIONS = 10


class Step(NamedTuple):
    """A command, how long it took, its exit code and the last of what it printed."""

    command: str
    seconds: float
    code: int
    printed: str


def commands(name: str, folder: Path) -> dict[str, list[str]]:
    """The arguments of every command after ``python -m roml_jax.``, by name of the command."""
    run = str(folder / name)
    spec = ROBOTS[name]().spec
    frames = ITERATIONS * 16 * spec.episodes * spec.horizon
    own = ["--import", "benchmarks.robots", "--env", name]
    return {
        "train": [*own, "--frames", str(frames), "--out", run, *TRAINING],
        "evaluate": [run, "--tasks", "32", "--json", f"{run}.json"],
        "render": [run, "--out", f"{run}.html"],
        "export": [run, "--out", f"{run}.zip"],
        "sim2sim": [run, "--tasks", "256"],
    }


def through(name: str, folder: Path) -> list[Step]:
    """Runs all commands for a robot; stops at the first that fails."""
    steps = []
    for command, arguments in commands(name, folder).items():
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", f"roml_jax.{command}", *arguments], capture_output=True, text=True
        )
        printed = done.stdout[-3000:] + done.stderr[-1000:]
        steps.append(Step(command, time.perf_counter() - began, done.returncode, printed))
        print(f"{name} {command}: exit code {done.returncode}, {steps[-1].seconds:.0f} s", flush=True)
        if done.returncode:
            print(printed)
            break
    return steps


def main(argv: Sequence[str] | None = None) -> int:
    """Takes the robots through all commands; exit code 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--robots", nargs="+", choices=[*ROBOTS], default=[*ROBOTS], metavar="NAME")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--folder", type=Path, help="new folder that keeps runs, pages and policies")
    args = parser.parse_args(argv)
    results, failed = {}, False
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        for name in args.robots:
            steps = through(name, folder)
            failed |= steps[-1].code != 0
            page = steps[-1].printed if steps[-1].command == "sim2sim" else ""
            print(page)
            results[name] = {
                "seconds": {step.command: round(step.seconds, 1) for step in steps},
                "codes": {step.command: step.code for step in steps},
                "sim2sim": [line.rstrip() for line in page.splitlines() if line.strip()],
            }
    if args.out:
        text = {"machine": machine.describe(), "results": results}
        args.out.write_text(json.dumps(text, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
