"""The paper's results: final models, 30 seeds, means over seeds with 95 % intervals."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """A mean over seeds and its interval, NaN if none was published."""

    mean: float
    low: float = float("nan")
    high: float = float("nan")

    def text(self, digits: int) -> str:
        """Mean and interval as text, in the format of ``intervals.Interval.text``."""
        has_interval = self.low == self.low
        interval = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]" if has_interval else ""
        return f"{self.mean:.{digits}f}{interval}"


class Point(NamedTuple):
    """The published validation figures at an iteration, NaN if the paper's figures do not show one."""

    mean: float = float("nan")
    cvar: float = float("nan")


# By environment, method and iteration of 6,400 frames: means over 30 seeds and +-45 iterations, read off the
# paper's figures. CVaR is over 2 of 32 tasks, which is 30 to 35 points above the CVaR over 256 tasks (on the
# returns of our learners of cheetah_mass).
CURVES: dict[str, dict[str, dict[int, Point]]] = {
    "cheetah_mass": {
        "varibad": {
            320: Point(772), 500: Point(897, 688), 781: Point(1029, 807), 1000: Point(1108, 856),
            2000: Point(1335, 1015), 3000: Point(cvar=1075), 4600: Point(1566, 1124),
        },
        "roml": {
            160: Point(451), 320: Point(744), 480: Point(866), 500: Point(cvar=678), 781: Point(997, 786),
            1000: Point(1081, 852), 2000: Point(1285, 1065), 3000: Point(cvar=1199), 4600: Point(1599, 1292),
        },
    },
    "cheetah_vel": {
        "varibad": {
            160: Point(-530), 320: Point(-353), 500: Point(-250, -560), 781: Point(-163, -420),
            1000: Point(-137, -326), 2000: Point(-98, -233), 4600: Point(-79, -189),
        },
        "roml": {
            160: Point(-562), 320: Point(-409), 480: Point(-318), 500: Point(cvar=-602),
            781: Point(-225, -394), 1000: Point(-170, -308), 2000: Point(-126, -229), 4600: Point(-93, -171),
        },
    },
}  # fmt: skip
SAME = 0.03  # iterations that differ by at most this share count as equal


def curve(env: str, name: str, what: str) -> dict[int, float]:
    """The published curve of "mean" or "cvar" by iteration; empty if there is none."""
    points = CURVES.get(env, {}).get(name, {})
    values = {iteration: getattr(point, what) for iteration, point in points.items()}
    return {iteration: value for iteration, value in values.items() if value == value}


def at_iteration(env: str, name: str, what: str, iteration: int) -> str:
    """The published "mean" or "cvar" at an iteration, as text with the iteration where it was read.

    It is interpolated between two points of the curve; the text is empty beyond the curve's ends.
    """
    points = curve(env, name, what)
    near = min(points, key=lambda at: abs(at - iteration), default=None)
    if near is None:
        return ""
    if abs(near - iteration) <= SAME * iteration:
        return f"{points[near]:.0f} (at {near})"
    below, above = (max((at for at in points if at < iteration), default=None),
                    min((at for at in points if at > iteration), default=None))  # fmt: skip
    if below is None or above is None:
        return ""
    share = (iteration - below) / (above - below)
    return f"{points[below] + share * (points[above] - points[below]):.0f} (between {below} and {above})"


# By environment and method: (mean return, CVaR).
PUBLISHED: dict[str, dict[str, tuple[Figure, Figure]]] = {
    "khazad_dum": {
        "varibad": (Figure(-0.243, -0.301, -0.208), Figure(-0.695, -0.744, -0.660)),
        "roml": (Figure(-0.237, -0.245, -0.233), Figure(-0.444, -0.467, -0.426)),
        "cvar_ml": (Figure(-0.361, -0.450, -0.298), Figure(-0.495, -0.564, -0.431)),
    },
    "cheetah_vel": {
        "varibad": (Figure(-82, -87, -78), Figure(-202, -216, -191)),
        "roml": (Figure(-94, -101, -89), Figure(-184, -193, -176)),
        "cvar_ml": (Figure(-574), Figure(-897)),
        "pearl": (Figure(-533, -561, -503), Figure(-1157, -1204, -1115)),
        "roml_pearl": (Figure(-518, -548, -491), Figure(-1090, -1150, -1027)),
    },
    "cheetah_mass": {
        "varibad": (Figure(1558, 1500, 1616), Figure(1074, 1042, 1106)),
        "roml": (Figure(1581, 1516, 1638), Figure(1262, 1224, 1294)),
        "cvar_ml": (Figure(113), Figure(38)),
        "pearl": (Figure(1725, 1701, 1750), Figure(1115, 1083, 1151)),
        "roml_pearl": (Figure(1553, 1516, 1589), Figure(1186, 1120, 1250)),
    },
    "cheetah_body": {
        "varibad": (Figure(1616, 1560, 1667), Figure(837, 772, 886)),
        "roml": (Figure(1582, 1543, 1617), Figure(938, 902, 966)),
        "cvar_ml": (Figure(192), Figure(75)),
        "pearl": (Figure(1655, 1641, 1666), Figure(800, 790, 809)),
        "roml_pearl": (Figure(1438, 1422, 1453), Figure(808, 797, 820)),
    },
    "humanoid_vel": {
        "varibad": (Figure(880, 873, 886), Figure(802, 778, 816)),
        "roml": (Figure(883, 876, 890), Figure(834, 826, 841)),
        "cvar_ml": (Figure(300), Figure(55)),
    },
    "humanoid_mass": {
        "varibad": (Figure(1645, 1604, 1684), Figure(1283, 1248, 1316)),
        "roml": (Figure(1580, 1546, 1611), Figure(1380, 1332, 1414)),
        "cvar_ml": (Figure(600), Figure(490)),
    },
    "humanoid_body": {
        "varibad": (Figure(1678, 1646, 1709), Figure(1290, 1250, 1324)),
        "roml": (Figure(1618, 1583, 1650), Figure(1366, 1326, 1400)),
        "cvar_ml": (Figure(641), Figure(514)),
    },
}
