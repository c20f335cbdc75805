"""A tiny run for the tests of what reads runs: trained once per test session, and copied.

Its agent is the smallest: most of what reads runs does not care which learner wrote them.
"""

import fcntl
import hashlib
import json
import re
import shutil

from roml_jax import train

_BOTH = """
    --env probe_memory --num-tasks 8 --frames 1920 --chunk 4
    --eval.interval 6 --eval.tasks 16 --eval.test-tasks 32
""".split()  # noqa: SIM905
TINY = [*_BOTH, "--agent", "multitask"]
VARIBAD = """
    --agent varibad --learning-starts 0 --vae.buffer-trajectories 32 --vae.batch-trajectories 4
""".split()  # noqa: SIM905
TINY_VARIBAD = [*_BOTH, *VARIBAD]


def _shared(folder):
    """The folder that all workers of this session share; pytest's temporary folders lie in it."""
    return next(parent for parent in folder.absolute().parents if re.fullmatch(r"pytest-\d+", parent.name))


def trained(folder, *options, sampler="cem", tiny=TINY):
    """A tiny run in a folder of its own; the first test that asks for its options trains it."""
    own = ("--sampler.batch-size", "16") if sampler == "cem" else ()
    arguments = [*tiny, "--sampler", sampler, *own, *options]
    name = hashlib.sha256(" ".join(arguments).encode()).hexdigest()[:16]
    original = _shared(folder) / f"small-{name}"
    with original.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (original / "checkpoint" / "15").is_dir():
            assert train.main([*arguments, "--out", str(original)]) == 0
    shutil.copytree(original, folder)
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without(folder, prefix):
    """Removes rows with a prefix from a run's metrics, as if it had been stopped or never evaluated."""
    left = [row for row in rows(folder) if not any(name.startswith(prefix) for name in row)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in left))
