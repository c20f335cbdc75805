"""Robots out of public packages as environments: does each pass the check, on the C engine and on MJX?

    python -m benchmarks.models [--physics mujoco mjx] [--models hopper dog ...]

Each gets three tasks: the mass of all bodies, the friction of all contacts (of a swimmer the water, of a
robot without friction the damping of its joints) and the strength of all motors. For every model it prints:
passed, with what the check warns of; refused, with the line; or not installed.

The models are read from the packages that are installed: gymnasium, mujoco-mjx, dm-control,
gymnasium-robotics and robosuite. The last three are no dependencies: pip install --no-deps dm-control
gymnasium-robotics robosuite. Nothing of these packages is imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from benchmarks import machine
from roml_jax import envs
from roml_jax.envs import Edit, Motion, TaskDimension, TaskEnv
from roml_jax.envs.sources import load
from roml_jax.types import Array

MASS = TaskDimension("mass", 0.7, 1.4, (Edit("body_mass"),), "log")
_FRICTION = TaskDimension("friction", 0.6, 1.6, (Edit("geom_friction", column=0),), "log")
_PAIRS = TaskDimension(
    "friction",
    0.6,
    1.6,
    (Edit("geom_friction", column=0), Edit("pair_friction", column=0), Edit("pair_friction", column=1)),
    "log",
)
_WATER = TaskDimension("water", 0.5, 2.0, (Edit("opt.viscosity"), Edit("opt.density")), "log")
_DAMPING = TaskDimension("damping", 0.5, 2.0, (Edit("dof_damping"),), "log")
_GAIN, _BIAS = Edit("actuator_gainprm", column=0), Edit("actuator_biasprm")


class Model(NamedTuple):
    """A robot in a package.

    Attributes:
        package: as Python imports it.
        file: its MJCF, in the package's folder.
        second: the task dimension besides mass and motors.
    """

    package: str
    file: str
    second: TaskDimension = _FRICTION


_GYMNASIUM = "envs/mujoco/assets"
MODELS = {
    "hopper": Model("gymnasium", f"{_GYMNASIUM}/hopper.xml"),
    "walker2d": Model("gymnasium", f"{_GYMNASIUM}/walker2d.xml"),
    "swimmer": Model("gymnasium", f"{_GYMNASIUM}/swimmer.xml", _WATER),
    "reacher": Model("gymnasium", f"{_GYMNASIUM}/reacher.xml", _DAMPING),
    "pusher": Model("gymnasium", f"{_GYMNASIUM}/pusher.xml", _DAMPING),
    "barkour": Model("mujoco.mjx", "test_data/barkour_v0/assets/barkour_v0_mjx.xml"),
    "quadruped": Model("dm_control", "suite/quadruped.xml"),
    "finger": Model("dm_control", "suite/finger.xml"),
    "dog": Model("dm_control", "suite/dog.xml"),
    "shadow hand": Model("gymnasium_robotics", "envs/assets/hand/manipulate_block.xml", _PAIRS),
    "adroit hammer": Model("gymnasium_robotics", "envs/assets/adroit_hand/adroit_hammer.xml", _PAIRS),
    "panda": Model("robosuite", "models/assets/robots/panda/robot.xml"),
    "spot": Model("robosuite", "models/assets/robots/spot/robot.xml"),
    "robotiq 140": Model("robosuite", "models/assets/grippers/robotiq_gripper_140.xml"),
}


class Result(NamedTuple):
    """What came of a model: "passed", "refused" or "not installed", with the lines that say more."""

    outcome: str
    lines: tuple[str, ...]
    seconds: float


def find(model: Model) -> Path | None:
    """The model's file; None if its package is not installed."""
    try:
        spec = importlib.util.find_spec(model.package)
    except ModuleNotFoundError:
        return None
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    files = [folder / model.file for folder in folders if (folder / model.file).is_file()]
    return files[0] if files else None


def _stay(motion: Motion) -> dict[str, Array]:
    return {"stay": -jnp.square(motion.after.qvel).sum()}


def build(file: Path, model: Model, engine: str) -> TaskEnv:
    """The robot as an environment, not yet checked.

    Raises:
        ValueError: if MuJoCo or the engine refuses it; one line.
    """
    has_servos = bool(load(file, ()).actuator_biasprm.any())
    motor = TaskDimension("motor", 0.7, 1.3, (_GAIN, _BIAS) if has_servos else (_GAIN,), "log")
    return TaskEnv.from_mjcf(
        file, tasks=(MASS, model.second, motor), reward=_stay, frame_skip=4, engine=engine, check=False,
        name=file.stem,
    )  # fmt: skip


def examine(name: str, engine: str) -> Result:
    """Checks a model on an engine."""
    began, model = time.perf_counter(), MODELS[name]
    file = find(model)
    if file is None:
        return Result("not installed", (f"it is in the package {model.package.replace('_', '-')}",), 0.0)
    try:
        report = envs.check(build(file, model, engine))
    except ValueError as error:
        return Result("refused", (str(error),), time.perf_counter() - began)
    lines = (*report.of("error"), *report.of("warning"))
    outcome = "passed" if report.passed else "refused"
    return Result(outcome, lines, time.perf_counter() - began)


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the models and prints a line for each; exit code 1 if the C engine refuses one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS], metavar="NAME")
    parser.add_argument("--physics", nargs="+", choices=("mujoco", "mjx"), default=("mujoco",))
    parser.add_argument("--out", type=Path, help="JSON file for the results; results in it are kept")
    args = parser.parse_args(argv)
    results: dict[str, dict[str, dict]] = {}
    if args.out and args.out.is_file():
        results = json.loads(args.out.read_text())["results"]
    refused = False
    for engine in args.physics:
        for name in args.models:
            result = examine(name, engine)
            refused |= engine == "mujoco" and result.outcome == "refused"
            print(f"{engine} {name}: {result.outcome} ({result.seconds:.0f} s)", *result.lines, sep="\n    ")
            sys.stdout.flush()
            if result.outcome != "not installed":
                results.setdefault(name, {})[engine] = {"outcome": result.outcome, "lines": result.lines}
            if args.out:
                text = {"machine": machine.describe(), "results": results}
                args.out.write_text(json.dumps(text, indent=1) + "\n")
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
