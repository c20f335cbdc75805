"""Command line ``python -m roml_jax.export RUN --out policy.zip [--format onnx]``.

See ``deploy.policy.Policy.export`` and ``deploy.onnx_policy.write``.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from roml_jax.deploy import policy
from roml_jax.errors import ConfigError
from roml_jax.run import cli, files
from roml_jax.run import parser as parsers


def command(argv: Sequence[str]) -> None:
    """Writes a run's policy to a file that needs only JAX, or only an ONNX runtime, to run.

    Raises:
        ConfigError: for wrong input; one line.
    """
    arguments = _parser().parse_args(argv)
    files.check_new(arguments.out, (".zip",))
    _check_format(arguments)
    loaded = policy.load(
        arguments.run, arguments.which, arguments.run_name,
        check=not arguments.no_check, clamp=arguments.clamp, robots=None,
    )  # fmt: skip
    if arguments.format == "jax":
        path = loaded.export(arguments.out)
    else:
        from roml_jax.deploy import onnx_policy  # needs the extra onnx

        path = onnx_policy.write(loaded, arguments.out, arguments.robots or 1)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB); signature.json in it describes how to call it")


def _check_format(arguments: argparse.Namespace) -> None:
    if arguments.format == "jax" and arguments.robots is not None:
        raise ConfigError("--robots is an option of --format onnx; --format jax is for any number of robots")
    if arguments.format == "onnx" and importlib.util.find_spec("onnx") is None:
        raise ConfigError("--format onnx needs the package onnx: pip install 'roml-jax[onnx]'")


def _parser() -> parsers.Parser:
    parser = parsers.Parser(
        prog="python -m roml_jax.export",
        description="Writes a run's policy to a file that needs only JAX to run, on CPUs, NVIDIA GPUs and "
        "TPUs, for any number of robots at once; or to ONNX models, for computers without JAX.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, help="path of the new file; must end in .zip")
    cli.add_which(parser)
    cli.add_run(parser)
    parser.add_argument("--clamp", action="store_true", help="clamp actions to the environment's limits")
    parser.add_argument(
        "--no-check", action="store_true", help="do not skip observations and rewards that are not finite"
    )
    parser.add_argument(
        "--format", choices=("jax", "onnx"), default="jax",
        help="programs of jax.export, or ONNX models (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--robots", type=parsers.positive, metavar="N",
        help="number of robots that act at once, which is fixed in ONNX models (default: 1)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
