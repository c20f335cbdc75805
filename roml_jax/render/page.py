"""A self-contained HTML page of a few hundred kilobytes that shows a robot in 3-D with WebGL."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

from roml_jax.evaluate.intervals import decimals
from roml_jax.render.robots import Robot
from roml_jax.render.rollouts import Played, describe, labelled
from roml_jax.render.scene import scene

_CELLS = (1.0, 2.0, 5.0)  # times a power of ten: sides of the floor's cells, in metres


def cell(radius: float) -> float:
    """Side of the floor's cells, in metres: 1 for robots of a usual size, else about the robot's radius."""
    if 0.3 <= radius <= 3.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(radius))
    return max(size * power for size in _CELLS if size * power <= radius)


def data(title: str, robot: Robot, played: Sequence[Played]) -> dict[str, Any]:
    """The data of the viewer, with one view per policy and task; can be serialised as JSON.

    Args:
        title: title of the page.
        robot: the environment's robot.
        played: episodes of each policy on each task, all of the same number and horizon.
    """
    episodes, horizon = played[0].reward.shape[:2]
    scenes = [scene(robot, one) for one in labelled(robot.names, played)]
    same = len({tuple(one.task) for one in played}) == 1
    return {
        "title": title,
        "subtitle": describe(robot.names, played[0].task) if same else "",
        "episodes": episodes,
        "horizon": horizon,
        "dt": robot.dt,
        "decimals": decimals([one.returns.max() for one in played]),
        "distance": 4.0,  # distance of the camera, in radii of the robot
        "cell": cell(max(shown["radius"] for shown in scenes)),
        "follow_z": False,
        "scenes": scenes,
    }


def page(content: dict[str, Any]) -> str:
    """The page as HTML.

    Args:
        content: as made by ``data``, or ``{"title": ..., "live": True}`` for a page that asks its server.
    """
    template = resources.files("roml_jax.render").joinpath("viewer.html").read_text()
    # a "</" in a label could end the script element
    text = json.dumps(content).replace("</", "<\\/")
    whole = html.escape(": ".join(filter(None, (content["title"], content.get("subtitle")))))
    return template.replace("<title>TITLE</title>", f"<title>{whole}</title>").replace("/*DATA*/null", text)
