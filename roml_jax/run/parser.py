"""The parser of the commands on runs and environments, and the types of its numbers."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from roml_jax import checks
from roml_jax._version import PROGRAM
from roml_jax.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An argument parser with ``--version`` that reports an error in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--version", action="version", version=PROGRAM, help="print the version")

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError with the parser's message."""
        raise ConfigError(f"{message} (see --help)")


def whole(text: str) -> int:
    """Parses a whole number from the command line; ``1e5`` is one, too."""
    try:
        return checks.whole(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def at_least(minimum: int, text: str) -> int:
    """Parses a whole number of at least ``minimum`` from the command line."""
    number = whole(text)
    if number < minimum:
        raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {number}")
    return number


def positive(text: str) -> int:
    """Parses a count from the command line: a whole number of at least 1."""
    return at_least(1, text)


def below(end: int, shown: str, text: str) -> int:
    """Parses a whole number from 0 to ``end`` - 1, ``shown`` as text, from the command line."""
    number = whole(text)
    if not 0 <= number < end:
        raise argparse.ArgumentTypeError(f"must be between 0 and {shown}, got {number}")
    return number


def seed(text: str) -> int:
    """Parses a seed from the command line: a whole number from 0 to 2^32 - 1."""
    return below(2**32, "2^32 - 1", text)
