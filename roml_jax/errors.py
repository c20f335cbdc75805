"""Errors for people: one line that says what is wrong, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Wrong input; the message is one line. Commands print it and exit with code 2."""


class UnknownNameError(ConfigError):
    """A name that does not exist; the message lists the valid ones."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that is spelled most alike, or None where none is close."""
    found = difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(what: str, name: str, valid: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not among the valid ones.

    Args:
        what: the kind of thing that is named, e.g. "environment".
        name: as it was written.
        valid: the names that exist.
    """
    valid = sorted(valid)
    near = nearest(name, valid)
    hint = f"; did you mean {near!r}?" if near else ""
    return UnknownNameError(f"unknown {what} {name!r}{hint} (valid: {', '.join(valid)})")
