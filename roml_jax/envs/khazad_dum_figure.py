"""Pictures of Khazad-Dum: a figure of several policies' episodes on the map, and images of single walks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from roml_jax.envs.khazad_dum_map import NARROW, ROUTES, START, WIDE, Map

_WALL, _ABYSS, _LAND, _GRID = "#77716c", "#2b2d33", "#f6f3ec", "#e3dfd5"
_START, _GOAL, _INK = "#c3dff0", "#f2d14c", "#1a1a1a"
_CELL, _LEGEND_WIDTH = 0.4, 6.6  # inches


class _Style(NamedTuple):
    """Legend text, colour and end marker of the episodes with one outcome."""

    text: str
    colour: str
    marker: str


# Okabe and Ito's colours, which are distinct for every kind of colour vision; markers differ as well.
_STYLES = dict(
    zip(
        ROUTES,
        (
            _Style("goal over the narrow bridge", "#0072b2", "o"),
            _Style("goal over the wide bridge", "#009e73", "s"),
            _Style("fallen", "#d55e00", "X"),
            _Style("not at the goal in time", "#cc79a7", "D"),
        ),
        strict=True,
    )
)


def plot_map(
    env: Map, trajectories: Mapping[str, ArrayLike], noise: float | Sequence[float] | None = None
) -> Figure:
    """Draws episodes on the map, coloured by ``env.routes``: one column per policy, one row per noise.

    Args:
        env: the environment, with its map and ``routes``.
        trajectories: positions in cells by the policy's name: (M, T, 2) for M episodes; (L, M, T, 2)
            if ``noise`` has L levels.
        noise: of the bridge, or one number per row. It is written above each panel and drawn to scale on the
            narrow bridge, as a circle of one std. None if it differs between episodes.

    Raises:
        ValueError: without a policy, or if a policy's array has another shape.
    """
    given: Any = noise
    levels: list[float | None] = [given] if np.ndim(given) == 0 else list(given)
    if not trajectories or not levels:
        raise ValueError("plot_map needs at least one policy and one level of noise")
    rows, columns = len(levels), len(trajectories)
    width, height = _CELL * (env.width - 1) + 0.2, _CELL * (env.height - 1) + 0.6
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, rect=(0, 0, 1, 0.99))
    figure = Figure(figsize=(max(columns * width, _LEGEND_WIDTH), rows * height + 0.7), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False)
    for column, (name, positions) in enumerate(trajectories.items()):
        positions = _episodes(name, positions, None if np.ndim(given) == 0 else rows)
        for row, (level, episodes) in enumerate(zip(levels, positions, strict=True)):
            axis = axes[row, column]
            draw_map(axis, env, level)
            labels = np.asarray(env.routes(episodes))
            _draw_episodes(axis, episodes, labels)
            _caption(axis, name, level, labels)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _episodes(name: str, positions: ArrayLike, levels: int | None) -> np.ndarray:
    """Positions (L, M, T, 2), checked."""
    array = np.asarray(positions, float)
    expected = "(episodes, steps, 2)" if levels is None else f"({levels}, episodes, steps, 2)"
    if levels is None:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] != 2 or 0 in array.shape or (levels or 1) != len(array):
        raise ValueError(f"trajectories of {name!r} must have shape {expected}, got {np.shape(positions)}")
    return array


def draw_map(axis: Axes, env: Map, noise: float | None = None) -> None:
    """Draws the map up to the centre of the wall cells, the limit of positions; and the noise, to scale."""
    axis.set(xlim=(0, env.width - 1), ylim=(0, env.height - 1), xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)
    for x in range(env.width):
        for y in range(env.height):
            colour = _WALL if env.walls[x, y] else _ABYSS if env.abyss[x, y] else _LAND
            edge = _GRID if colour == _LAND else colour
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor=edge, lw=0.5))
    low, high = START
    axis.add_patch(Rectangle((low, low), high - low, high - low, facecolor=_START, lw=0))
    goal_x, goal_y = env.goal
    axis.add_patch(Rectangle((goal_x - 0.5, goal_y - 0.5), 1, 1, facecolor=_GOAL, lw=0))
    middle, east = (env.height - 1) / 2, env.width - 1
    chasm = (NARROW + east - WIDE) / 2
    for x, y, text, turn in (
        (goal_x, env.height - 1.25, "goal", 0),
        ((low + high) / 2, 0.25, "start", 0),
        (0.25, middle, "narrow bridge", 90),
        (east - 0.25, middle, "wide bridge", 270),
        (chasm, middle, "abyss", 0),
    ):
        axis.text(x, y, text, rotation=turn, ha="center", va="center", fontsize=7, color="white")
    if noise is not None:
        _draw_noise(axis, noise, middle)


def _draw_episodes(axis: Axes, episodes: np.ndarray, labels: np.ndarray) -> None:
    """Draws episodes (M, T, 2) as lines with a marker at the end; more episodes are more transparent."""
    alpha = float(np.clip(14 / len(episodes), 0.12, 0.8))
    # rare outcomes are drawn last, so that the common one does not cover them
    for label in sorted(set(labels.tolist()), key=lambda label: -(labels == label).sum()):
        style, chosen = _STYLES[ROUTES[label]], episodes[labels == label]
        lines = LineCollection(list(chosen), colors=style.colour, alpha=alpha, lw=1, capstyle="round")
        axis.add_collection(lines)
        x, y = chosen[:, -1].T
        axis.scatter(x, y, s=12, marker=style.marker, color=style.colour, edgecolor="white", lw=0.4, zorder=3)


def _draw_noise(axis: Axes, noise: float, middle: float) -> None:
    """Draws a circle on the narrow bridge whose radius is the noise's standard deviation."""
    circle = Circle((NARROW, middle), noise, facecolor="none", edgecolor=_INK, lw=1.3, zorder=4)
    axis.add_patch(circle)


def _caption(axis: Axes, name: str, noise: float | None, labels: np.ndarray) -> None:
    counts = [(route, (labels == label).mean()) for label, route in enumerate(ROUTES)]
    shares = ", ".join(f"{share:.0%} {route}" for route, share in counts if share > 0)
    caption = shares if noise is None else f"noise {noise:g}: {shares}"
    axis.set_title(name, loc="left", fontsize=10.5, fontweight="bold", color=_INK, pad=17)
    axis.text(0, 1.02, caption, transform=axis.transAxes, va="bottom", fontsize=9, color=_INK)


def _legend() -> list[Line2D]:
    deviation = "noise, one standard deviation"
    return [
        *(
            Line2D([], [], color=style.colour, marker=style.marker, markeredgecolor="white", label=style.text)
            for style in _STYLES.values()
        ),
        Line2D([], [], label=deviation, color=_INK, marker="o", markerfacecolor="none", ls="none"),
    ]


_DPI, _FINE = 110, 2  # drawn at twice the resolution and then reduced, for smooth lines
_WALK, _OLD = (0, 114, 178), (86, 180, 233)


class MapImage:
    """The map as an image that walks are drawn on."""

    def __init__(self, env: Map, noise: float) -> None:
        """Draws the empty map at a level of noise."""
        width, height = 0.42 * (env.width - 1) + 0.2, 0.42 * (env.height - 1) + 0.2
        figure = Figure(figsize=(width, height))
        axis = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        draw_map(axis, env, noise)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI * _FINE, facecolor="white")
        figure.set_dpi(_DPI * _FINE)
        self._image = Image.open(buffer).convert("RGB")
        self._to_pixels, self._height = axis.transData, self._image.height

    def _places(self, positions: np.ndarray) -> list[tuple[float, float]]:
        """Pixel coordinates of positions (T, 2), which are in cells."""
        x, y = np.asarray(self._to_pixels.transform(positions)).T
        return list(zip(x.tolist(), (self._height - y).tolist(), strict=True))

    def walk(self, positions: np.ndarray, earlier: Sequence[np.ndarray] = ()) -> Image.Image:
        """An image of a walk.

        Args:
            positions: (t + 1, 2) of the walk so far, in cells.
            earlier: walks (T, 2) of earlier episodes, drawn in a lighter colour.
        """
        image = self._image.copy()
        draw = ImageDraw.Draw(image)
        for one in earlier:
            draw.line(self._places(one), fill=_OLD, width=2 * _FINE, joint="curve")
        places = self._places(positions)
        if len(places) > 1:
            draw.line(places, fill=_WALK, width=4 * _FINE, joint="curve")
        x, y = places[-1]
        r = 7 * _FINE
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_WALK, outline="white", width=2 * _FINE)
        return image.resize((image.width // _FINE, image.height // _FINE), Image.Resampling.LANCZOS)
