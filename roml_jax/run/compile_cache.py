"""How a command compiles its programs: random bits in one kernel, and JAX's persistent compilation cache."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from roml_jax.run import threefry


def prepare(*, cache: bool) -> None:
    """Prepares the compilation of a command's programs.

    Args:
        cache: whether to cache compiled programs in ``~/.cache/roml_jax/compiled``, unless JAX has a cache
            folder already. If ``XDG_CACHE_HOME`` is set, it is used instead of ``~/.cache``.
    """
    threefry.in_one_kernel()
    configured = jax.config.jax_compilation_cache_dir  # ty: ignore[missing-attribute]  # made at run time
    if cache and configured is None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roml_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
