"""Compiles the whole iteration for a TPU v5e and an H100 on a machine that has neither.

    python -m benchmarks.compiled [--targets tpu-v5e h100] [--envs khazad_dum ...] [--mesh seed=2,task=2]
    python -m benchmarks.compiled --tables

XLA compiles for devices that are not there. The executable does not run, but it tells whether the program
compiles, how long that takes, its memory, its work (FLOPs, bytes), and on the H100 how many kernels an
iteration launches, which bounds its speed. RoML on VariBAD with the paper's options and a replay of 1,000
trajectories; robots on MJX, whose solver counts with one iteration a substep. --mesh compiles for a mesh of
devices (TPU), with a seed per device along its axis seed, and counts what the devices exchange.

What compiles for a target (up to 4 GiB) is installed once into a cache folder (--cache); no environment is
changed. Each program compiles in its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import machine
from benchmarks.compiled import targets
from benchmarks.reproduce.tables import fill, markdown
from roml_jax import envs
from roml_jax.errors import ConfigError, unknown
from roml_jax.run import cli, sharding
from roml_jax.run.parser import Parser

_ROOT = Path(__file__).parent.parent.parent
_OUT = _ROOT / "benchmarks" / "results" / "compiled.json"
_ENVS = ("khazad_dum", "cheetah_mass", "humanoid_mass")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roml_jax" / "targets"


def compile_one(target: str, env: str, mesh: str, cache: Path, console: Console) -> dict[str, Any]:
    """Compiles one program in its own process."""
    folder = targets.packages(target, cache, console.print)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "result.json"
        command = [sys.executable, "-m", "benchmarks.compiled.program", target, env, mesh, str(out)]
        settings = targets.environment(target, folder)
        with console.status(f"compiling {env} for {targets.TARGETS[target].title}, mesh {mesh} ..."):
            done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        if out.is_file():
            return json.loads(out.read_text())
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    failed = f"the process ended with code {done.returncode}: {last}"
    return {"target": target, "env": env, "mesh": mesh, "failed": failed}


def _check_mesh(mesh: str, names: Sequence[str]) -> None:
    """Rejects a mesh that is none, or that a target has no devices for."""
    try:
        count = 1 if mesh == "none" else sharding.devices_of(mesh)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name in names:
        most = targets.TARGETS[name].devices
        if count > most:
            raise ConfigError(f"--mesh {mesh} has {count} devices, and {name} is described with {most}")


def _key(result: dict[str, Any]) -> tuple[str, str, str]:
    return result["target"], result["env"], result["mesh"]


def _work(value: float) -> str:
    """A number of GFLOP or GB; empty where XLA does not count them (on a GPU)."""
    return f"{value:.2f}" if value else ""


def table(results: Sequence[dict[str, Any]]) -> str:
    """A row per program, in Markdown."""
    heads = ["program", "for", "mesh", "compiles", "memory beside the state", "GFLOP", "GB touched",
             "kernels an iteration", "of which", "exchanged an iteration"]  # fmt: skip
    rows = []
    for one in sorted(results, key=lambda one: (one["mesh"], one["target"], _ENVS.index(one["env"]))):
        row = [one["env"], targets.TARGETS[one["target"]].title, one["mesh"]]
        if "failed" in one:
            rows.append([*row, f"no: {one['failed']}", *[""] * 6])
            continue
        on_gpu = one["target"] == "h100"
        parts = ", ".join(f"{count:,} per {name}" for name, count in one["kernels_of"].items())
        moved = ", ".join(
            f"{number:,} {kind} ({size / 2**20:.1f} MiB)"
            for kind, (number, size) in one["collectives"].items()
        )
        rows.append([
            *row, f"{one['compile_s']:.0f} s", f"{one['memory_mib']:,.0f} MiB", _work(one["gflop"]),
            _work(one["gbyte"]), f"{one['kernels']:,}" if on_gpu else "", parts if on_gpu else "",
            moved or ("nothing" if one["mesh"] != "none" else ""),
        ])  # fmt: skip
    return markdown(heads, rows)


def _write(out: Path, results: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine.describe(), "results": list(results.values())}
    out.write_text(json.dumps(content, indent=1) + "\n")


def command(argv: Sequence[str]) -> None:
    """Compiles, prints the table, writes JSON after each program.

    Raises:
        ConfigError: for wrong input; one line.
    """
    parser = Parser(
        prog="python -m benchmarks.compiled", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--targets", nargs="+", default=list(targets.TARGETS), metavar="TARGET",
        help=f"of {', '.join(targets.TARGETS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--envs", nargs="+", default=list(_ENVS), metavar="ENV", help=f"of {', '.join(_ENVS)}"
    )
    parser.add_argument("--mesh", default="none", help="mesh of devices, e.g. seed=2,task=2 (default: none)")
    parser.add_argument("--cache", type=Path, default=_cache(), help="folder of the targets' packages")
    parser.add_argument("--out", type=Path, default=_OUT, help="JSON file; its other results stay")
    parser.add_argument("--tables", action="store_true", help="compile nothing; table from the JSON file")
    args = parser.parse_args(argv)
    for name in args.targets:
        if name not in targets.TARGETS:
            raise unknown("target", name, targets.TARGETS)
    for name in args.envs:
        if name not in envs.names() or name not in _ENVS:
            raise unknown("environment", name, _ENVS)
    _check_mesh(args.mesh, args.targets)
    console = Console()
    results = {}
    if args.out.is_file():
        results = {_key(one): one for one in json.loads(args.out.read_text())["results"]}
    if not args.tables:
        for target in args.targets:
            for env in args.envs:
                one = compile_one(target, env, args.mesh, args.cache, console)
                results[_key(one)] = one
                _write(args.out, results)
    if not results:
        raise ConfigError(f"{args.out} has no results yet")
    text = table(list(results.values()))
    console.print(Markdown(text))
    if args.out == _OUT:
        fill(_ROOT / "docs" / "scaling.md", "compiled", text)


if __name__ == "__main__":
    sys.exit(cli.run(command))
