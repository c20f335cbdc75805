"""What the commands on finished runs share: wrong input is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console

from roml_jax.errors import ConfigError
from roml_jax.run import saved

_WIDE = 120  # columns where the output is no terminal


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(f"{message} (--help tells what there is)")


def positive(text: str) -> int:
    """A number of things from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def not_negative(text: str) -> int:
    """A seed from the command line."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be between 0 and 2^32 - 1, got {number}")
    return number


def add_which(parser: argparse.ArgumentParser) -> None:
    """``--which``: the last learner of a run or one of the best."""
    parser.add_argument(
        "--which", choices=saved.WHICH, default="last",
        help="the last learner, or the best on validation tasks by mean or CVaR (default: %(default)s)",
    )  # fmt: skip


def add_run(parser: argparse.ArgumentParser) -> None:
    """``--run``: one of a folder's seeds."""
    parser.add_argument(
        "--run", dest="run_name", metavar="SEED",
        help="which of its seeds; where settings were swept, its label (default: the first)",
    )  # fmt: skip


def console() -> Console:
    """For tables; as wide as the terminal, or wide enough for a file."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    try:
        command(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    return 0
