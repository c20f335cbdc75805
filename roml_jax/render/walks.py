"""Pictures of walks in Khazad-Dum: a map of many walks, or a film of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roml_jax.envs import khazad_dum_figure
from roml_jax.envs.khazad_dum import ROUTES, KhazadDum
from roml_jax.envs.khazad_dum_figure import MapImage
from roml_jax.render.film import beside, save_gif
from roml_jax.render.rollouts import Played

_MILLISECONDS = 110
_HOLD = 10  # images for which the end of an episode is shown
_INK = (26, 26, 26)
_HEAD = 58  # pixels above the map for text


def still(env: KhazadDum, played: Sequence[Played], path: Path) -> None:
    """Writes a map of the last episodes of many walkers, coloured by route."""
    last = {one.label: np.moveaxis(one.poses[-1], 1, 0) for one in played}  # (n, H + 1, 2)
    figure = khazad_dum_figure.plot_map(env, last, noise=float(played[0].task[0]))
    figure.savefig(path, format="png", dpi=160, facecolor="white")


def _picture(base: MapImage, env: KhazadDum, one: Played, k: int, t: int) -> Image.Image:
    """An image of the walk up to step t of episode k, with earlier episodes in a lighter colour."""
    small = base.walk(one.poses[k, : t + 1, 0], [one.poses[earlier, :, 0] for earlier in range(k)])
    whole = Image.new("RGB", (small.width, small.height + _HEAD), "white")
    whole.paste(small, (0, _HEAD))
    words, font = ImageDraw.Draw(whole), ImageFont.load_default(size=15)
    words.text((8, 6), f"{one.label}, noise {one.task[0]:.3g}", font=font, fill=_INK)
    total = one.reward[k, :t, 0].sum()
    text = f"episode {k} (of 0 to {len(one.reward) - 1}), step {t}, return {total:.3f}"
    if t == one.reward.shape[1]:
        text += f": {ROUTES[int(env.routes(one.poses[k, :, 0]))]}"
    words.text((8, 30), text, font=font, fill=_INK)
    return whole


def film(env: KhazadDum, played: Sequence[Played], path: Path) -> None:
    """Writes a film of one walker per policy, side by side, through all episodes."""
    bases = [MapImage(env, float(one.task[0])) for one in played]
    episodes, steps = played[0].reward.shape[:2]
    images = []
    for k in range(episodes):
        for t in [*range(steps + 1), *[steps] * _HOLD]:
            pictures = [_picture(base, env, one, k, t) for base, one in zip(bases, played, strict=True)]
            images.append(beside(pictures, gap=16))
    save_gif(images, path, _MILLISECONDS)
