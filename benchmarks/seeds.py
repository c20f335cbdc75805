"""Several seeds on a CPU: one device compared with a device per core, in turn.

    python -m benchmarks.seeds [--rounds 3] [--cases cheetah_mass:4 khazad_dum:8 ...] [--out FILE]

A case is an environment and a number of seeds. Each round times whole iterations of every case in a new
process with ``--mesh none``, then in one with the default, so that a drift of the machine's speed affects
both alike. Figures are frames/s of all seeds together, medians over rounds, and the median ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine, throughput
from roml_jax import envs
from roml_jax.errors import ConfigError, unknown
from roml_jax.run import cli
from roml_jax.run.parser import Parser, positive

_CASES = ("cheetah_mass:4", "khazad_dum:8", "cheetah_mass:10")
_ONE, _PER_CORE = "none", "auto"


def _case(text: str) -> tuple[str, int]:
    """Parses ENV:SEEDS."""
    env, _, seeds = text.partition(":")
    if env not in envs.names():
        raise unknown("environment", env, envs.names())
    if not seeds.isdecimal() or int(seeds) < 2:
        raise ConfigError(f"a case is ENV:SEEDS with two seeds or more, got {text!r}")
    return env, int(seeds)


def _speed(env: str, seeds: int, mesh: str) -> float:
    """Frames/s of all seeds, in a new process."""
    options = [f"seeds={list(range(seeds))}", f"mesh={mesh}", "vae.buffer_trajectories=1000"]
    result = throughput.in_own_process(env, options, repeats=3, layers="iteration")
    if result is None:
        raise ConfigError(f"the measurement of {env} with mesh {mesh} failed, see above")
    return float(result["layers"]["whole iteration"]["frames_per_s"])


def measure(cases: Sequence[tuple[str, int]], rounds: int, console: Console) -> dict[str, Any]:
    """Frames/s by case and mesh, for each round."""
    speeds: dict[str, dict[str, list[float]]] = {
        f"{env}:{seeds}": {_ONE: [], _PER_CORE: []} for env, seeds in cases
    }
    for i in range(rounds):
        for env, seeds in cases:
            for mesh in (_ONE, _PER_CORE):
                with console.status(f"round {i + 1} of {rounds}: {env}, {seeds} seeds, mesh {mesh} ..."):
                    speeds[f"{env}:{seeds}"][mesh].append(_speed(env, seeds, mesh))
    for each in speeds.values():
        each["ratio"] = [b / a for a, b in zip(each[_ONE], each[_PER_CORE], strict=True)]
    return {"machine": machine.describe(), "frames_per_s": speeds}


def table(result: dict[str, Any]) -> Table:
    """Medians over rounds."""
    rows = Table(title="frames/s of all seeds together")
    for heading in ("case", "one device", "a device per core", "ratio"):
        rows.add_column(heading, justify="left" if heading == "case" else "right")
    for case, each in result["frames_per_s"].items():
        one, per_core, ratio = (statistics.median(each[name]) for name in (_ONE, _PER_CORE, "ratio"))
        rows.add_row(case, f"{one:,.0f}", f"{per_core:,.0f}", f"{ratio:.2f}")
    return rows


def command(argv: Sequence[str]) -> None:
    """Measures, prints the table, writes JSON.

    Raises:
        ConfigError: for wrong input; one line.
    """
    parser = Parser(
        prog="python -m benchmarks.seeds", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rounds", type=positive, default=3, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--cases", nargs="+", default=list(_CASES), metavar="ENV:SEEDS", help="default: " + " ".join(_CASES)
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    console = Console()
    result = measure([_case(text) for text in args.cases], args.rounds, console)
    console.print(table(result))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(command))
