"""A self-contained HTML page of a few hundred kilobytes that shows a robot in 3-D with WebGL."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from roml_jax.envs import TaskEnv
from roml_jax.evaluate.intervals import decimals
from roml_jax.render.rollouts import Played
from roml_jax.render.scene import scene


def describe(env: TaskEnv, task: np.ndarray) -> str:
    """A task as text, such as ``mass 1.7, damping 1``."""
    return ", ".join(f"{name} {value:.3g}" for name, value in zip(env.family.names, task, strict=True))


def page(env: TaskEnv, played: Sequence[Played]) -> str:
    """The page as HTML, with one view per policy.

    Args:
        env: the environment.
        played: episodes of each policy, all on the same task.
    """
    episodes, horizon = played[0].reward.shape[:2]
    title, subtitle = env.name, describe(env, played[0].task)
    data: dict[str, Any] = {
        "title": title,
        "subtitle": subtitle,
        "episodes": episodes,
        "horizon": horizon,
        "dt": env.physics.dt,
        "decimals": decimals([one.returns.max() for one in played]),
        "distance": 4.0,  # distance of the camera, in radii of the robot
        "cell": 1.0,
        "follow_z": False,
        "scenes": [scene(env, one) for one in played],
    }
    template = resources.files("roml_jax.render").joinpath("viewer.html").read_text()
    # a "</" in a label could end the script element
    text = json.dumps(data).replace("</", "<\\/")
    whole = html.escape(f"{title}: {subtitle}")
    return template.replace("<title>TITLE</title>", f"<title>{whole}</title>").replace("/*DATA*/null", text)
