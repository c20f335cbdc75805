"""The map of Khazad-Dum: its fixed measures, and what a figure needs of an environment on it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from roml_jax.types import Array

ROUTES = ("short", "long", "fall", "stay")
"""Outcomes of an episode, by the index that ``KhazadDum.routes`` returns: goal over the narrow bridge, goal
over the wide bridge, fall into the abyss, or neither in time."""

START = (0.5, 2.5)  # range of the start's x and y
BANK = 2  # rows of land south and north of the abyss
NARROW = 2  # column of the narrow bridge
WIDE = 3  # columns of the wide bridge, at the east wall


class Map(Protocol):
    """An environment whose map can be drawn."""

    @property
    def width(self) -> int:
        """In cells, walls included."""
        ...

    @property
    def height(self) -> int:
        """In cells, walls included."""
        ...

    @property
    def walls(self) -> np.ndarray:
        """(width, height) bool."""
        ...

    @property
    def abyss(self) -> np.ndarray:
        """(width, height) bool."""
        ...

    @property
    def goal(self) -> tuple[int, int]:
        """The goal's cell."""
        ...

    def routes(self, positions: Array) -> Array:
        """Indices into ``ROUTES`` of walks (..., T, 2)."""
        ...
