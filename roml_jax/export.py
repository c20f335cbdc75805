"""Command line ``python -m roml_jax.export RUN --out policy.zip``; see ``deploy.policy.Policy.export``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from roml_jax.deploy import policy
from roml_jax.run import cli, files


def command(argv: Sequence[str]) -> None:
    """Writes a run's policy to a file that needs only JAX to run.

    Raises:
        ConfigError: for wrong input; one line.
    """
    parser = cli.Parser(
        prog="python -m roml_jax.export",
        description="Writes a run's policy to a file that needs only JAX to run. The policy runs on CPUs, "
        "NVIDIA GPUs and TPUs, for any number of robots at once.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, help="path of the new file; must end in .zip")
    cli.add_which(parser)
    cli.add_run(parser)
    parser.add_argument("--clamp", action="store_true", help="clamp actions to the environment's limits")
    parser.add_argument(
        "--no-check", action="store_true", help="do not skip observations and rewards that are not finite"
    )
    arguments = parser.parse_args(argv)
    files.check_new(arguments.out, (".zip",))
    loaded = policy.load(
        arguments.run, arguments.which, arguments.run_name,
        check=not arguments.no_check, clamp=arguments.clamp,
    )  # fmt: skip
    path = loaded.export(arguments.out)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB); signature.json in it describes how to call it")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
