"""Settings shared by all tests."""

import gc
import importlib.metadata
import os
import sys
from pathlib import Path

# One cache of compiled programs for all workers and for the next run here; set before JAX is imported.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roml_jax" / "tests"),
)
# Small programs, too: every module compiles the same hundred of them.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# XLA's older emitters compile programs with few optimisations in half the time, and level 1 compiles others
# in two thirds; its preset for fast compilation and one module for LLVM instead of 32 take a quarter of the
# rest. XLA stops at a flag that it does not know, so later versions keep their own.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICKER = (
        "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1 "
        "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE --xla_cpu_parallel_codegen_split_count=1"
    )
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKER}".strip()

import jax
import pytest

from roml_jax.run import threefry

threefry.in_one_kernel()  # as in the commands
jax.devices()  # one: training several seeds would start more, were it the first to ask
# Tracing makes millions of objects and little garbage, and every collection walks through all of them.
gc.set_threshold(100_000, 50, 100)

QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"


@pytest.fixture
def x64():
    """Double precision for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(autouse=True, scope="module")
def _compile(request):
    """What runs on every change runs for moments: it is compiled quickly, not well, in its commands, too.

    With the slow tests, a module that trains for long, or whose subject is the last digit, and says so by
    ``OPTIMISED = True``, is compiled well.
    """
    optimised = (
        getattr(request.module, "OPTIMISED", False) and "not slow" not in request.config.option.markexpr
    )
    before = os.environ.get(QUICK, "0")

    def switch(value: str) -> None:
        os.environ[QUICK] = value
        jax.config.update(QUICK.lower(), bool(int(value)))

    switch(str(int(not optimised)))
    # a module whose subject is the mathematics of arrays says STRICT: no rank is promoted unasked
    ranks = "raise" if getattr(request.module, "STRICT", False) else "allow"
    jax.config.update("jax_numpy_rank_promotion", ranks)
    yield
    jax.config.update("jax_numpy_rank_promotion", "allow")
    switch(before)
    jax.clear_caches()  # what one module compiled is of no use to the next and would fill the memory


@pytest.fixture(autouse=True, scope="module")
def _forget():
    """What a module registers under a name is forgotten after it."""
    from roml_jax import agents, envs, samplers

    registries = [envs.base._registry, samplers.base._registry, *agents.base._registries.values()]
    before, imported = [dict(registry._constructors) for registry in registries], set(sys.modules)
    yield
    for name in set(sys.modules) - imported:
        if name.startswith("examples."):  # it registered a name, and would not again
            del sys.modules[name]
    for registry, names in zip(registries, before, strict=True):
        registry._constructors.clear()
        registry._constructors.update(names)
