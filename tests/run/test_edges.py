"""Runs that end badly: signals, damaged files, modules that are elsewhere. One line each."""

import gc
import json
import os
import shutil
import signal
import sys
import time

import jax.numpy as jnp
import pytest

from roml_jax import config, train, users_code
from roml_jax.run import checkpoint, folder, interrupt, loop

RUN = ["--env", "probe_observation", "--num-tasks", "4", "--frames", "1e4", "--out"]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_asks_the_loop_to_stop(kind):
    with interrupt.Interrupts() as interrupts:
        signal.raise_signal(kind)
        assert interrupts.asked is kind


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        (signal.SIGINT, 130, "stopped immediately"),
        (signal.SIGTERM, 143, "stopped by SIGTERM before the first iteration; nothing was saved"),
        (signal.SIGUSR1, 138, "stopped by SIGUSR1 before the first iteration; nothing was saved"),
    ],
)
def test_a_signal_while_compiling_leaves_nothing_behind(
    kind, code, said, tmp_path, monkeypatch, capsys, request
):
    # a shell that starts the tests in the background has them ignore SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def compiling(*args):
        assert (tmp_path / "run" / "config.yaml").exists()
        signal.raise_signal(kind)  # in this thread, so that it is handled here
        raise AssertionError("not stopped")

    monkeypatch.setattr(loop, "compiled", compiling)
    assert train.main([*RUN, str(tmp_path / "run")]) == code
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(loop, "compiled", lambda *args: (_ for _ in ()).throw(loop.RunError("again")))
    assert train.main([*RUN, str(tmp_path / "run")]) == 1  # the same command is not blocked
    assert capsys.readouterr().err == "error: again\n"


def test_a_folder_with_results_or_other_files_is_never_deleted(tmp_path):
    for name in ("metrics.jsonl", "notes.txt", "checkpoint/10/state"):
        run = tmp_path / name.split("/")[0]
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text("{}\n")
        with pytest.raises(KeyboardInterrupt), folder.removed_if_unused(run):
            raise KeyboardInterrupt
        assert (run / name).exists()


def test_a_negated_switch_with_a_value_is_refused():
    with pytest.raises(config.ConfigError, match=r"^--no-compile-cache takes no value, got 'true': write "):
        config.parse(["--no-compile-cache=true"])
    assert config.parse(["--no-compile-cache"]).compile_cache is False


def test_metrics_that_end_before_their_checkpoint_are_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"seed": 0, "iteration": i, "frames": i, "train/return": 1.0}) for i in (1, 11, 21)]
    path.write_text("\n".join(rows) + "\n")
    assert folder.cut_metrics(path, 21) is None
    assert len(folder.read_metrics(path)) == 3
    said = folder.cut_metrics(path, 40)
    ends = f"{path} ends at iteration 21, before the checkpoint of iteration 40: "
    assert said == ends + "the metrics between them are lost"
    path.write_text(f"{rows[0]}\n{rows[1][:30]}\n{rows[2]}\n")
    assert "ends at iteration 1 (its line 2 is damaged), before the checkpoint of iteration 21" in (
        folder.cut_metrics(path, 21)
    )
    path.write_bytes(rows[0].encode() + b"\n\xff\xfe\x00")
    assert len(folder.read_metrics(path)) == 1
    path.unlink()
    assert "is missing: the metrics before iteration 21 are lost" in folder.cut_metrics(path, 21)
    assert folder.cut_metrics(path, 0) is None


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of one array."""
    path = tmp_path_factory.mktemp("checkpoints")
    checkpoints = checkpoint.Checkpoints(path, print)
    checkpoints.save(3, {"last": {"x": jnp.arange(64.0)}}, {"version": "1", "iteration": 3})
    checkpoints.wait()
    checkpoints.close()
    return path / "3"


def told(path, like):
    """The message of the error that reading a checkpoint raises, if it does."""
    try:
        checkpoint.about(path)
        checkpoint.restore(path, "last", like)
    except checkpoint.CheckpointError as error:
        return str(error)
    return None


def test_a_truncated_checkpoint_is_one_plain_line(saved, tmp_path, monkeypatch, capfd, caplog):
    like, tried, ignored = {"x": jnp.zeros(64)}, 0, []
    gc.collect()
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    assert checkpoint.restore(saved, "last", like)["x"][5] == 5.0
    files = [path.relative_to(saved) for path in sorted(saved.rglob("*")) if path.is_file()]
    for i, name in enumerate(files):
        broken = tmp_path / str(i)
        shutil.copytree(saved, broken)
        size = (broken / name).stat().st_size
        os.truncate(broken / name, size // 2)
        said = told(broken, like)
        tried += said is not None
        if said is not None:
            assert said.startswith(f"the checkpoint {broken} ")
            assert not any(words in said for words in ("\n", "Expecting", "Unterminated"))
    assert tried >= 2
    time.sleep(0.2)
    gc.collect()  # now, at the latest, the reads of the same time would tell of themselves
    assert ignored == []
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_a_run_remembers_where_its_modules_were_and_imports_nothing_from_there(tmp_path, monkeypatch):
    robots, run = tmp_path / "robots", tmp_path / "run"
    robots.mkdir()
    (robots / "far_robot.py").write_text(
        "from roml_jax import envs\nenvs.register('far', lambda: envs.make('probe_observation'))\n"
    )
    with monkeypatch.context() as here:
        here.syspath_prepend(str(robots))
        config.import_modules(["far_robot"])
        options = config.to_mapping(config.parse(["--import", "far_robot", "--env", "probe_observation"]))
        folder.make(run, "run", options)
    assert json.loads((run / "imports.json").read_text()) == {"far_robot": str(robots / "far_robot.py")}
    assert config.read(run / "config.yaml").imports == ("far_robot",)  # it is imported already
    monkeypatch.delitem(users_code.sys.modules, "far_robot")
    with pytest.raises(config.ConfigError) as error:
        config.read(run / "config.yaml")
    assert str(error.value) == (
        f"{run} needs the module far_robot, which was imported from {robots / 'far_robot.py'}: "
        f"if you trust it, run this in {robots}, or put that folder on PYTHONPATH"
    )
    (run / "imports.json").unlink()  # a folder of an earlier version
    with pytest.raises(config.ConfigError, match=r"not on the import path: put its folder on PYTHONPATH$"):
        config.read(run / "config.yaml")


def test_a_runs_folder_never_runs_code(tmp_path, monkeypatch):
    """Not even from the current folder, which Python imports from."""
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')\n")
    (tmp_path / "config.yaml").write_text("imports: [evil]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        config.ConfigError, match=r"the module evil is in the run's folder, from where nothing "
    ):
        config.read(tmp_path / "config.yaml")
    with pytest.raises(config.ConfigError, match=r"the module evil is in the run's folder"):
        config.parse(["--resume", str(tmp_path)])
