"""Checks that a run that is killed many times ends in the same state as an uninterrupted run, bit for bit.

    python -m benchmarks.kills [--kills 20] [--env khazad_dum] [--frames 3e6] [--out FILE]

One run is not interrupted. A second run with the same options is killed by SIGKILL at random times and
continued with ``--resume`` after each, then runs to its end. Both last checkpoints (parameters, optimisers,
statistics, replay, sampler, random keys) and all metrics except timings must be equal. The exit code is 1 if
they are not.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from benchmarks import machine
from roml_jax import config as configs
from roml_jax import experiment
from roml_jax.config import seed_plan
from roml_jax.run import checkpoint
from roml_jax.run import folder as run_folder

_CLOCK = {"seconds", "train/frames_per_second"}
_SAVING = 0.6  # seconds between two checkpoints, so short that some kills interrupt one


def _command(*more: str) -> list[str]:
    return [sys.executable, "-m", "roml_jax.train", *more, "--checkpoint-minutes", str(_SAVING / 60)]


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = run_folder.read_metrics(folder / run_folder.METRICS)
    return [{name: value for name, value in row.items() if name not in _CLOCK} for row in rows]


def _state(folder: Path) -> list[np.ndarray]:
    config = configs.read(folder / run_folder.CONFIG)
    shapes = jax.eval_shape(experiment.make(config).train.init, *seed_plan.leaves(config.plan))
    path = checkpoint.latest(folder / run_folder.CHECKPOINT)
    assert path is not None, f"{folder} has no checkpoint"
    state = checkpoint.plain(checkpoint.restore(path, "state", shapes))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def _kill(command: list[str], after: float) -> str | None:
    """Starts a run and kills it after ``after`` seconds; returns "killed", or None if it had ended."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        code = process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "killed"
    assert process.stderr is not None
    if code:
        raise RuntimeError(process.stderr.read())
    return None


def _where(folder: Path, before: int) -> str:
    """What a killed run was doing when it was killed, from the files in its folder."""
    saved = folder / run_folder.CHECKPOINT
    if saved.is_dir() and any(not path.name.isdecimal() for path in saved.iterdir()):
        return "saving"
    return "training" if len(_rows(folder)) > before else "starting"


def _latest_moment(options: list[str], folder: Path, kills: int) -> float:
    """Latest time of a kill in seconds after a start, so early that the run does not end before all kills."""
    began = time.monotonic()  # times a second run, whose programs are in the compile cache
    subprocess.run(_command(*options, "--out", str(folder)), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    training = run_folder.read_metrics(folder / run_folder.METRICS)[-1]["seconds"]
    return seconds - training + 2 * training / kills


def main(argv: list[str] | None = None) -> int:
    """Runs, kills, compares, prints and writes JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--env", default="khazad_dum", help="environment to train on")
    parser.add_argument("--frames", default="3e6", help="length of the run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the kills")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    console, moments = Console(), random.Random(args.seed)
    options = ["--env", args.env, "--frames", args.frames, "--eval.tasks", "64", "--eval.test-tasks", "64"]
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        subprocess.run(_command(*options, "--out", str(whole)), check=True, stdout=subprocess.DEVNULL)
        latest = _latest_moment(options, Path(f"{whole}-2"), args.kills)
        hits: list[str] = []
        while len(hits) < args.kills:
            has_begun = (killed / run_folder.CONFIG).is_file()
            command = ["--resume", str(killed)] if has_begun else [*options, "--out", str(killed)]
            before = len(_rows(killed)) if has_begun else 0
            if _kill(_command(*command), moments.uniform(0, latest)) is None:
                break  # the run ended first
            hits.append(_where(killed, before))
            console.print(f"kill {len(hits)}: {hits[-1]}, {len(_rows(killed))} rows", highlight=False)
        subprocess.run(_command("--resume", str(killed)), check=True, stdout=subprocess.DEVNULL)
        pairs = zip(_state(whole), _state(killed), strict=True)
        same_state = all(a.tobytes() == b.tobytes() for a, b in pairs)  # as bytes, since some are NaN
        same_rows = _rows(whole) == _rows(killed)
    counts = {name: hits.count(name) for name in ("starting", "training", "saving")}
    console.print(f"{len(hits)} kills {counts}: state equal {same_state}, metrics equal {same_rows}")
    result = {
        "env": args.env, "frames": float(args.frames), "kills": len(hits), **counts,
        "state_equal": same_state, "metrics_equal": same_rows,
    }  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps({"machine": machine.describe(), "result": result}, indent=1) + "\n")
    return int(not (same_state and same_rows and len(hits) == args.kills))


if __name__ == "__main__":
    raise SystemExit(main())
