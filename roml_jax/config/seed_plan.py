"""The seeds that one program trains side by side, and the settings that differ between them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax.types import Array


class Seed(NamedTuple):
    """One of the learners that a program trains side by side.

    Attributes:
        seed: decides all its randomness.
        settings: options in which it differs from others, by dotted name.
    """

    seed: int
    settings: Mapping[str, float]

    @property
    def label(self) -> str:
        """For people: the seed, and what is set."""
        return ", ".join([str(self.seed), *(f"{name}={value:g}" for name, value in self.settings.items())])

    @property
    def columns(self) -> dict[str, float]:
        """For a row of metrics."""
        return {"seed": self.seed, **self.settings}


def expand(seeds: Any) -> list[Any]:
    """Seeds as they are written, ``0..29`` among them as the thirty that it stands for."""
    found: list[Any] = []
    for one in seeds if isinstance(seeds, list | tuple | range) else [seeds]:
        match = re.fullmatch(r"(\d+)\.\.(\d+)", one) if isinstance(one, str) else None
        found += list(range(int(match[1]), int(match[2]) + 1)) if match else [one]
    return found


def parse_sweep(sweep: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Values by option name, from ``ppo.lr=3e-4,7e-4`` and the like.

    Raises:
        ValueError: for anything else; one line.
    """
    values: dict[str, tuple[float, ...]] = {}
    for entry in sweep:
        name, _, listed = entry.partition("=")
        try:
            numbers = tuple(float(number) for number in listed.split(","))
        except ValueError:
            raise ValueError(
                f"sweep must be NAME=VALUE,VALUE,... with numbers (ppo.lr=3e-4,7e-4), got {entry!r}"
            ) from None
        if name in values:
            raise ValueError(f"sweep names {name} twice")
        if len(set(numbers)) != len(numbers) or not all(map(math.isfinite, numbers)):
            raise ValueError(f"sweep of {name} needs distinct finite values, got {listed}")
        values[name.replace("-", "_")] = numbers
    return values


def plan(seeds: Sequence[int], sweep: Sequence[str]) -> tuple[Seed, ...]:
    """Every setting with every seed; the seeds of a setting stand together."""
    values = parse_sweep(sweep)
    settings = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    return tuple(Seed(seed, setting) for setting in settings for seed in seeds)


def leaves(seeds: Sequence[Seed]) -> tuple[Array, dict[str, Array]]:
    """What initialisation is vmapped over: keys (R,), and settings (R,) by name."""
    keys = jnp.stack([jax.random.key(one.seed) for one in seeds])
    return keys, {name: jnp.array([one.settings[name] for one in seeds]) for name in seeds[0].settings}
