"""Command line ``roml-jax`` or ``python -m roml_jax``: lists the commands, or runs one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from roml_jax._version import PROGRAM
from roml_jax.errors import unknown

COMMANDS = {
    "train": ("roml_jax.train", "train a meta-learner that is robust to its hardest tasks"),
    "evaluate": ("roml_jax.evaluate.__main__", "test a run's learners on held-out tasks"),
    "report": ("roml_jax.report.__main__", "compare runs on one HTML page"),
    "render": ("roml_jax.render.__main__", "show a run's policy in the browser or as a film"),
    "demo": ("roml_jax.demo.__main__", "show trained policies, RoML beside VariBAD, without training"),
    "export": ("roml_jax.export", "write a run's policy to a file for JAX alone or an ONNX runtime"),
    "sim2sim": ("roml_jax.sim2sim.__main__", "compare a policy's returns between engines and plain MuJoCo"),
    "envs": ("roml_jax.envs.__main__", "list the environments, or describe one"),
}
_MORE = """COMMAND --help lists a command's options. For train these are the ones that most
runs need; train --help-all lists every option. roml-jax --version prints the
version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``COMMAND [OPTIONS]``; returns the exit code."""
    if argv is None and not {"", os.getcwd()} & {*sys.path}:
        sys.path.insert(0, os.getcwd())  # as ``python -m`` does, for --import of a module in this folder
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "--help-all"):
        print("usage: roml-jax COMMAND [OPTIONS]\n")
        for name, (_, purpose) in COMMANDS.items():
            print(f"  {name:9} {purpose}")
        print(f"\n{_MORE}")
        return 0
    if arguments[0] == "--version":
        print(PROGRAM)
        return 0
    if arguments[0] not in COMMANDS:
        print(f"error: {_no_command(arguments[0])}", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])


def _no_command(name: str) -> str:
    """Why a word is no command, in one line."""
    from roml_jax import envs  # only here: it takes a second

    if name in envs.names():
        return f"{name} is an environment, not a command: roml-jax train --env {name}"
    return str(unknown("command", name, COMMANDS))


if __name__ == "__main__":
    sys.exit(main())
