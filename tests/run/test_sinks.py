"""Rows of metrics reach every place that they should, also when the disk is full for a while."""

import errno
import json
import os
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from roml_jax import config
from roml_jax.config import seed_plan
from roml_jax.run import sinks

ROW = {"seed": 3, "iteration": 4, "frames": 512, "seconds": 1.5, "train/return": 2.0, "vae/loss": 0.5}


@pytest.fixture
def said():
    return []


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_appended_and_are_json(tmp_path, said):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kept": 1}\n')
    sink = sinks.JsonLines(path, said.append)
    sink.write(0, ROW | {"eval/cvar": float("nan")})
    assert lines(path) == [{"kept": 1}, ROW | {"eval/cvar": "nan"}]  # before it is closed
    sink.close()
    assert said == []


def test_rows_wait_for_a_full_disk_and_none_is_lost(tmp_path, said, monkeypatch):
    path, write, free = tmp_path / "metrics.jsonl", os.write, [30]

    def until_full(file, data):
        if not free[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, data[: free[0]])  # a full disk takes a part of what it is given
        free[0] -= written
        return written

    monkeypatch.setattr(os, "write", until_full)
    sink = sinks.JsonLines(path, said.append)
    for i in range(3):
        sink.write(0, ROW | {"iteration": i})
    assert said == ["metrics cannot be written and are kept in memory: No space left on device"]
    free[0] = 10**6
    sink.write(0, ROW | {"iteration": 3})
    assert [row["iteration"] for row in lines(path)] == [0, 1, 2, 3]
    free[0] = 0
    sink.write(0, ROW)
    sink.close()
    assert said[1:] == [said[0], "1 row(s) of metrics could not be written"]


def scalars(folder):
    """What an event file says: records of a length, its checksum, an event and its checksum."""
    from tensorboardX.proto import event_pb2

    (path,) = folder.iterdir()
    data, found = path.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    return found


def test_tensorboard_has_the_same_names(tmp_path):
    two = seed_plan.plan([3, 4], ["ppo.lr=1e-3"])
    sink = sinks.TensorBoard(tmp_path, two, 0)
    sink.write(0, ROW)
    sink.write(1, ROW | {"seed": 4, "frames": 1024})
    sink.close()
    folders = sorted((tmp_path / "tensorboard").iterdir())
    assert [folder.name for folder in folders] == ["seed=3_ppo.lr=0.001", "seed=4_ppo.lr=0.001"]
    assert scalars(folders[0]) == {("train/return", 512): 2.0, ("vae/loss", 512): 0.5}
    assert scalars(folders[1]) == {("train/return", 1024): 2.0, ("vae/loss", 1024): 0.5}


def test_a_run_goes_on_without_a_sink_that_fails(tmp_path):
    """As on a full disk, where TensorBoard's thread ends, and what is added would be waited for forever."""
    said, plan = [], seed_plan.plan([3], [])
    sink = sinks.make(["tensorboard"], tmp_path, plan, {}, 0, said.append)
    board = sink._sinks[1]
    worker = board._writers[0].file_writer.event_writer._worker
    worker.stop()
    worker.join()
    for i in range(50):
        sink.write(0, ROW | {"iteration": i})
    sink.close()
    assert said == [
        "TensorBoard gets no more metrics, since it failed (its writer has ended, as after a full disk); "
        "metrics.jsonl has them all"
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 50


def test_weights_and_biases_gets_a_run_for_each(tmp_path, monkeypatch):
    """With a module in its place: the service itself is not asked."""
    calls = []

    def init(**options):
        place = len([call for call in calls if call[0] == "init"])
        root = Path(options["dir"])  # where the service's own folder is made, with or without the dot
        assert not any((root / name).exists() for name in ("wandb", ".wandb"))
        calls.append(("init", options))
        return SimpleNamespace(
            log=lambda row, step: calls.append((place, row, step)), finish=lambda: calls.append((place,))
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    folder, plan = tmp_path / "run", seed_plan.plan([3, 4], [])
    folder.mkdir()
    sink = sinks.WeightsAndBiases(folder, plan, {"env": "cheetah_mass"})
    sink.write(1, ROW)
    sink.close()
    first, second = (call[1] for call in calls[:2])
    assert first["id"] != second["id"]
    assert first["group"] == second["group"] == "run"
    assert second["config"] == {"env": "cheetah_mass", "seed": 4}
    assert calls[2:] == [(1, {"train/return": 2.0, "vae/loss": 0.5, "frames": 512}, 4), (0,), (1,)]
    # a resumed run is the same, under any name of its folder; another folder of this name is another run
    (tmp_path / "other" / "run").mkdir(parents=True)
    monkeypatch.chdir(folder)
    sinks.WeightsAndBiases(Path(), plan, {})
    sinks.WeightsAndBiases(tmp_path / "other" / "run", plan, {})
    again, _, other, _ = (call[1] for call in calls if call[0] == "init" and not call[1]["config"].get("env"))
    assert (again["id"], again["name"]) == (first["id"], first["name"])
    assert (other["id"], other["name"]) != (first["id"], first["name"])
    assert other["name"] == first["name"]


def test_weights_and_biases_without_a_login_is_one_line(tmp_path, monkeypatch):
    class Error(Exception):
        pass

    def init(**_):
        raise Error("No API key configured.\nUse `wandb login` to log in.")

    module = SimpleNamespace(init=init, errors=SimpleNamespace(Error=Error))
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(config.ConfigError, match=r"Use `wandb login` to log in. .WANDB_MODE=offline") as said:
        sinks.WeightsAndBiases(tmp_path, seed_plan.plan([3], []), {})
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wandb", "--log wandb needs the package wandb: pip install roml-jax[wandb]"),
        ("tb", "one of tensorboard, wandb"),
    ],
)
def test_what_is_not_there_is_said_before_anything_else(name, expected, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(config.ConfigError, match=expected.replace("[", r"\[")):
        sinks.check([name])
