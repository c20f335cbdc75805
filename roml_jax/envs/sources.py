"""Compiled models, from what a user gives."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path

import mujoco

from roml_jax.envs.physics import compiled_flags


def load(source: str | Path | mujoco.MjSpec | mujoco.MjModel, edited: Collection[str] = ()) -> mujoco.MjModel:
    """A compiled model of one's own, from a file's path, MJCF text, a spec or a model, which is copied.

    Args:
        source: where the model comes from.
        edited: fields that tasks edit; a source that is compiled here is compiled with room for them.

    Raises:
        ValueError: if MuJoCo cannot read it; one line.
    """
    if isinstance(source, mujoco.MjModel):
        return copy.copy(source)
    try:
        if isinstance(source, mujoco.MjSpec):
            return compiled_flags.compile_for(source, edited)
        text = str(source)
        is_text = text.lstrip().startswith("<")
        read = mujoco.MjSpec.from_string if is_text else mujoco.MjSpec.from_file
        return compiled_flags.compile_for(read(text), edited)
    except ValueError as error:
        raise ValueError(f"MuJoCo cannot read the model: {' '.join(str(error).split())}") from None
