"""One unit for returns: a task's mean per episode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cart import cart
from small_runs import rows, trained

import roml_jax
from roml_jax import config, experiment
from roml_jax.config import seed_plan
from roml_jax.envs import make
from roml_jax.report import data
from roml_jax.run import units

ROW = {
    "seed": 0, "frames": 8, "train/return": -8.0, "train/return_min": -12.0, "reward/alive": 4.0,
    "sampler/ref_cvar": -10.0, "sampler/q_ref": "nan", "sampler/phi_0": 0.5, "eval/cvar": -3.0,
}  # fmt: skip


def test_sums_over_a_tasks_episodes_are_divided_and_nothing_else():
    assert units.per_episode(ROW, 4) == {
        "seed": 0, "frames": 8, "train/return_mean": -2.0, "train/return_worst": -3.0, "reward/alive": 4.0,
        "sampler/ref_cvar": -2.5, "sampler/q_ref": "nan", "sampler/phi_0": 0.5, "eval/cvar": -3.0,
    }  # fmt: skip


def test_the_terms_of_a_reward_add_up_to_the_return(tmp_path):
    """Both are per episode, also where a task has two."""
    run = roml_jax.train(
        cart(), sampler="uniform", agent="multitask", num_tasks=4, frames=160, out=tmp_path / "run",
        **{"eval.test_tasks": 8, "ppo.layers": (8,), "ppo.minibatches": 1},
    )  # fmt: skip
    assert run.env.spec.episodes == 2
    found = [row for row in run.metrics if "train/return_mean" in row]
    assert found
    for row in found:
        terms = sum(value for name, value in row.items() if name.startswith("reward/"))
        assert terms == pytest.approx(row["train/return_mean"], rel=1e-5)
        assert row["train/return_mean"] != 0


def test_rows_of_older_versions_are_converted_and_those_of_this_one_are_not():
    new = units.per_episode(ROW, 4)
    assert units.from_file([ROW, new, {"eval/cvar": 1.0}], lambda: 4) == [new, new, {"eval/cvar": 1.0}]
    assert units.from_file([new], lambda: pytest.fail("there is nothing to convert")) == [new]


def test_a_learner_without_episodes_has_nothing_to_divide():
    assert units.episodes(config.make("sine", "uniform", "maml"), make("sine")) == 1
    assert units.episodes(config.make("khazad_dum"), make("khazad_dum")) == 4
    assert units.episodes(config.make("khazad_dum", **{"protocol.episodes": 3}), make("khazad_dum")) == 3


def test_progress_metrics_and_report_have_the_programs_sum_over_the_number_of_episodes(tmp_path):
    """The run's first iteration again, as the program counts it: two episodes of a task in one score."""
    folder = trained(tmp_path / "run", "--seeds", "1", "2")
    made = config.read(folder / "config.yaml")
    parts = experiment.make(made)
    state = jax.jit(parts.train.init)(*seed_plan.leaves(made.plan))
    chunk = jax.jit(parts.train.chunk, donate_argnums=0)  # as the run compiled it
    _, metrics = chunk(state, jnp.int32(1))
    score = np.asarray(metrics["train/return"])[0]
    first = [row for row in rows(folder) if row["iteration"] == 1]
    np.testing.assert_allclose([row["train/return_mean"] for row in first], score / 2, rtol=1e-5)
    assert not any("train/return" in row for row in rows(folder))
    assert roml_jax.open(folder).metrics == rows(folder)
    (group,) = data.load([folder])
    drawn = [seed.series("train/return_mean")[1][0] for seed in group.methods[0].seeds]
    np.testing.assert_allclose(drawn, score / 2, rtol=1e-5)
    # an older version's folder, with sums: the same numbers again
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace('"train/return_mean"', '"train/return"'))
    (group,) = data.load([folder])
    drawn = [seed.series("train/return_mean")[1][0] for seed in group.methods[0].seeds]
    np.testing.assert_allclose(drawn, score / 4, rtol=1e-5)
