"""Tiny runs for the tests of what reads runs."""

import json

from roml_jax import train

TINY = """
    --env probe_memory --num-tasks 8 --frames 1920 --chunk 4 --learning-starts 0
    --eval.interval 6 --eval.tasks 16 --eval.test-tasks 32
    --vae.buffer-trajectories 32 --vae.batch-trajectories 4
""".split()  # noqa: SIM905


def trained(folder, *options, sampler="cem"):
    """Trains a tiny run of its own folder."""
    own = ("--sampler.batch-size", "16") if sampler == "cem" else ()
    assert train.main([*TINY, "--sampler", sampler, *own, *options, "--out", str(folder)]) == 0
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without(folder, prefix):
    """Takes rows that begin so out of a run's metrics, as where it was stopped or never evaluated."""
    left = [row for row in rows(folder) if not any(name.startswith(prefix) for name in row)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in left))
