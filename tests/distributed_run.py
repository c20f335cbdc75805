"""Run by test_distributed in each process: the command line, stopped by a signal where it is told so."""

import os
import signal
import sys

from roml_jax import train
from roml_jax.run import progress

OPTIONS = """
    --env probe_memory --num-tasks 8 --frames 640 --chunk 1 --learning-starts 0 --sampler.batch-size 16
    --eval.interval 3 --eval.tasks 8 --eval.test-tasks 24 --seeds 3 4 --ppo.layers 16
    --vae.buffer-trajectories 32 --vae.batch-trajectories 4
""".split()  # noqa: SIM905


def stop_in_the_second_chunk():
    """Sends this process a SIGTERM."""
    advance, calls = progress.ConsoleProgress.advance, []

    def and_send(self, frames, *more):
        advance(self, frames, *more)
        calls.append(frames)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    progress.ConsoleProgress.advance = and_send


def main(what, folder, *more):
    if what == "stop" and "1" in more:  # one of the two: they agree to stop
        stop_in_the_second_chunk()
    where = ["--resume", folder] if what == "resume" else [*OPTIONS, "--out", folder]
    return train.main([*where, *more])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
