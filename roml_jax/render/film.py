"""Films of robots with MuJoCo's own renderer, where an offscreen OpenGL is there."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roml_jax.envs import TaskEnv
from roml_jax.errors import ConfigError
from roml_jax.evaluate.intervals import decimals
from roml_jax.render import scene
from roml_jax.render.rollouts import Played

_SIZE = (480, 360)  # of one robot's view, in pixels
_GIF_RATE = 12.5  # frames per second at most: every picture costs 20 kB


def check(suffix: str) -> None:
    """Refuses a film that cannot be made here.

    Raises:
        ConfigError: without an offscreen OpenGL, or without an encoder for .mp4; one line.
    """
    if suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            ".mp4 needs the package imageio-ffmpeg: pip install imageio imageio-ffmpeg, or take .gif"
        )
    missing = _missing_opengl()
    if missing:
        raise ConfigError(f"no offscreen OpenGL here ({missing}); set MUJOCO_GL=egl or osmesa, or take .html")


def _missing_opengl() -> str:
    """Why MuJoCo cannot render, in one line; empty where it can."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        try:
            mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
        except Exception as error:  # each OpenGL has errors of its own
            what = f"{type(error).__name__}: {error}"
        else:
            what = ""
        gc.collect()  # a renderer that was half made complains when it goes
    return " ".join(what.split())[:120]


def _images(env: TaskEnv, played: Played) -> Iterator[Image.Image]:
    """A picture for each state of each episode."""
    model = scene.task_model(env, played.task)
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.azimuth, camera.elevation, camera.distance = (
        110.0,
        -16.0,
        4.0 * scene.radius(model, played.poses[0, 0, 0]),
    )
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
    """Writes an animation that repeats."""
    small = [image.quantize(128, dither=Image.Dither.NONE) for image in images]
    small[0].save(
        path, format="GIF", save_all=True, append_images=small[1:], duration=round(milliseconds), loop=0
    )
