"""A disk that fills up during a run costs no more than the checkpoints that did not fit."""

import contextlib
import gc
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from roml_jax import train
from roml_jax.run import checkpoint, progress, saved

SMALL = """
    --env probe_memory --agent multitask --num-tasks 8 --chunk 2 --sampler.batch-size 16
    --eval.interval 0 --eval.test-tasks 32 --ppo.layers 16 --checkpoint-minutes 1e-9
""".split()  # noqa: SIM905


@pytest.fixture
def disk(tmp_path):
    """A disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path):
    """Takes all that is left of a disk."""
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(path).f_bavail == 0


def full_between(monkeypatch, disk, first, last=None):
    """Fills the disk after so many chunks, when a checkpoint is there, and makes room after so many more.

    It is filled again after every chunk between: a write that fails gives back what it had taken.
    """
    advance, chunks, saved_in = progress.ConsoleProgress.advance, [], disk / "run" / "checkpoint"

    def meanwhile(self, frames, *more):
        advance(self, frames, *more)
        chunks.append(frames)
        if first <= len(chunks) < (last or math.inf):
            while checkpoint.latest(saved_in) is None:
                time.sleep(0.01)
            fill(disk / "filler")
        if len(chunks) == last:
            assert checkpoint.latest(saved_in) is not None
            (disk / "filler").unlink()

    monkeypatch.setattr(progress.ConsoleProgress, "advance", meanwhile)


@pytest.mark.slow
def test_a_full_disk_is_told_and_survived(disk, monkeypatch, capfd):
    full_between(monkeypatch, disk, 3, 6)
    assert train.main([*SMALL, "--frames", "2048", "--out", str(disk / "run")]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "was not written: no space left on the disk; the last good one is of iteration" in said
    rows = [json.loads(line) for line in (disk / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "train/return_mean" in row] == [1, *range(2, 17, 2)]
    assert [path.name for path in (disk / "run" / "checkpoint").iterdir()] == ["16"]
    assert saved.load(disk / "run").iterations == [16]


def test_a_run_whose_end_could_not_be_saved_says_so_and_goes_on(disk, monkeypatch, capfd, caplog):
    full_between(monkeypatch, disk, 3)
    ignored = []
    gc.collect()  # what other tests left would be heard here
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    assert train.main([*SMALL, "--frames", "1024", "--out", str(disk / "run")]) == 1
    said = capfd.readouterr().err
    assert said.startswith("error: the last checkpoint was not written (see above); fix the cause and resume")
    assert said.count("\n") == 1
    gc.collect()  # now, at the latest, what failed would tell of itself
    assert "orbax" not in caplog.text
    assert ignored == []
    monkeypatch.undo()
    (disk / "filler").unlink()
    assert train.main(["--resume", str(disk / "run")]) == 0
    assert saved.load(disk / "run").iterations == [8]


class Straggler(threading.Thread):
    """One of orbax's threads, which fails when the checkpoint has been given up already."""

    __module__ = "orbax.straggler"

    def run(self):
        """Tells of it late."""
        time.sleep(0.5)
        logging.getLogger("absl").error("orbax: no space left on the device")


def test_a_write_that_fails_late_is_not_heard_either(tmp_path, monkeypatch, caplog):
    def gives_up(self):
        Straggler().start()
        raise OSError(28, "No space left on device")

    said = []
    writer = checkpoint.Checkpoints(tmp_path, said.append)
    monkeypatch.setattr(ocp.AsyncCheckpointer, "wait_until_finished", gives_up)
    writer.save(1, {"state": {"x": jnp.zeros(2)}}, {})
    writer.wait()
    monkeypatch.undo()
    writer.close()
    time.sleep(1.0)
    assert said == [
        "the checkpoint of iteration 1 was not written: no space left on the disk; no earlier one exists"
    ]
    assert "orbax" not in caplog.text
