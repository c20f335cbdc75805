"""A run that was stopped goes on as if it never had been; what cannot go on says why."""

import errno
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
import yaml
from small_runs import VARIBAD

from roml_jax import config, experiment, samplers, train
from roml_jax.config import seed_plan
from roml_jax.report import __main__ as report
from roml_jax.report import data
from roml_jax.run import checkpoint, progress, provenance, saved

_BOTH = """
    --env probe_memory --num-tasks 8 --chunk 3 --sampler.batch-size 16
    --eval.interval 6 --eval.tasks 16 --eval.test-tasks 32 --ppo.layers 16 --seeds 3 4 --frames 7680
""".split()  # noqa: SIM905
SMALL = [*_BOTH, "--agent", "multitask"]
TIMES = {"seconds", "train/frames_per_second"}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(folder):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows(folder)]


def state_of(folder, item="state"):
    made = config.parse(["--config", str(folder / "config.yaml")])
    parts = experiment.make(made)
    shapes = jax.eval_shape(parts.train.init, *seed_plan.leaves(made.plan))
    state = checkpoint.restore(checkpoint.latest(folder / "checkpoint"), item, shapes)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.plain(state))]


def interrupted(arguments, kind):
    """Trains, and sends this process a signal in the second chunk."""
    advance, calls = progress.ConsoleProgress.advance, []

    def and_send(self, frames, *more):
        advance(self, frames, *more)
        calls.append(frames)
        if len(calls) == 2:
            os.kill(os.getpid(), kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.ConsoleProgress, "advance", and_send)
        return train.main(arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train.main([*SMALL, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that SIGTERM stopped."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    code = interrupted([*SMALL, "--out", str(folder)], signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    return folder


@pytest.fixture
def copy(stopped, tmp_path):
    """The stopped run, to be spoilt."""
    return shutil.copytree(stopped, tmp_path / "run")


def test_a_stopped_run_says_how_it_goes_on(tmp_path, capfd):
    folder, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    assert interrupted([*SMALL, "--out", str(folder)], signal.SIGINT) == 130
    said = capfd.readouterr().err
    assert f"resume with: python -m roml_jax.train --resume {folder}" in said
    assert not any("test/cvar" in row for row in rows(folder))
    assert checkpoint.latest(folder / "checkpoint").name == str(rows(folder)[-1]["iteration"])
    assert signal.getsignal(signal.SIGINT) is before


def check_same(run, whole):
    """Two runs are one, bit for bit: states, metrics and the learners that are kept."""
    for mine, wanted in zip(state_of(run), state_of(whole), strict=True):
        np.testing.assert_array_equal(mine, wanted)
    assert without_times(run) == without_times(whole)
    for which in saved.WHICH:
        mine, wanted = saved.load(run, which), saved.load(whole, which)
        np.testing.assert_array_equal(mine.iterations, wanted.iterations)
        jax.tree.map(np.testing.assert_array_equal, mine.learner, wanted.learner)


@pytest.mark.slow
def test_varibad_goes_on_bit_for_bit(tmp_path):
    """Its replay, too; on every change the contract of agents has its checkpoint, and a small agent this."""
    arguments = [*_BOTH, *VARIBAD]
    assert train.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    assert interrupted([*arguments, "--out", str(tmp_path / "run")], signal.SIGTERM) == 128 + signal.SIGTERM
    assert train.main(["--resume", str(tmp_path / "run")]) == 0
    check_same(tmp_path / "run", tmp_path / "whole")


KHAZAD_DUM = """
    --env khazad_dum --num-tasks 8 --chunk 3 --seeds 3 4 --frames 36864 --ppo.layers 16
    --eval.interval 6 --eval.tasks 16 --eval.test-tasks 32
""".split()  # noqa: SIM905
OF_SAMPLERS = {  # so that a run of 18 iterations of 8 tasks leaves the beginning behind
    "cem": ["--sampler.batch-size", "16"], "cem_soft": ["--sampler.batch-size", "16"],
    "cem_weighted": ["--sampler.batch-size", "16"],
    "oracle": ["--sampler.batch-size", "16"], "naive": ["--sampler.batch-size", "16", "--sampler.pool", "16"],
    "plr": ["--sampler.buffer", "16"], "accel": ["--sampler.buffer", "16"],
    "sfl": ["--sampler.candidates", "16", "--sampler.rollouts", "2", "--sampler.top", "8"],
    "doraemon": ["--sampler.success", "-12", "--sampler.batch-size", "16"],
    "autodr": ["--sampler.success", "-12", "--sampler.failure", "-16", "--sampler.batch-size", "2"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sampler", samplers.names())
def test_every_sampler_trains_goes_on_and_reports_on_khazad_dum(sampler, tmp_path):
    """With the agent of its preset, VariBAD."""
    own = OF_SAMPLERS.get(sampler, [])
    arguments = [*KHAZAD_DUM, *VARIBAD, "--sampler", sampler, *own]
    whole, run, page = tmp_path / "whole", tmp_path / "run", tmp_path / "page.html"
    assert train.main([*arguments, "--out", str(whole)]) == 0
    assert interrupted([*arguments, "--out", str(run)], signal.SIGTERM) == 128 + signal.SIGTERM
    assert train.main(["--resume", str(run)]) == 0
    check_same(run, whole)
    assert report.main([str(run), "--out", str(page)]) == 0
    ((method,),) = (group.methods for group in data.load([run]))
    assert method.sampler == sampler
    assert np.isfinite([*method.final("return_mean").values(), *method.final("cvar").values()]).all()
    assert f"<td>{method.label}</td><td>2</td>" in page.read_text()


def test_it_goes_on_bit_for_bit(whole, copy, capfd):
    assert train.main(["--resume", str(copy)]) == 0
    assert "resumes from iteration" in capfd.readouterr().out
    check_same(copy, whole)
    seconds = [row["seconds"] for row in rows(copy)]
    assert seconds == sorted(seconds)
    before, after = provenance.read(copy)
    assert (before["outcome"], after["outcome"]) == ("stopped by SIGTERM", "complete")
    assert after["from_iteration"] == before["to_iteration"]
    assert before["frames"] + after["frames"] == 7680


def test_rows_beyond_the_checkpoint_are_made_again(whole, copy):
    """As after kill -9: rows were written after the last checkpoint, the last of them in part."""
    made = rows(copy)
    beyond = [dict(row, iteration=row["iteration"] + 300) for row in made[-2:]]
    text = "".join(json.dumps(row) + "\n" for row in [*made, *beyond])
    (copy / "metrics.jsonl").write_text(text + '{"seed": 3, "itera')
    # and a checkpoint was being written
    part = copy / "checkpoint" / "333.orbax-checkpoint-tmp"
    part.mkdir()
    (part / "half").write_text("x")
    assert train.main(["--resume", str(copy)]) == 0
    assert without_times(copy) == without_times(whole)
    assert [path.name for path in (copy / "checkpoint").iterdir()] == ["60"]


def test_a_run_that_was_not_tested_is_tested_and_its_checkpoint_stays(whole, tmp_path):
    """As after a kill in the final test: to write the same again would put the only checkpoint at risk."""
    run = shutil.copytree(whole, tmp_path / "run")
    kept = [row for row in rows(run) if "test/cvar" not in row]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    before = {path: path.stat().st_mtime_ns for path in (run / "checkpoint").rglob("*")}
    assert train.main(["--resume", str(run)]) == 0
    check_same(run, whole)
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoint").rglob("*")} == before


def test_a_run_that_is_ended_where_it_was_stopped_is_evaluated_there(copy):
    """Its best learners change, so that its checkpoint is written again, beside the first one."""
    last = rows(copy)[-1]
    assert not any(name.startswith("eval/") for name in last)
    was, name = checkpoint._prune, checkpoint.latest(copy / "checkpoint").name
    seen = []

    def prune(folder):
        seen.append(sorted(path.name for path in folder.iterdir()))
        was(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_prune", prune)
        assert train.main(["--resume", str(copy), "--frames", str(last["frames"])]) == 0
    assert seen == [[name], sorted([f"0{name}", name])]
    ends = [row for row in rows(copy) if row["iteration"] == last["iteration"]]
    assert sum("eval/cvar" in row for row in ends) == sum("test/cvar" in row for row in ends) == 2
    assert (saved.load(copy, "best_mean").iterations <= int(name)).all()
    assert checkpoint.latest(copy / "checkpoint").name == f"0{name}"


def test_a_checkpoint_that_could_not_be_written_again_is_told_and_the_first_stays(copy, capfd):
    last, name = rows(copy)[-1], checkpoint.latest(copy / "checkpoint").name

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orbax.checkpoint.AsyncCheckpointer.save", full)
        assert train.main(["--resume", str(copy), "--frames", str(last["frames"])]) == 1
    assert "the last checkpoint was not written" in " ".join(capfd.readouterr().err.split())
    assert checkpoint.latest(copy / "checkpoint").name == name
    assert train.main(["--resume", str(copy)]) == 0  # as the message says
    assert checkpoint.latest(copy / "checkpoint").name == f"0{name}"
    assert any("test/cvar" in row for row in rows(copy))


def test_a_run_without_a_checkpoint_starts_again(whole, copy, capfd):
    shutil.rmtree(copy / "checkpoint")
    assert train.main(["--resume", str(copy)]) == 0
    assert "from the start" in capfd.readouterr().out
    assert without_times(copy) == without_times(whole)


def test_a_run_goes_on_to_another_total_bit_for_bit(whole, copy, capfd):
    """Killed and ended early, then finished and extended: the state is that of the whole run."""

    def total():
        return yaml.safe_load((copy / "config.yaml").read_text())["frames"]

    assert train.main(["--resume", str(copy), "--frames", "3840"]) == 0
    assert (total(), rows(copy)[-1]["iteration"]) == (3840, 30)
    said = " ".join(capfd.readouterr().out.split())
    assert (
        "--frames is the total per seed, now 3,840, before 7,680; nothing here anneals over the run" in said
    )
    assert train.main(["--resume", str(copy)]) == 0
    assert "is complete; a larger --frames goes on with it" in " ".join(capfd.readouterr().out.split())
    assert train.main(["--resume", str(copy), "--frames", "7680"]) == 0
    assert (total(), rows(copy)[-1]["iteration"]) == (7680, 60)
    for mine, wanted in zip(state_of(copy), state_of(whole), strict=True):
        np.testing.assert_array_equal(mine, wanted)
    tests = [row for row in rows(copy) if "test/cvar" in row]
    assert [row["iteration"] for row in tests] == [60, 60]  # one for each seed, of the end alone
    assert [row["test/cvar"] for row in tests] == [
        row["test/cvar"] for row in rows(whole) if "test/cvar" in row
    ]


def test_a_complete_run_is_left_alone(whole, capfd):
    def times():
        return {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != ".lock"}

    before = times()
    assert train.main(["--resume", str(whole)]) == 0
    assert "complete" in capfd.readouterr().out
    assert times() == before


def _another_version(run):
    about = next((run / "checkpoint").iterdir()) / "about" / "metadata"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"version": "0.0.1"}))


def _another_configuration(run):
    options = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(options | {"ppo.gamma": 0.5}))


def _damaged(run):
    for path in (next((run / "checkpoint").iterdir()) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without_numbers(run):
    shutil.rmtree(next((run / "checkpoint").iterdir()) / "state" / "d", ignore_errors=True)
    shutil.rmtree(next((run / "checkpoint").iterdir()) / "state" / "ocdbt.process_0", ignore_errors=True)


@pytest.mark.parametrize(
    ("spoil", "more", "expected"),
    [
        (_another_version, [], "was written by roml_jax 0.0.1"),
        (_another_configuration, [], "ppo.gamma was 0.9, now 0.5"),
        (_damaged, [], "is damaged"),
        (_without_numbers, [], "cannot be read"),
        (lambda run: (run / "config.yaml").write_text("a: [1"), [], "not YAML"),
        (lambda run: (run / "config.yaml").unlink(), [], "is not a run's folder"),
        (lambda run: None, ["--ppo.gamma", "0.8"], "ppo.gamma was 0.9, now 0.8; use --config"),
        (lambda run: None, ["--frames", "1e9", "--seed", "1"], "but seeds was [3, 4], now [1]; use --config"),
        (lambda run: None, ["--frames", "256"], "error: --frames 256 is less than the "),
        (lambda run: None, ["--frames", "1e2"], "error: --frames 100 is less than the "),
        (lambda run: None, ["--init-from", "other"], "init_from was None, now "),
        (lambda run: None, ["--out", "elsewhere"], "leave out --out"),
        (lambda run: None, ["--config", "other.yaml"], "leave out --config"),
        (lambda run: None, ["--log", "tensorbord"], "must be one of tensorboard, wandb, got 'tensorbord'"),
        (lambda run: None, ["--checkpoint-minutes", "0"], "checkpoint_minutes must be positive"),
    ],
)  # fmt: skip
def test_what_cannot_go_on_says_why(spoil, more, expected, copy, capfd):
    spoil(copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert train.main(["--resume", str(copy), *more]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert expected in said
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_file_system_without_locks_is_told_and_works(copy, monkeypatch, capfd):
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    assert train.main(["--resume", str(copy)]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert f"{copy} cannot be locked (No locks available): start no other process on this run" in said


def test_a_folder_in_use_is_refused(copy, capfd):
    from roml_jax.run import folder

    with folder.locked(copy, pytest.fail):
        assert train.main(["--resume", str(copy)]) == 2
    assert "is being used by another process" in capfd.readouterr().err
