"""The whole state of a run on disk, with orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(tree: Any) -> Any:
    """Random keys as the numbers they hold."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def save(folder: Path, state: Any) -> None:
    """Writes a pytree of arrays; the folder must not exist, and appears whole or not at all.

    Raises:
        ValueError: from orbax, if the folder exists.
        OSError: if it cannot be written.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), _plain(state))


def restore(folder: Path, like: Any) -> Any:
    """Reads a pytree back into the structure and shapes of ``like``; keys are of JAX's default kind.

    It may be read on other devices than it was saved from. With several processes all of them call
    this, as ``save``, and the shapes say where arrays go.

    Args:
        folder: what ``save`` wrote.
        like: a pytree of arrays or of their shapes (``jax.eval_shape`` of the state's init), with
            shardings where arrays go elsewhere than on this process's first device.
    """
    here = SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(
        lambda x, wanted: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=getattr(wanted, "sharding", None) or here
        ),
        jax.eval_shape(_plain, like),
        like,
    )
    with ocp.StandardCheckpointer() as checkpointer:
        plain = checkpointer.restore(folder.absolute(), shapes)

    def rebuild(saved: Any, wanted: Any) -> Any:
        return jax.random.wrap_key_data(saved) if _is_key(wanted) else saved

    return jax.tree.map(rebuild, plain, like)
