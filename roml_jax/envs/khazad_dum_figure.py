"""A picture of Khazad-Dum: the map, and how episodes of several policies went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from numpy.typing import ArrayLike

from roml_jax.envs import khazad_dum
from roml_jax.envs.khazad_dum import ROUTES, KhazadDum

_WALL, _ABYSS, _LAND, _GRID = "#77716c", "#2b2d33", "#f6f3ec", "#e3dfd5"
_START, _GOAL, _INK = "#c3dff0", "#f2d14c", "#1a1a1a"
_CELL, _LEGEND_WIDTH = 0.4, 6.6  # inches


class _Style(NamedTuple):
    """How episodes of one outcome are drawn."""

    text: str
    colour: str
    marker: str


# Okabe and Ito's colours, told apart with every kind of colour vision; the marker tells them apart too.
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
    env: KhazadDum, trajectories: Mapping[str, ArrayLike], noise: float | Sequence[float] | None = None
) -> Figure:
    """Draws episodes on the map, coloured by ``env.routes``: one column per policy, one row per noise.

    Args:
        env: whose map and routes.
        trajectories: positions in cells by the policy's name: (M, T, 2) for M episodes; (L, M, T, 2)
            if ``noise`` names L levels.
        noise: tau of the episodes, or one per row; written above each panel, with its one-standard-
            deviation circle on the narrow bridge, to scale. None if it differs between episodes.

    Raises:
        ValueError: without a policy, or if a policy's array has another shape.
    """
    levels = [noise] if noise is None or np.ndim(noise) == 0 else list(noise)
    if not trajectories or not levels:
        raise ValueError("plot_map needs at least one policy and one level of noise")
    rows, columns = len(levels), len(trajectories)
    width, height = _CELL * (env.width - 1) + 0.2, _CELL * (env.height - 1) + 0.6
    figure = Figure(figsize=(max(columns * width, _LEGEND_WIDTH), rows * height + 0.7), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, rect=(0, 0, 1, 0.99))
    axes = figure.subplots(rows, columns, squeeze=False)
    for column, (name, positions) in enumerate(trajectories.items()):
        positions = _episodes(name, positions, None if np.ndim(noise) == 0 else rows)
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
    wanted = "(episodes, steps, 2)" if levels is None else f"({levels}, episodes, steps, 2)"
    if levels is None:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] != 2 or 0 in array.shape or (levels or 1) != len(array):
        raise ValueError(f"trajectories of {name!r} must have shape {wanted}, got {np.shape(positions)}")
    return array


def draw_map(axis: Axes, env: KhazadDum, noise: float | None = None) -> None:
    """The map, cut at half the walls' thickness: no position lies farther out; the noise to scale."""
    axis.set(xlim=(0, env.width - 1), ylim=(0, env.height - 1), xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)
    for x in range(env.width):
        for y in range(env.height):
            colour = _WALL if env.walls[x, y] else _ABYSS if env.abyss[x, y] else _LAND
            edge = _GRID if colour == _LAND else colour
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor=edge, lw=0.5))
    low, high = khazad_dum.START
    axis.add_patch(Rectangle((low, low), high - low, high - low, facecolor=_START, lw=0))
    goal_x, goal_y = env.goal
    axis.add_patch(Rectangle((goal_x - 0.5, goal_y - 0.5), 1, 1, facecolor=_GOAL, lw=0))
    middle, east = (env.height - 1) / 2, env.width - 1
    chasm = (khazad_dum.NARROW + east - khazad_dum.WIDE) / 2
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
    """Lines of episodes (M, T, 2), the more see-through the more there are; the end marked."""
    alpha = float(np.clip(14 / len(episodes), 0.12, 0.8))
    # the rare outcomes on top, or they would vanish under the common one
    for label in sorted(set(labels.tolist()), key=lambda label: -(labels == label).sum()):
        style, chosen = _STYLES[ROUTES[label]], episodes[labels == label]
        lines = LineCollection(list(chosen), colors=style.colour, alpha=alpha, lw=1, capstyle="round")
        axis.add_collection(lines)
        x, y = chosen[:, -1].T
        axis.scatter(x, y, s=12, marker=style.marker, color=style.colour, edgecolor="white", lw=0.4, zorder=3)


def _draw_noise(axis: Axes, noise: float, middle: float) -> None:
    """The noise's standard deviation to scale, on the narrow bridge."""
    circle = Circle((khazad_dum.NARROW, middle), noise, facecolor="none", edgecolor=_INK, lw=1.3, zorder=4)
    axis.add_patch(circle)


def _caption(axis: Axes, name: str, noise: float | None, labels: np.ndarray) -> None:
    counts = [(route, (labels == label).mean()) for label, route in enumerate(ROUTES)]
    shares = ", ".join(f"{share:.0%} {route}" for route, share in counts if share > 0)
    given = shares if noise is None else f"noise {noise:g}: {shares}"
    axis.set_title(name, loc="left", fontsize=10.5, fontweight="bold", color=_INK, pad=17)
    axis.text(0, 1.02, given, transform=axis.transAxes, va="bottom", fontsize=9, color=_INK)


def _legend() -> list[Line2D]:
    circle = {"color": _INK, "marker": "o", "markerfacecolor": "none", "ls": "none"}
    return [
        *(
            Line2D([], [], color=style.colour, marker=style.marker, markeredgecolor="white", label=style.text)
            for style in _STYLES.values()
        ),
        Line2D([], [], label="noise, one standard deviation", **circle),
    ]
