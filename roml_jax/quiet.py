"""Imports what imports MJX, without the two lines it prints where the optional Warp is missing."""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    from brax.training.acme import running_statistics
    from mujoco import mjx


def quiet_warp() -> None:
    """Stops Warp from printing a line for every kernel that it loads, if nobody imported it before."""
    import warp

    warp.config.quiet = True


__all__ = ["mjx", "quiet_warp", "running_statistics"]
