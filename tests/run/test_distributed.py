"""Two processes on the loopback are one run, with the metrics of one process, also stopped and resumed."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from roml_jax import config
from roml_jax.run import distributed

HERE = Path(__file__).parents[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, cache, devices):
    settings = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "PYTHONPATH": str(HERE.parent),
    }
    return subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cache,
    )


def two(command, cache, *differing):
    """Exit codes and outputs of two processes with two devices each."""
    who = ["--distributed.coordinator", f"127.0.0.1:{free_port()}", "--distributed.processes", "2"]
    processes = [
        start(
            [*command, *who, "--distributed.process-id", str(i), *(differing[i] if differing else ())],
            cache,
            2,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of the run in one process, and in two, stopped and resumed; and what the two printed."""
    folder = tmp_path_factory.mktemp("distributed")
    script = str(HERE / "distributed_run.py")
    alone = start([script, "whole", str(folder / "one")], folder, 1)
    _, error = alone.communicate(timeout=900)
    assert alone.returncode == 0, error[-3000:]
    stopped = two([script, "stop", str(folder / "two")], folder)
    for code, _, error in stopped:
        assert code == 128 + signal.SIGTERM, error[-3000:]
    assert "resume with: python -m roml_jax.train --resume" in stopped[0][2]
    assert [path.name for path in (folder / "two" / "checkpoint").iterdir()] == ["2"]
    resumed = two([script, "resume", str(folder / "two")], folder)
    for code, _, error in resumed:
        assert code == 0, error[-3000:]
    return folder / "one", folder / "two", [said for _, said, _ in resumed]


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_that_stop_and_go_on_write_the_metrics_of_one(runs):
    one, two, _ = runs
    expected, written = rows(one), rows(two)
    assert len(written) == len(expected) == 2 * (5 + 5 + 1)  # evaluations, chunks, test; two seeds
    for row, wanted in zip(written, expected, strict=True):
        assert row.keys() == wanted.keys()
        for name in row.keys() - {"seconds", "train/frames_per_second"}:
            assert row[name] == pytest.approx(wanted[name], rel=1e-9, abs=1e-9), name


@pytest.mark.slow
def test_process_0_speaks_for_both(runs):
    first, second = " ".join(runs[2][0].split()), runs[2][1]  # its lines wrap
    assert "on 4 devices (2 seed x 2 task)" in first
    assert "resumes from iteration 2" in first
    assert "saved in" in first
    assert all(line.startswith("[Gloo]") or "connected peer" in line for line in second.splitlines()), second


WRONG = ["-m", "roml_jax.train", "--env", "probe_memory", "--num-tasks", "8", "--no-compile-cache", "--out"]


def test_different_options_are_refused_in_every_process(tmp_path):
    for code, said, error in two([*WRONG, "new"], tmp_path, ["--alpha", "0.1"], ["--alpha", "0.2"]):
        assert code == 2
        assert "iterations" not in said
        assert "error: the processes have different options" in error
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_what_is_wrong_is_said_in_every_process(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("")
    for code, said, error in two([*WRONG, "full"], tmp_path):
        assert code == 2
        assert "iterations" not in said
        assert "error: --out full exists and is not empty" in error


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"processes": 2, "process_id": 0}, "need distributed.coordinator, .processes and .process-id"),
        ({"coordinator": "here", "processes": 2, "process_id": 0}, "must be HOST:PORT, got 'here'"),
        ({"coordinator": "here:1", "processes": 2, "process_id": 2}, "below distributed.processes=2, got 2"),
        ({"auto": True, "process_id": 2}, "do not set them"),
        ({"auto": True}, "could not connect"),
    ],
)
def test_who_is_who_must_be_clear(options, expected):
    with pytest.raises(config.ConfigError) as caught:
        distributed.initialize(config.DistributedConfig(**options))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
