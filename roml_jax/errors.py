"""Errors shown to users: one line with the fault, the expected value and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Wrong input; the message is one line. Commands print it and exit with code 2."""


class UnknownNameError(ConfigError):
    """A name that does not exist; the message lists the valid ones."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name with the most similar spelling, or None if none is similar enough."""
    matches = difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.5)
    return matches[0] if matches else None


def suggestion(name: str, valid: Iterable[str]) -> str:
    """The end of a message, ``; did you mean 'NAME'?``, or nothing where no valid name is close."""
    near = nearest(name, valid)
    return f"; did you mean {near!r}?" if near else ""


def unknown(what: str, name: str, valid: Iterable[str]) -> UnknownNameError:
    """Builds the error for a name that does not exist.

    Args:
        what: the kind of name, e.g. "environment".
        name: the name as the user wrote it.
        valid: the names that exist.
    """
    valid = sorted(valid)
    return UnknownNameError(f"unknown {what} {name!r}{suggestion(name, valid)} (valid: {', '.join(valid)})")
