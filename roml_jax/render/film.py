"""Films of robots with MuJoCo's own renderer, where an offscreen OpenGL is there."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roml_jax.config import ConfigError
from roml_jax.envs import TaskEnv
from roml_jax.intervals import decimals
from roml_jax.render.rollouts import Played
from roml_jax.render.scene import task_model

_SIZE = (480, 360)  # of one robot's view, in pixels
_GIF_RATE = 25.0  # frames per second at most; viewers slow down faster ones


def check(suffix: str) -> None:
    """Refuses a film that cannot be made here.

    Raises:
        ConfigError: without an offscreen OpenGL, or without an encoder for .mp4; one line.
    """
    if suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            ".mp4 needs the package imageio-ffmpeg: pip install imageio imageio-ffmpeg, or take .gif"
        )
    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
    except Exception as error:  # each OpenGL has errors of its own
        what = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ConfigError(
            f"no offscreen OpenGL here ({what}); set MUJOCO_GL=egl or osmesa, or take .html"
        ) from None


def _images(env: TaskEnv, played: Played) -> Iterator[Image.Image]:
    """A picture for each state of each episode."""
    model = task_model(env, played.task)
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.azimuth, camera.elevation, camera.distance = 100.0, -15.0, 1.6 * model.stat.extent
    digits, font = decimals(played.returns), ImageFont.load_default(size=14)
    width, height = _SIZE
    with mujoco.Renderer(model, height, width) as renderer:
        for k in range(len(played.reward)):
            for t, qpos in enumerate(played.poses[k, :, 0]):
                data.qpos[:] = qpos
                mujoco.mj_forward(model, data)
                camera.lookat[:] = data.subtree_com[min(1, model.nbody - 1)]
                renderer.update_scene(data, camera)
                image = Image.fromarray(renderer.render())
                total = played.reward[k, :t, 0].sum()
                text = f"{played.label}\nepisode {k + 1}, return {total:.{digits}f}"
                ImageDraw.Draw(image).text(
                    (10, 8), text, font=font, fill="white", stroke_width=2, stroke_fill="black"
                )
                yield image


def robots(env: TaskEnv, played: Sequence[Played], path: Path, suffix: str) -> None:
    """Writes the episodes of one or several policies side by side."""
    films = [_images(env, one) for one in played]
    rate = 1.0 / env.physics.dt
    rows = (beside(images) for images in zip(*films, strict=True))
    if suffix == ".gif":
        step = max(1, round(rate / _GIF_RATE))
        shown = [image for i, image in enumerate(rows) if i % step == 0]
        save_gif(shown, path, 1000 * step / rate)
        return
    import imageio.v2 as imageio

    with imageio.get_writer(path, format="FFMPEG", fps=rate) as writer:
        for image in rows:
            writer.append_data(np.asarray(image))


def beside(images: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Pictures of one height in a row, so many white pixels apart."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    whole, left = Image.new("RGB", (width, images[0].height), "white"), 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + gap
    return whole


def save_gif(images: Sequence[Image.Image], path: Path, milliseconds: float) -> None:
    """Writes an animation that repeats; all pictures have the colours of the first and the last."""
    pair = beside([images[0], images[-1]]).quantize(128, dither=Image.Dither.NONE)
    small = [image.quantize(palette=pair, dither=Image.Dither.NONE) for image in images]
    small[0].save(
        path, format="GIF", save_all=True, append_images=small[1:], duration=round(milliseconds), loop=0
    )
