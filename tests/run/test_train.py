"""The command line as a user meets it."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from small_runs import TINY_VARIBAD, rows, trained

from roml_jax import config, experiment, train
from roml_jax.run import checkpoint

SMALL = [*TINY_VARIBAD, "--sampler.batch-size", "16"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "first", "--seeds", "1", "2", tiny=TINY_VARIBAD)


def test_a_run_leaves_metrics_configuration_and_checkpoint(finished):
    assert {path.name for path in finished.iterdir()} == {
        "metrics.jsonl", "config.yaml", "checkpoint", "provenance.json", ".lock",
    }  # fmt: skip
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert saved["env"] == "probe_memory"
    assert saved["sampler.batch_size"] == 16
    lines = rows(finished)
    assert {line["seed"] for line in lines} == {1, 2}
    evaluated = [line["iteration"] for line in lines if "eval/cvar" in line and line["seed"] == 1]
    assert evaluated == [4, 8, 12, 15]  # a quarter each, although the interval is 6; and at the end
    trained = [line for line in lines if "train/return_mean" in line and line["seed"] == 1]
    assert [line["iteration"] for line in trained] == [1, 4, 8, 12, 15]
    assert trained[-1]["frames"] == 15 * 128
    assert all(np.isfinite(value) for value in trained[-1].values())
    tests = [line for line in lines if "test/return_mean" in line]
    assert len(tests) == 2
    assert tests[0]["test/cvar"] <= tests[0]["test/return_mean"]


def test_every_number_is_documented(finished):
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"`([\w/]+)`", text))
    for name in {name for row in rows(finished) for name in row}:
        counted = re.sub(r"(phi)_\d+$", r"\1_I", re.sub(r"(episode)_\d+$", r"\1_K", name))
        general = re.sub(r"^test/", "eval/", counted)
        assert general in documented, name


def test_the_checkpoint_is_the_whole_state(finished):
    """Restored into the shapes of init, it continues: the same test returns as the run wrote."""
    made = config.parse(["--config", str(finished / "config.yaml")])
    parts = experiment.make(made)
    shapes = jax.eval_shape(parts.train.init, jnp.stack([jax.random.key(seed) for seed in made.seeds]))
    path = checkpoint.latest(finished / "checkpoint")
    assert path.name == "15"
    state = checkpoint.restore(path, "state", shapes)
    assert int(state.iteration) == 15
    returns = np.asarray(jax.jit(parts.test)(state.learner).returns)
    written = [line["test/return_mean"] for line in rows(finished) if "test/return_mean" in line]
    np.testing.assert_allclose(returns.mean(axis=(1, 2)), written, rtol=1e-5)
    # as the run compiles it: its program is in the compile cache
    chunk = jax.jit(parts.train.chunk, donate_argnums=0).lower(shapes, jnp.int32(0)).compile()
    state, metrics = chunk(state, jnp.int32(1))
    assert np.isfinite(np.asarray(metrics["train/return"][0])).all()


def test_nothing_is_overwritten(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert train.main([*SMALL, "--out", str(finished)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize("out", ["file/inside", "file"])
def test_a_folder_that_cannot_be_made_is_one_line(out, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert train.main([*SMALL, "--out", str(tmp_path / out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("command", ["--env humanoid_mas", "--ppo.lrr 1", "--alpha 7"])
def test_wrong_input_ends_with_code_2_and_one_line(command, capsys):
    assert train.main(command.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_so_it_does_as_a_process():
    command = "--env humanoid_mas"
    done = subprocess.run(
        [sys.executable, "-m", "roml_jax.train", *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
