"""Wrong input to the commands on runs: one line on stderr, exit code 2, nothing written."""

import shutil
import sys

import pytest
from small_runs import trained

from roml_jax import __main__ as program
from roml_jax import export
from roml_jax.demo import __main__ as demo
from roml_jax.evaluate import __main__ as evaluate
from roml_jax.render import __main__ as render
from roml_jax.report import __main__ as report
from roml_jax.run import cli
from roml_jax.sim2sim import __main__ as sim2sim

COMMANDS = {
    "evaluate": evaluate.command,
    "report": report.command,
    "render": render.command,
    "export": export.command,
    "sim2sim": sim2sim.command,
    "demo": demo.command,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, one without a checkpoint, a damaged one and a file."""
    place = tmp_path_factory.mktemp("place")
    run = trained(place / "run", "--seeds", "3", "4", "--eval.interval", "0")
    shutil.copytree(run, place / "unsaved", ignore=shutil.ignore_patterns("checkpoint"))
    shutil.copytree(run, place / "silent", ignore=shutil.ignore_patterns("metrics.jsonl"))
    shutil.copytree(run, place / "wrong")
    (place / "wrong" / "config.yaml").write_text("env: humanoid_mas\n")
    shutil.copytree(run, place / "other")
    text = (run / "config.yaml").read_text()
    assert "protocol.test_episodes: null" in text
    text = text.replace("protocol.test_episodes: null", "protocol.test_episodes: 3")
    (place / "other" / "config.yaml").write_text(text)
    (place / "empty").mkdir()
    (place / "there").mkdir()
    for suffix in ("csv", "html", "gif", "json", "zip"):
        (place / f"there.{suffix}").write_text("kept")
    return place


CASES = [
    ("evaluate", "required: run"),
    ("evaluate missing", "missing is not a run's folder"),
    ("evaluate empty", "empty is not a run's folder"),
    ("evaluate unsaved", "unsaved has no checkpoint yet"),
    ("evaluate wrong", "did you mean 'humanoid_mass'?"),
    ("evaluate run --which best", "invalid choice: 'best'"),
    ("evaluate run --which best_cvar", "best_cvar"),
    ("evaluate run --tasks 0", "must be at least 1, got 0"),
    ("evaluate run --tasks many", "--tasks: must be a whole number, got 'many'"),
    ("evaluate run --tasks 1.5", "--tasks: must be a whole number, got '1.5'"),
    ("evaluate run --seed -1", "must be between 0 and 2^32 - 1"),
    ("evaluate run --out there.csv", "there.csv exists; nothing is overwritten"),
    ("evaluate run --out new.txt", "--out must end in .csv or .parquet, got new.txt"),
    ("evaluate run --json new.txt", "--json must end in .json, got new.txt"),
    ("evaluate run --json there.json", "--json there.json exists; nothing is overwritten"),
    ("evaluate run --worst 0", "must be at least 1, got 0"),
    ("evaluate run missing", "missing is not a run's folder"),
    ("evaluate run run --versus run", "a second run is given twice, as RUN2 and as --versus"),
    ("evaluate run --versus other", "run and other have different numbers of episodes or steps"),
    ("evaluate run --tsks 3", "unrecognized arguments: --tsks 3"),
    ("report", "required: RUN"),
    ("report missing", "missing is not a run's folder"),
    ("report silent", "silent has no metrics.jsonl yet"),
    ("report run run", "a run is given twice"),
    ("report run wrong", "did you mean 'humanoid_mass'?"),
    ("report run --out there.html", "there.html exists"),
    ("report run --out new.pdf", "--out must end in .html, got new.pdf"),
    ("report run --out there/../there.html", "exists; nothing is overwritten"),
    ("report run --tasks -1", "must be at least 0, got -1"),
    ("render missing", "missing is not a run's folder"),
    ("render run", "probe_memory cannot be shown: give the environment a method render(task, states)"),
    ("render unsaved", "unsaved has no checkpoint yet"),
    ("sim2sim missing", "missing is not a run's folder"),
    ("sim2sim run", "sim2sim needs an environment on a MuJoCo model"),
    ("sim2sim run --tasks 0", "must be at least 1, got 0"),
    ("sim2sim run --tolerance -1", "must be positive, got -1"),
    ("sim2sim run --run 7", "run has no seed '7'; its seeds are: 3; 4"),
    ("render run --watch", "--watch shows robots, but probe_memory has no MuJoCo model"),
    ("render run --watch --out new.html", "writes no file: leave out --out"),
    ("render run --watch --versus run", "leave out --versus"),
    ("render missing --watch", "missing is not a run's folder"),
    ("render run --watch --port 70000", "must be between 0 and 65535, got 70000"),
    ("demo --task mass=2 cheetah_mass", "no demo is named: give NAME first, one of khazad_dum, cheetah_mass"),
    ("demo cheetah_mas", "unknown demo 'cheetah_mas'; did you mean 'cheetah_mass'?"),
    ("demo cheetah_mass --task weight=2", "--task: unknown dimension 'weight'"),
    ("demo cheetah_mass --task mass=5", "--task: mass must be in [0.5, 2], got 5"),
    ("demo cheetah_mass --out there.html", "there.html exists; nothing is overwritten"),
    ("demo cheetah_mass --out new.png", "--out must end in .html or .gif or .mp4, got new.png"),
    ("demo khazad_dum --out there.csv/new.png", "cannot write there.csv/new.png"),
    ("demo khazad_dum --task 0.1 --task 0.2 --out new.png", "a map (.png) shows one task"),
    ("export run", "required: --out"),
    ("export run --out there.zip", "there.zip exists"),
    ("export run --out new.onnx", "--out must end in .zip, got new.onnx"),
    ("export run --out new.zip --format tflite", "invalid choice: 'tflite'"),
    ("export run --out new.zip --robots 2", "--robots is an option of --format onnx"),
    ("export run --out new.zip --format onnx --robots 0", "must be at least 1, got 0"),
    ("export run --out new.zip --run 7", "run has no seed '7'; its seeds are: 3; 4"),
    ("export unsaved --out new.zip", "unsaved has no checkpoint yet"),
    ("export run --out there.csv/new.zip", "cannot write there.csv/new.zip"),
]


@pytest.mark.parametrize(("line", "said"), CASES)
def test_wrong_input_is_one_line(line, said, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    name, *arguments = line.split()
    assert cli.run(COMMANDS[name], arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_the_console_script_imports_modules_of_the_current_folder(tmp_path, monkeypatch, capsys):
    """As ``python -m`` does; an installed script has its own folder there instead."""
    monkeypatch.setattr(sys, "argv", ["roml-jax", "--version"])
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    assert program.main() == 0
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_does(name, capsys):
    with pytest.raises(SystemExit) as left:
        COMMANDS[name](["--help"])
    assert left.value.code == 0
    assert f"python -m roml_jax.{name}" in capsys.readouterr().out
