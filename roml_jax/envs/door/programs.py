"""Programs that run once or twice; most are compiled quickly rather than well."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from roml_jax import quickly


def on_cpu() -> contextlib.AbstractContextManager[Any]:
    """Programs made in this context are for the CPU, where they compile faster than for a GPU."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def compiled(function: Callable[..., Any], *, quick: bool = True) -> Callable[..., Any]:
    """The function as a program.

    MJX's steps are an exception to ``quick``: they compile little faster without optimisation, and run thirty
    times slower.
    """
    return jax.jit(function, compiler_options=quickly.on_a_cpu(quickly.QUICKEST) if quick else None)


def run(function: Callable[..., Any], *args: Any) -> Any:
    """The function's results as NumPy arrays; one program, since eager operations compile one by one."""
    return jax.tree.map(np.asarray, compiled(function)(*args))
