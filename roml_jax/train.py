"""The command line: ``python -m roml_jax.train --env khazad_dum --sampler cem``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from roml_jax import config as config_lib
from roml_jax import distributed, runner


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; returns the exit code."""
    with distributed.not_waiting():
        return _main(sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    try:
        config = config_lib.parse(argv)
        if config.compile_cache:
            runner.enable_compile_cache()
        distributed.initialize(config.distributed)
        runner.run(config, Console(quiet=not distributed.is_main()))
    except ValueError as error:
        if not isinstance(error, config_lib.ConfigError | config_lib.UnknownNameError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except runner.StoppedError as stop:
        if distributed.is_main():
            print(stop, file=sys.stderr)
        return 128 + stop.signal
    except runner.RunError as error:
        if distributed.is_main():
            print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot write the run's files: {error}", file=sys.stderr)
        distributed.abandon(1)
        return 1
    except KeyboardInterrupt:
        print("stopped at once; what was saved goes on with --resume RUN", file=sys.stderr)
        distributed.abandon(130)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
