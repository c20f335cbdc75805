"""The command line of training: ``python -m roml_jax.train``; in code ``roml_jax.train(env, ...)``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from rich.console import Console

from roml_jax import api
from roml_jax import config as configs
from roml_jax.errors import ConfigError
from roml_jax.run import compile_cache, distributed, loop


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; returns the exit code."""
    with distributed.not_waiting():
        return _main(sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    try:
        config = configs.parse(argv)
        if config.compile_cache:
            compile_cache.enable()
        distributed.initialize(config.distributed)
        loop.run(config, Console(quiet=not distributed.is_main()))
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
    except KeyboardInterrupt:
        print("stopped at once; --resume RUN continues from the last checkpoint", file=sys.stderr)
        distributed.abandon(130)
        return 130
    return 0


class _CallableModule(ModuleType):
    """The command's module is also the function ``roml_jax.train``: one name cannot be both otherwise."""

    def __call__(self, *args: Any, **options: Any) -> api.Run:
        """As ``api.train``."""
        return api.train(*args, **options)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(main())
