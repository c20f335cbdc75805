"""The seeds that one program trains in parallel, and the options in which they differ."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax.config.values import split
from roml_jax.types import Array


class Seed(NamedTuple):
    """One of the learners that a program trains in parallel.

    Attributes:
        seed: random seed of the learner and its training.
        settings: values of the swept options, by dotted name.
    """

    seed: int
    settings: Mapping[str, float]

    @property
    def label(self) -> str:
        """The seed and its settings as text, e.g. ``0, ppo.lr=0.0003``."""
        return self.labelled(str(self.seed))

    def labelled(self, first: str) -> str:
        """The settings as text after another word than the seed, e.g. ``mean, ppo.lr=0.0003``."""
        return ", ".join([first, *(f"{name}={value:g}" for name, value in self.settings.items())])

    @property
    def columns(self) -> dict[str, float]:
        """The seed and its settings as columns of a row of metrics."""
        return {"seed": self.seed, **self.settings}


def expand(seeds: Any) -> list[Any]:
    """Expands a list of seeds: ``0..29`` becomes thirty seeds, ``0,1`` two. Other entries are unchanged."""
    expanded: list[Any] = []
    for one in split(seeds):
        match = re.fullmatch(r"(\d+)\.\.(\d+)", one) if isinstance(one, str) else None
        expanded += list(range(int(match[1]), int(match[2]) + 1) if match else ()) or [one]
    return expanded


def parse_sweep(sweep: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Parses entries such as ``ppo.lr=3e-4,7e-4`` into values by option name.

    Raises:
        ValueError: for an entry of another form, a repeated name or repeated values; one line.
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
    """All combinations of swept settings and seeds. The seeds of one setting are adjacent."""
    values = parse_sweep(sweep)
    settings = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    return tuple(Seed(seed, setting) for setting in settings for seed in seeds)


def leaves(seeds: Sequence[Seed]) -> tuple[Array, dict[str, Array]]:
    """The inputs of the vmapped initialisation: random keys (R,), and settings (R,) by option name."""
    keys = jnp.stack([jax.random.key(one.seed) for one in seeds])
    return keys, {name: jnp.array([one.settings[name] for one in seeds]) for name in seeds[0].settings}
