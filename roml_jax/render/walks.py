"""Pictures of walks in Khazad-Dum: a map of many, or a film of one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from roml_jax.envs import khazad_dum_figure
from roml_jax.envs.khazad_dum import ROUTES, KhazadDum
from roml_jax.render.film import beside, save_gif
from roml_jax.render.rollouts import Played

_DPI, _FINE = 110, 2  # drawn twice as fine and then reduced: lines without steps
_MILLISECONDS = 110
_HOLD = 10  # pictures at the end of an episode
_WALK, _OLD, _INK = (0, 114, 178), (86, 180, 233), (26, 26, 26)
_HEAD = 58  # pixels above the map for words


def still(env: KhazadDum, played: Sequence[Played], path: Path) -> None:
    """A map of the last episodes of many walkers, coloured by how they went."""
    last = {one.label: np.moveaxis(one.poses[-1], 1, 0) for one in played}  # (n, H + 1, 2)
    figure = khazad_dum_figure.plot_map(env, last, noise=float(played[0].task[0]))
    figure.savefig(path, format="png", dpi=160, facecolor="white")


class _Map:
    """A map as an image, and where positions are on it."""

    def __init__(self, env: KhazadDum, noise: float) -> None:
        width, height = 0.42 * (env.width - 1) + 0.2, 0.42 * (env.height - 1) + 0.2
        figure = Figure(figsize=(width, height))
        axis = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        khazad_dum_figure.draw_map(axis, env, noise)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI * _FINE, facecolor="white")
        figure.set_dpi(_DPI * _FINE)
        self.image = Image.open(buffer).convert("RGB")
        self._to_pixels, self._height = axis.transData, self.image.height

    def places(self, positions: np.ndarray) -> list[tuple[float, float]]:
        """Pixels of positions (T, 2) in cells."""
        x, y = np.asarray(self._to_pixels.transform(positions)).T
        return list(zip(x.tolist(), (self._height - y).tolist(), strict=True))


def _picture(base: _Map, env: KhazadDum, one: Played, k: int, t: int) -> Image.Image:
    """The walk up to step t of episode k, faintly those before, and words above."""
    image = base.image.copy()
    draw, fine = ImageDraw.Draw(image), _FINE
    for earlier in range(k):
        draw.line(base.places(one.poses[earlier, :, 0]), fill=_OLD, width=2 * fine, joint="curve")
    walk = base.places(one.poses[k, : t + 1, 0])
    if len(walk) > 1:
        draw.line(walk, fill=_WALK, width=4 * fine, joint="curve")
    x, y = walk[-1]
    r = 7 * fine
    draw.ellipse((x - r, y - r, x + r, y + r), fill=_WALK, outline="white", width=2 * fine)
    small = image.resize((image.width // fine, image.height // fine), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (small.width, small.height + _HEAD), "white")
    whole.paste(small, (0, _HEAD))
    words, font = ImageDraw.Draw(whole), ImageFont.load_default(size=15)
    words.text((8, 6), f"{one.label}, noise {one.task[0]:.3g}", font=font, fill=_INK)
    total = one.reward[k, :t, 0].sum()
    text = f"episode {k + 1} of {len(one.reward)}, step {t}, return {total:.3f}"
    if t == one.reward.shape[1]:
        text += f": {ROUTES[int(env.routes(one.poses[k, :, 0]))]}"
    words.text((8, 30), text, font=font, fill=_INK)
    return whole


def film(env: KhazadDum, played: Sequence[Played], path: Path) -> None:
    """A film of one walker per policy, side by side, through all episodes."""
    base = _Map(env, float(played[0].task[0]))
    episodes, steps = played[0].reward.shape[:2]
    images = []
    for k in range(episodes):
        for t in [*range(steps + 1), *[steps] * _HOLD]:
            pictures = [_picture(base, env, one, k, t) for one in played]
            images.append(beside(pictures, gap=16))
    save_gif(images, path, _MILLISECONDS)
