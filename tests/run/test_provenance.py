"""Where a run comes from is written beside it, session by session."""

import json
import shutil
import signal
import subprocess
import sys

import jax
import pytest
from small_runs import trained

from roml_jax._version import __version__
from roml_jax.run import folder, loop, provenance


def session(run, before=(0, 0, 0.0), said=None):
    about = {"command": "train --env ant", "seeds": 2}
    return provenance.Session(run, about, [], before, (said if said is not None else []).append)


def test_a_run_says_what_made_it(tmp_path):
    run = trained(tmp_path / "run", "--seeds", "1", "2")
    (one,) = provenance.read(run)
    assert one["command"].startswith("python -m roml_jax.train --env probe_memory --num-tasks 8")
    assert one["command"].split()[-2] == "--out"
    assert (one["roml_jax"], one["jax"], one["seeds"]) == (__version__, jax.__version__, 2)
    assert one["python"] == sys.version.split()[0]
    assert one["device"] == jax.devices()[0].device_kind
    assert (one["from_iteration"], one["to_iteration"], one["frames"]) == (0, 15, 1920)
    assert one["outcome"] == "complete"
    assert one["started"] <= one["ended"]
    assert 0 < one["training_seconds"] < one["wall_seconds"]
    assert one["frames_per_second"] == pytest.approx(1920 / one["training_seconds"], rel=0.01)


def test_a_resumed_run_keeps_the_sessions_before(tmp_path):
    first = session(tmp_path)
    assert provenance.read(tmp_path)[0]["ended"] is None  # as after kill -9
    first.trained(5, 500, 10.0)
    with pytest.raises(loop.StoppedError), provenance.recorded(first):
        raise loop.StoppedError(signal.SIGTERM, "stopped after 5 of 10 iterations")
    with provenance.recorded(second := session(tmp_path, (5, 500, 10.0))):
        second.trained(10, 1000, 15.0)
    before, after = provenance.read(tmp_path)
    assert (before["outcome"], before["to_iteration"], before["frames_per_second"]) == (
        "stopped by SIGTERM", 5, 50.0,
    )  # fmt: skip
    assert (after["outcome"], after["from_iteration"], after["to_iteration"]) == ("complete", 5, 10)
    assert (after["frames"], after["training_seconds"], after["frames_per_second"]) == (500, 5.0, 100.0)
    with pytest.raises(loop.RunError), provenance.recorded(session(tmp_path, (5, 500, 10.0))):
        raise loop.RunError("every seed diverged")
    assert [one["outcome"] for one in provenance.read(tmp_path)][2] == "RunError: every seed diverged"


def test_a_damaged_file_is_kept_and_told(tmp_path):
    (tmp_path / "provenance.json").write_text('[{"command": "tra')
    said = []
    session(tmp_path, said=said)
    assert len(provenance.read(tmp_path)) == 1
    assert (tmp_path / "provenance.damaged.json").read_text() == '[{"command": "tra'
    assert said == [f"{tmp_path / 'provenance.json'} is damaged; it is kept as provenance.damaged.json"]


def test_a_disk_that_is_full_is_told_and_what_was_written_stays(tmp_path, monkeypatch):
    said, one = [], session(tmp_path)
    one._say = said.append
    before = (tmp_path / "provenance.json").read_text()

    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(provenance.Path, "write_text", full)
    one.end("complete")
    assert said == [f"{tmp_path / 'provenance.json'} cannot be written: No space left on device"]
    assert [path.name for path in tmp_path.iterdir()] == ["provenance.json"]
    assert (tmp_path / "provenance.json").read_text() == before


def test_a_run_that_never_began_leaves_no_folder(tmp_path):
    run = folder.make(tmp_path / "run", "run", {})
    with pytest.raises(KeyboardInterrupt), folder.removed_if_unused(run), provenance.recorded(session(run)):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_files_own_checkout(tmp_path):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "package" / "code.py"
    code.parent.mkdir()
    code.write_text("x = 1\n")
    assert provenance.commit_of(code) is None  # no repository
    git("init", "-q")
    assert provenance.commit_of(code) is None  # not tracked: installed into somebody's checkout
    git("add", "package")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD")
    assert provenance.commit_of(code) == head
    code.write_text("x = 2\n")
    assert provenance.commit_of(code) == f"{head}, modified"


def test_a_file_of_something_else_has_no_sessions(tmp_path):
    assert provenance.read(tmp_path) == []
    for text in ("{}", "[1]", "nonsense"):
        (tmp_path / "provenance.json").write_text(text)
        assert provenance.read(tmp_path) == []
    (tmp_path / "provenance.json").write_text(json.dumps([{"command": "x"}]))
    assert provenance.read(tmp_path) == [{"command": "x"}]
