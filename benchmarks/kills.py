"""A run that is killed again and again ends in the state of one that never was, bit for bit.

    python -m benchmarks.kills [--kills 20] [--env khazad_dum] [--frames 3e6] [--out FILE]

One run is left alone. Another, the same, gets SIGKILL at a random moment, goes on with ``--resume``, is
killed again, and so on; then it is left to end. Both last checkpoints (parameters, optimisers, statistics,
replay, sampler, random keys) and all metrics but the clock's must be equal. Exit code 1 where they are not.
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
_SAVING = 0.6  # seconds between two checkpoints: kills hit some of them


def _command(*more: str) -> list[str]:
    return [sys.executable, "-m", "roml_jax.train", *more, "--checkpoint-minutes", str(_SAVING / 60)]


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = run_folder.read_metrics(folder / run_folder.METRICS)
    return [{name: value for name, value in row.items() if name not in _CLOCK} for row in rows]


def _state(folder: Path) -> list[np.ndarray]:
    made = configs.read(folder / run_folder.CONFIG)
    shapes = jax.eval_shape(experiment.make(made).train.init, *seed_plan.leaves(made.plan))
    path = checkpoint.latest(folder / run_folder.CHECKPOINT)
    assert path is not None, f"{folder} saved nothing"
    state = checkpoint.plain(checkpoint.restore(path, "state", shapes))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def _kill(command: list[str], after: float) -> str | None:
    """Starts a run and kills it after so many seconds; what it was doing, or None if it had ended."""
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
    """What a killed run was doing, by what it left."""
    saved = folder / run_folder.CHECKPOINT
    if saved.is_dir() and any(not path.name.isdecimal() for path in saved.iterdir()):
        return "saving"
    return "training" if len(_rows(folder)) > before else "starting"


def _latest_moment(options: list[str], folder: Path, kills: int) -> float:
    """Seconds after a start that a kill may come at: so soon that the run does not end before the last."""
    began = time.monotonic()  # a second run, now that its programs are in the cache
    subprocess.run(_command(*options, "--out", str(folder)), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    training = run_folder.read_metrics(folder / run_folder.METRICS)[-1]["seconds"]
    return seconds - training + 2 * training / kills


def main(argv: list[str] | None = None) -> int:
    """Kills, compares, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="how often")
    parser.add_argument("--env", default="khazad_dum", help="environment to train on")
    parser.add_argument("--frames", default="3e6", help="length of the run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    args = parser.parse_args(argv)
    console, moments = Console(), random.Random(args.seed)
    options = ["--env", args.env, "--frames", args.frames, "--eval.tasks", "64", "--eval.test-tasks", "64"]
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        subprocess.run(_command(*options, "--out", str(whole)), check=True, stdout=subprocess.DEVNULL)
        latest = _latest_moment(options, Path(f"{whole}-2"), args.kills)
        hits: list[str] = []
        while len(hits) < args.kills:
            go_on = (killed / run_folder.CONFIG).is_file()
            command = ["--resume", str(killed)] if go_on else [*options, "--out", str(killed)]
            before = len(_rows(killed)) if go_on else 0
            if _kill(_command(*command), moments.uniform(0, latest)) is None:
                break  # it came to its end
            hits.append(_where(killed, before))
            console.print(f"kill {len(hits)}: {hits[-1]}, {len(_rows(killed))} rows", highlight=False)
        subprocess.run(_command("--resume", str(killed)), check=True, stdout=subprocess.DEVNULL)
        pairs = zip(_state(whole), _state(killed), strict=True)
        same_state = all(mine.tobytes() == other.tobytes() for mine, other in pairs)  # NaN among them
        same_rows = _rows(whole) == _rows(killed)
    told = {name: hits.count(name) for name in ("starting", "training", "saving")}
    console.print(f"{len(hits)} kills {told}: state equal {same_state}, metrics equal {same_rows}")
    result = {
        "env": args.env, "frames": float(args.frames), "kills": len(hits), **told, "state_equal": same_state,
        "metrics_equal": same_rows,
    }  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps({"machine": machine.describe(), "result": result}, indent=1) + "\n")
    return int(not (same_state and same_rows and len(hits) == args.kills))


if __name__ == "__main__":
    raise SystemExit(main())
