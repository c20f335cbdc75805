"""The text of a command line: what it names before it is parsed, and what its parser says of it."""

from __future__ import annotations

import re
from collections.abc import Sequence


def one_line(box: str) -> str:
    """The message in a parser's framed error, without frame, help text and repetition."""
    lines = [line.strip("│ ").strip() for line in box.splitlines()]
    body: list[str] = []
    for line in lines:
        if line.startswith("╭"):
            continue
        if line.startswith(("─", "╰")) and body:
            break
        if line:
            body.append(line)
    text = " ".join(body)
    text = re.sub(r"^Error parsing (env|agent|sampler)[-_]options: ", "", text)
    return re.sub(r"^Error parsing (Config: |[\w.-]+: (?=\S+ must ))", "", text)


def named(tokens: Sequence[str], name: str) -> str | None:
    """The value of --name among tokens, the last one given."""
    value = None
    for i, token in enumerate(tokens):
        if token == f"--{name}" and i + 1 < len(tokens):
            value = tokens[i + 1]
        elif token.startswith(f"--{name}="):
            value = token.split("=", 1)[1]
    return value


def listed(tokens: Sequence[str], *names: str) -> list[str]:
    """The values of the last of some names among tokens, up to the next option."""
    values: list[str] = []
    taking = False
    for token in tokens:
        head, equals, value = token.partition("=")
        if head in names:
            taking, values = True, [value] if equals else []
        elif token.startswith("--"):
            taking = False
        elif taking:
            values.append(token)
    return values
