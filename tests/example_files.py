"""The files of ``examples/`` as modules."""

import importlib.util
from pathlib import Path


def load(name):
    """The module of ``examples/NAME.py``, executed."""
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
