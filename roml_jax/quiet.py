"""Imports MJX and a Brax module that imports it, with the messages about a missing Warp suppressed."""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    from brax.training.acme import running_statistics
    from mujoco import mjx


def quiet_warp() -> None:
    """Turns off the line that Warp prints for every kernel it loads, unless Warp was imported before."""
    import warp

    warp.config.quiet = True


__all__ = ["mjx", "quiet_warp", "running_statistics"]
