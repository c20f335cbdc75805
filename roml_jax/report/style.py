"""Common style of the report's figures: colours, labels at the ends of lines, plain axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

INK, FAINT = "#222222", "#8a8a8a"
_LINES = ("-", "--", ":", "-.")


class Look(NamedTuple):
    """How a method is drawn: the colour, and the dash pattern of lines."""

    colour: str
    dash: str


# Colours of the palettes of Okabe and Ito and of Tol. Two samplers whose colours look alike to people with a
# colour vision deficiency have different dash patterns.
_BY_SAMPLER = {
    "uniform": Look("#d55e00", "--"), "cem": Look("#0072b2", "-"), "cem_soft": Look("#56b4e9", "--"),
    "cem_weighted": Look("#0072b2", "-."),
    "tail": Look("#009e73", "-."), "tail_soft": Look("#009e73", ":"), "oracle": Look("#cc79a7", "--"),
    "naive": Look("#e69f00", ":"), "gdrm": Look("#999933", "-"), "mpts": Look("#332288", "--"),
    "pdts": Look("#88ccee", ":"), "plr": Look("#882255", "-."), "accel": Look("#cc6677", "-"),
    "sfl": Look("#000000", ":"), "doraemon": Look("#8c6d1f", ":"), "autodr": Look("#ddaa33", "-."),
}  # fmt: skip
_SPARE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_LABEL_GAP = 0.075  # minimum distance of labels, as a share of the axis height
PANEL = (3.7, 3.0)  # inches


def looks(samplers: Sequence[str]) -> list[Look]:
    """A look for each method: that of its sampler, or a spare one if the sampler occurs again."""
    taken: list[Look] = []
    for sampler in samplers:
        colours = {look.colour for look in taken}
        spare = [Look(colour, dash) for dash in _LINES for colour in _SPARE]
        spare = [look for look in spare if look.colour not in colours] + [
            look for look in spare if look not in taken
        ]
        preferred = _BY_SAMPLER.get(sampler)
        taken.append(preferred if preferred and preferred not in taken else (spare or [taken[0]])[0])
    return taken


def panels(count: int, columns: int = 3, size: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels.

    Args:
        count: number of panels.
        columns: maximum number of columns.
        size: width and height of a panel, in inches.
    """
    columns = min(count, columns)
    rows = -(-count // columns)
    if count == 1:
        size = (size[0] * 1.3, size[1] * 1.1)
    layout = ConstrainedLayoutEngine(wspace=0.06, hspace=0.08)
    figure = Figure(figsize=(columns * size[0] + 0.8, rows * size[1] + 0.2), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        plain(axis)
    return figure, axes[:count]


def plain(axis: Axes) -> None:
    """Removes the frame, reduces the ticks and adds a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(colors=INK, labelsize=8.5, length=3, color=FAINT)
    axis.grid(axis="y", color="#e6e6e6", lw=0.6)
    axis.set_axisbelow(True)
    axis.yaxis.set_major_locator(MaxNLocator(5))


def name_axes(axis: Axes, title: str, x: str, y: str) -> None:
    """Sets the title and the axis labels."""
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axis.set_xlabel(x, fontsize=9, color=INK)
    axis.set_ylabel(y, fontsize=9, color=INK)


def frames_axis(axis: Axes, most: float) -> tuple[float, str]:
    """Sets the ticks of an axis of frames; returns the divisor for frames and the label.

    Args:
        axis: the axis.
        most: largest number of frames on the axis.
    """
    scale, unit = (1e6, "million frames") if most >= 5e5 else (1e3, "thousand frames")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    return scale, f"training ({unit})"


def label_ends(axis: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Writes labels beside the ends of lines, without overlap.

    Args:
        axis: the axis; its limits must be final.
        ends: (x, y, colour) of the end of each line, by label.
    """
    low, high = axis.get_ylim()
    named = sorted(ends.items(), key=lambda item: item[1][1])
    places = np.array([(end[1] - low) / (high - low) for _, end in named])
    for _ in range(200):  # move neighbours apart that are too close
        gaps = np.diff(places)
        close = gaps < _LABEL_GAP - 1e-6
        if not close.any():
            break
        push = np.where(close, (_LABEL_GAP - gaps) / 2, 0)
        places[:-1] -= push
        places[1:] += push
    if len(places):
        places += max(0.0, -places[0]) - max(0.0, places[-1] - 1.0)
    right = max((end[0] for end in ends.values()), default=0.0)
    for (name, (_, _, colour)), place in zip(named, places, strict=True):
        axis.annotate(
            name, (right, low + place * (high - low)), xytext=(5, 0), textcoords="offset points",
            color=colour, fontsize=8.5, va="center", annotation_clip=False,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
