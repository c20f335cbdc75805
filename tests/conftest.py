"""Settings shared by all tests."""

import jax
import pytest


@pytest.fixture
def x64():
    """Double precision for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(autouse=True, scope="module")
def _forget():
    """What one module compiled is of no use to the next and would fill the memory."""
    yield
    jax.clear_caches()
