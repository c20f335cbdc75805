"""The paper's results: final models, 30 seeds, means over seeds with 95 % intervals."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """A mean over seeds and its interval; NaN where none was published."""

    mean: float
    low: float = float("nan")
    high: float = float("nan")

    def text(self, digits: int) -> str:
        """As ``intervals.Interval`` shows it."""
        known = self.low == self.low
        interval = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]" if known else ""
        return f"{self.mean:.{digits}f}{interval}"


# environment, method: mean return, CVaR
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
