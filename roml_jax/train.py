"""Command line of training, ``python -m roml_jax.train``, and the function ``roml_jax.train(env, ...)``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from roml_jax.garbage import uncollected

with uncollected():
    from roml_jax import api, console, users_code
    from roml_jax import config as configs
    from roml_jax.errors import ConfigError
    from roml_jax.run import compile_cache, devices, distributed, interrupt, loop


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains.

    Returns:
        The exit code: 0 on success, 1 for a failed run, 2 for wrong input, 128 + n after signal n.
    """
    with distributed.not_waiting():
        return _main(sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    try:
        with users_code.in_one_line():
            config = configs.parse(argv)
            compile_cache.prepare(cache=config.compile_cache)
            devices.for_run(config)
            distributed.initialize(config.distributed)
            command = shlex.join(["python", "-m", "roml_jax.train", *argv])
            loop.run(config, console.make(quiet=not distributed.is_main(), highlight=True), command=command)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except loop.StoppedError as stop:
        if distributed.is_main():
            print(stop, file=sys.stderr)
        return 128 + stop.signal
    except loop.RunError as error:
        if distributed.is_main():
            print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot write the run's files: {error}", file=sys.stderr)
        distributed.abandon(1)
        return 1
    except interrupt.StoppedEarly as stop:
        print(f"stopped by {stop.signal.name} before the first iteration; nothing was saved", file=sys.stderr)
        distributed.abandon(128 + stop.signal)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print(
            "stopped immediately; --resume RUN continues from the last checkpoint, if there is one",
            file=sys.stderr,
        )
        distributed.abandon(130)
        return 130
    return 0


class _CallableModule(ModuleType):
    """Makes this module callable, because ``roml_jax.train`` is both a command's module and a function."""

    def __call__(self, *args: Any, **options: Any) -> api.Run:
        """Calls ``api.train`` with the same arguments."""
        return api.train(*args, **options)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(main())
