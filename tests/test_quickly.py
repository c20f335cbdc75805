"""Compiler options of programs that are compiled quickly."""

import jax
import pytest

from roml_jax import quickly


@pytest.mark.parametrize("device", [None, "cpu", jax.devices("cpu")[0]], ids=["default", "name", "device"])
def test_on_a_cpu_programs_have_the_options(device):
    if device is None and jax.default_backend() != "cpu":
        pytest.skip("JAX's default device is no CPU here")
    with jax.default_device(device):
        assert quickly.on_a_cpu(quickly.QUICKEST) == quickly.QUICKEST


def test_elsewhere_they_have_none():
    with jax.default_device("gpu"):
        assert quickly.on_a_cpu(quickly.QUICKEST) is None


def test_a_program_that_was_compiled_quickly_has_the_results():
    assert quickly.jit(lambda x, y: (x + y, x * y))(3, 4) == (7, 12)
