"""Programs that compile in a fraction of the time and run slower: for small work that is done a few times."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

# jaxlib 0.11 has no option for the fusion emitters; JAX 0.10 has no other way to it
_EMITTERS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
SAME_BITS: dict[str, Any] | None = _EMITTERS or None
"""Compiler options for a CPU that change no digit of a result."""
QUICKEST: dict[str, Any] = _EMITTERS | {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Compiler options for a CPU: a fifth of the time. Sums and products may differ in their last digits."""


def on_a_cpu(options: dict[str, Any] | None) -> dict[str, Any] | None:
    """The compiler options if JAX's default device is a CPU; None, which means JAX's own, otherwise."""
    device = jax.config.jax_default_device  # ty: ignore[missing-attribute]  # made at run time
    if device is None:
        device = jax.default_backend()
    return options if getattr(device, "platform", device) == "cpu" else None  # a device, or a backend's name


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """As ``jax.jit``, compiled with the ``QUICKEST`` options on a CPU. Not to be called within a program."""

    @functools.cache
    def compiled() -> Callable[..., Any]:  # later than this module's import, which must not start a backend
        return jax.jit(function, compiler_options=on_a_cpu(QUICKEST))

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return compiled()(*args)

    return call
