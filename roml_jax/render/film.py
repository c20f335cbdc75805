"""Films of robots, rendered by MuJoCo with offscreen OpenGL."""

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

from roml_jax.envs import pictures
from roml_jax.envs.base import Rendered
from roml_jax.errors import ConfigError
from roml_jax.evaluate.intervals import decimals
from roml_jax.render import scene
from roml_jax.render.robots import Robot
from roml_jax.render.rollouts import Played, labelled

_GIF_RATE = 12.5  # maximum frames per second of a GIF; each frame takes 20 kB


def check(suffix: str) -> None:
    """Rejects a film that cannot be made on this machine.

    Raises:
        ConfigError: without offscreen OpenGL, or without an encoder for .mp4; one line.
    """
    lacking = [name for name in ("imageio", "imageio_ffmpeg") if importlib.util.find_spec(name) is None]
    if suffix == ".mp4" and lacking:
        raise ConfigError(
            f".mp4 needs {' and '.join(lacking)}: pip install imageio imageio-ffmpeg, or use .gif"
        )
    missing = _missing_opengl()
    if missing:
        raise ConfigError(f"no offscreen OpenGL ({missing}): set MUJOCO_GL=egl or osmesa, or use .html")


def _missing_opengl() -> str:
    """The reason why MuJoCo cannot render, in one line; "" if it can."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        try:
            mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
        except Exception as error:  # the error type depends on the OpenGL backend
            what = f"{type(error).__name__}: {error}"
        else:
            what = ""
        gc.collect()  # deletes a partly built renderer now, while its warnings are suppressed
    return " ".join(what.split())[:120]


def _images(robot: Robot, played: Played) -> Iterator[Image.Image]:
    """Yields an image for each state of each episode."""
    model = robot.edited(played.task)
    episodes, steps = played.reward.shape[:2]
    poses = played.poses[:, :, 0].reshape(episodes * (steps + 1), -1)
    distance = 4.0 * scene.radius(model, poses)
    for i, pixels in enumerate(pictures.images(model, poses, distance)):
        yield _captioned(played, pixels, *divmod(i, steps + 1))


def _captioned(played: Played, pixels: np.ndarray, episode: int, step: int) -> Image.Image:
    """An image with the policy's label, the episode and its return so far."""
    image, font = Image.fromarray(pixels), ImageFont.load_default(size=14)
    total, digits = played.reward[episode, :step, 0].sum(), decimals(played.returns)
    text = f"{played.label}\nepisode {episode}, return {total:.{digits}f}"
    ImageDraw.Draw(image).text((10, 8), text, font=font, fill="white", stroke_width=2, stroke_fill="black")
    return image


def of_robot(robot: Robot, played: Sequence[Played], path: Path, suffix: str) -> None:
    """Writes a film of one or several policies and tasks, side by side, through all episodes.

    Args:
        robot: the environment's robot.
        played: episodes of each policy on each task.
        path: the file.
        suffix: ".gif" or ".mp4".
    """
    films = [_images(robot, one) for one in labelled(robot.names, played)]
    rate = 1.0 / robot.dt
    rows = (beside(images) for images in zip(*films, strict=True))
    if suffix == ".gif":
        step = max(1, round(rate / _GIF_RATE))
        sampled = [image for i, image in enumerate(rows) if i % step == 0]
        save_gif(sampled, path, 1000 * step / rate)
        return
    import imageio.v2 as imageio

    with imageio.get_writer(path, format="FFMPEG", fps=rate) as writer:
        for image in rows:
            writer.append_data(np.asarray(image))  # ty: ignore[missing-attribute]  # typed as its base class


def of_env(env: Rendered, played: Sequence[Played], path: Path) -> None:
    """Writes a GIF of one or several policies, side by side, with images of the environment's ``render``."""
    films = []
    for one in labelled(env.family.names, played):
        steps = one.reward.shape[1]
        pixels = (image for states in one.states for image in env.render(one.task, states))
        films.append(_captioned(one, image, *divmod(i, steps + 1)) for i, image in enumerate(pixels))
    save_gif([beside(images) for images in zip(*films, strict=True)], path, 1000 / _GIF_RATE)


def beside(images: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Puts images of the same height side by side, ``gap`` white pixels apart."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    whole, left = Image.new("RGB", (width, images[0].height), "white"), 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + gap
    return whole


def save_gif(images: Sequence[Image.Image], path: Path, milliseconds: float) -> None:
    """Writes a looping GIF, with ``milliseconds`` per image."""
    small = [image.quantize(128, dither=Image.Dither.NONE) for image in images]
    small[0].save(
        path, format="GIF", save_all=True, append_images=small[1:], duration=round(milliseconds), loop=0
    )
