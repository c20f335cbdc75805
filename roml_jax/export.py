"""The command line: ``python -m roml_jax.export RUN --out policy.zip``; see ``policy.Policy.export``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from roml_jax.deploy import policy
from roml_jax.run import cli, files


def command(argv: Sequence[str]) -> None:
    """Writes a run's policy to a file that runs with JAX alone.

    Raises:
        ConfigError: for wrong input; one line.
    """
    parser = cli.Parser(
        prog="python -m roml_jax.export",
        description="Writes a policy to a file that runs with JAX alone, on CPUs, NVIDIA GPUs and TPUs, "
        "for any number of robots at once.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, help="the new file, .zip")
    cli.add_which(parser)
    cli.add_run(parser)
    given = parser.parse_args(argv)
    files.check_new(given.out, (".zip",))
    made = policy.load(given.run, given.which, given.run_name).export(given.out)
    print(f"{made} ({made.stat().st_size / 1e6:.1f} MB): signature.json in it says how to call it")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
