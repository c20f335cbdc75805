"""Imports what imports MJX, without the two lines it prints where the optional Warp is missing."""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    from brax.training.acme import running_statistics
    from mujoco import mjx

__all__ = ["mjx", "running_statistics"]
