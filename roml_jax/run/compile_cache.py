"""The folder where compiled programs are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def enable() -> None:
    """Keeps compiled programs under the user's cache folder, unless JAX was told of another place."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roml_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
