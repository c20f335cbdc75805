"""JAX's persistent compilation cache."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def enable() -> None:
    """Caches compiled programs in ``~/.cache/roml_jax/compiled``, unless JAX has a cache folder already.

    If ``XDG_CACHE_HOME`` is set, it is used instead of ``~/.cache``.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roml_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
