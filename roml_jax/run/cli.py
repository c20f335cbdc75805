"""Shared parts of the commands on runs. Wrong input gives one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from roml_jax import users_code
from roml_jax.config import WHICH
from roml_jax.errors import ConfigError


def add_which(parser: argparse.ArgumentParser) -> None:
    """Adds ``--which``: the last learner of a run, or the best by mean or CVaR."""
    parser.add_argument(
        "--which", choices=WHICH, default="last",
        help="which learner: the last, or the best by mean or CVaR on the validation tasks "
        "(default: %(default)s)",
    )  # fmt: skip


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds ``--run``: one seed of a run."""
    parser.add_argument(
        "--run", dest="run_name", metavar="SEED",
        help="the run's seed to use; for a run with --sweep, the seed's label (default: the first seed)",
    )  # fmt: skip


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        command: the command; it raises ConfigError for wrong input.
        argv: its arguments; None for those of the process.

    Returns:
        The exit code: 0, 2 for wrong input, or 130 after Ctrl-C.
    """
    try:
        with users_code.in_one_line():
            command(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except PermissionError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else " ".join(str(error).split())
        print(f"error: {what}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    return 0
