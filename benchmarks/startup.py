r"""Seconds from the command to the first metrics, with an empty and with a filled compile cache.

    python -m benchmarks.startup [--env khazad_dum cheetah_mass] [--against CHECKOUT] [--out FILE]
    python -m benchmarks.startup --env cheetah_mass --frames 3e5 --test-tasks 128 --cold-only \
        [--option eval.interval=12]

Each round trains in a process of its own, with an empty cache ("cold") and then once more ("warm"). With
``--against``, another checkout of this repository takes turns with this one, on the same machine. Seconds end
when ``metrics.jsonl`` has its first line. CPU seconds are those of the process, user and system; they are the
figure to compare on a machine that others use, too. The second command is the first one of the README; with
its option, a version from before the four evaluations of a short run does the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import machine

HERE = Path(__file__).parent.parent


class Run(NamedTuple):
    """A training run: its length, the tasks of its final test, and more options as NAME=VALUE."""

    env: str
    frames: str
    test_tasks: int
    options: tuple[str, ...] = ()


def _cpu_seconds(pid: int) -> float:
    """CPU seconds of a running process so far, user and system; NaN if the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(run: Run, checkout: Path, cache: Path) -> dict[str, float]:
    """Trains once and measures.

    Args:
        run: what to train.
        checkout: the repository whose package is run.
        cache: the folder of the compile cache.

    Returns:
        Seconds and CPU seconds to the first metrics, and of the whole run.
    """
    env = dict(os.environ, PYTHONPATH=str(checkout), XDG_CACHE_HOME=str(cache))
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as name:
        folder, before, began = Path(name) / "run", _children(), time.monotonic()
        command = [
            sys.executable, "-m", "roml_jax.train", "--env", run.env, "--sampler", "cem",
            "--out", str(folder), "--frames", run.frames, "--eval.test-tasks", str(run.test_tasks),
            *(f"--{option}" for option in run.options),
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=checkout, env=env, stdout=subprocess.DEVNULL)
        metrics, first, first_cpu = folder / "metrics.jsonl", float("nan"), float("nan")
        while process.poll() is None:
            if first != first and metrics.is_file() and metrics.stat().st_size:
                first, first_cpu = time.monotonic() - began, _cpu_seconds(process.pid)
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
        whole = time.monotonic() - began
    return {"first_s": first, "first_cpu_s": first_cpu, "whole_s": whole, "whole_cpu_s": _children() - before}


def _commit(checkout: Path) -> str:
    found = subprocess.run(
        ["git", "-C", str(checkout), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return found.stdout.strip() or "no commit"


def compare(
    runs: list[Run], checkouts: dict[str, Path], rounds: int, cold_only: bool
) -> list[dict[str, Any]]:
    """Measures all runs: in each round, the checkouts take turns. Medians over rounds."""
    rows = []
    for run in runs:
        taken: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as caches:
                for state in ("cold",) if cold_only else ("cold", "warm"):
                    for name, checkout in checkouts.items():
                        one = measure(run, checkout, Path(caches) / name)
                        taken.setdefault((state, name), []).append(one)
        for (state, name), every in taken.items():
            medians = {key: round(statistics.median(one[key] for one in every), 2) for key in every[0]}
            rows.append({"env": run.env, "cache": state, "checkout": name, **medians})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", nargs="+", default=["khazad_dum", "cheetah_mass"], help="environments")
    parser.add_argument("--against", type=Path, help="another checkout, which is measured in turn")
    parser.add_argument("--rounds", type=int, default=1, help="rounds for the medians")
    parser.add_argument("--frames", default="64000", help="length of each run")
    parser.add_argument("--test-tasks", type=int, default=16, help="tasks of each run's final test")
    parser.add_argument(
        "--option", nargs="+", default=[], metavar="NAME=VALUE", help="more options of all runs"
    )
    parser.add_argument("--cold-only", action="store_true", help="leave out the runs with a filled cache")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    checkouts = {"this": HERE}
    if args.against is not None:
        if not (args.against / "roml_jax" / "train.py").is_file():
            parser.error(
                f"--against {args.against}: not a checkout of this repository (no roml_jax/train.py)"
            )
        checkouts = {"before": args.against.resolve(), **checkouts}
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    runs = [Run(env, args.frames, args.test_tasks, tuple(args.option)) for env in args.env]
    rows = compare(runs, checkouts, args.rounds, args.cold_only)
    table = Table("env", "cache", "checkout", "s to first metrics", "CPU s", "whole run, s", "CPU s")
    for row in rows:
        numbers = (row[key] for key in ("first_s", "first_cpu_s", "whole_s", "whole_cpu_s"))
        table.add_row(row["env"], row["cache"], row["checkout"], *(f"{number:.1f}" for number in numbers))
    Console().print(table)
    if args.out:
        about = {
            "machine": machine.describe(),
            "commits": {name: _commit(path) for name, path in checkouts.items()},
            "frames": args.frames, "test_tasks": args.test_tasks, "options": args.option,
            "rounds": args.rounds,
        }  # fmt: skip
        args.out.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
