"""A run that diverges is stopped at its last good state, and its neighbours never notice."""

import json

import jax
import numpy as np
import pytest

from roml_jax import train
from roml_jax.run import saved

SMALL = """
    --env probe_memory --agent multitask --num-tasks 8 --chunk 3 --sampler.batch-size 16
    --eval.interval 6 --eval.tasks 16 --eval.test-tasks 32 --ppo.layers 16 --ppo.epochs 1 --ppo.minibatches 1
    --frames 1536
""".split()  # noqa: SIM905
TIMES = {"seconds", "train/frames_per_second", "ppo.lr"}


def trained(folder, *more):
    code = train.main([*SMALL, *more, "--out", str(folder)])
    return code, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A well run beside one that explodes, and the same run beside another well one."""
    folder = tmp_path_factory.mktemp("diverged")
    exploding = trained(folder / "exploding", "--sweep", "ppo.lr=1e-3,5e29")
    return folder / "exploding", exploding, trained(folder / "well", "--sweep", "ppo.lr=1e-3,2e-3")


def of(rows, rate):
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in rows
        if row["ppo.lr"] == pytest.approx(rate)
    ]


def test_the_neighbour_is_the_run_that_it_was(both):
    _, (code, rows), (code_well, rows_well) = both
    assert code == code_well == 0
    assert of(rows, 1e-3) == of(rows_well, 1e-3)


def test_it_is_told_and_its_last_good_state_is_kept(both, capfd):
    folder, (_, rows), _ = both
    spoilt = [row for row in of(rows, 5e29) if "train/stopped" in row]
    assert [row["train/stopped"] for row in spoilt] == [0, 1, 1, 1, 1]  # one update is survived
    assert spoilt[-1] == {"seed": 0, "iteration": 12, "frames": 1536, "train/stopped": 1.0}
    (test,) = [row for row in of(rows, 5e29) if "test/cvar" in row]
    assert all(np.isfinite(value) for value in test.values())
    kept = saved.load(folder)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(kept.learner))


def test_when_all_diverge_the_run_ends_early(tmp_path, capfd):
    code, rows = trained(tmp_path / "all", "--sweep", "ppo.lr=5e29,4e29")
    assert code == 1
    said = capfd.readouterr()
    assert "diverged and was stopped" in said.out
    assert said.err.startswith("error: every seed diverged, the last after 1 of 12 iterations")
    assert max(row["iteration"] for row in rows) == 3
