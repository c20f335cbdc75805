"""Evaluation of runs: the same numbers as the run's own test, told as tables and rows."""

import concurrent.futures
import csv
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from small_runs import rows, trained

import roml_jax
from roml_jax import tasks, train
from roml_jax.config import Seed
from roml_jax.evaluate import records as recorded
from roml_jax.evaluate import tables, verdict
from roml_jax.evaluate.__main__ import command
from roml_jax.evaluate.grids import grid
from roml_jax.run import cli, programs, saved


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "finished", "--seeds", "1", "2")


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_the_command_repeats_the_runs_own_test(finished, tmp_path, capsys):
    out = tmp_path / "new" / "returns.csv"
    assert cli.run(command, [str(finished), "--out", str(out)]) == 0
    table = said(capsys)
    with out.open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == 2 * 32 * 2
    assert list(read[0]) == [
        "seed", "which", "iteration", "task", "payer", "episode", "return", "diverged", "length",
    ]  # fmt: skip
    assert {row["which"] for row in read} == {"last"}
    tests = {row["seed"]: row for row in rows(finished) if "test/cvar" in row}
    for seed, own in tests.items():
        mine = [row for row in read if row["seed"] == str(seed)]
        assert {row["iteration"] for row in mine} == {"15"}
        by_task = np.array([float(row["return"]) for row in mine]).reshape(32, 2).mean(axis=1)
        np.testing.assert_allclose(by_task.mean(), own["test/return_mean"], rtol=1e-5)
        worst = np.sort(by_task)[: math.ceil(0.1 * 32)].mean()
        np.testing.assert_allclose(worst, own["test/cvar"], rtol=1e-5)
        assert f"{worst:.3f}" in table
    means = [own["test/return_mean"] for own in tests.values()]
    assert f"1 (mean) {np.mean(means):.3f} [{min(means):.3f}, {max(means):.3f}]" in table
    assert "0.1 (the run's)" in table


def test_other_learners_tasks_and_seeds(finished, capsys):
    last = saved.load(finished)
    best = recorded.collect(saved.load(finished, "best_cvar"), 32)
    evaluated = {
        seed: {
            row["iteration"]: row["eval/cvar"]
            for row in rows(finished)
            if row["seed"] == seed and "eval/cvar" in row
        }
        for seed in (1, 2)
    }
    for seed, iteration in zip((1, 2), best.iterations, strict=True):
        assert evaluated[seed][int(iteration)] == max(evaluated[seed].values())
    one, other = (recorded.collect(last, 8, seed=seed) for seed in (1, 2))
    assert one.returns.shape == (2, 8, 2)
    assert not np.array_equal(one.tasks, other.tasks)
    again = recorded.collect(last, 8, seed=1)
    np.testing.assert_array_equal(one.returns, again.returns)


def test_a_grid_has_no_risk_levels(finished, capsys):
    assert cli.run(command, [str(finished), "--grid", "--tasks", "5"]) == 0
    table = said(capsys)
    assert "on a grid over the task range" in table
    assert "Return against payer" in table
    assert "CVaR" not in table


def records(returns, seeds=(0,), alpha=0.05, values=None, settings=({},)):
    returns = np.asarray(returns, float)
    runs = tuple(Seed(seed, setting) for setting in settings for seed in seeds)
    tasks = np.arange(returns.shape[1], dtype=float) if values is None else np.asarray(values, float)
    return recorded.Records(
        ("mass",), runs, "last", np.full(len(runs), 7), (alpha,) * len(runs), "prior", tasks[:, None],
        returns, np.zeros(returns.shape, bool), {},
    )  # fmt: skip


def shown(made):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    tables.show(console, verdict.settings(made))
    return " ".join(console.export_text().split())


def test_levels_of_risk_are_those_of_numpy():
    returns = np.random.default_rng(0).normal(size=(1, 200, 3))
    by_task = np.sort(returns[0].mean(axis=1))
    text = shown(records(returns))
    assert "one seed: no interval" in text
    for alpha in verdict.ALPHAS:
        count = math.ceil(alpha * 200)
        cvar, var = by_task[:count].mean(), np.quantile(by_task, alpha)
        row = rf"(^| ){alpha:g}( \(the run's\))? {cvar:.3f} {var:.3f} {count} of 200 "
        assert re.search(row, text)
        assert cvar <= var
    assert f"1 (mean) {by_task.mean():.3f} 200 of 200 worst task {by_task[0]:.3f} 1 of 200" in text
    for k in range(3):
        assert f" {k} {returns[0, :, k].mean():.3f} " in text


def test_returns_against_the_task_are_means_of_equal_groups():
    values = np.random.default_rng(1).permutation(80)
    by_task = 2.0 * values
    text = shown(records(np.stack([by_task, by_task], axis=1)[None], values=values))
    assert "0 to 9 10 9.0 0.0 10 to 19 10 29.0 20.0" in text


def test_settings_that_were_swept_have_tables_of_their_own():
    returns = np.zeros((4, 10, 2))
    returns[2:] = 1.0
    text = shown(records(returns, seeds=(0, 1), settings=({"ppo.lr": 1e-3}, {"ppo.lr": 1e-4})))
    first, second = text.split("Return by risk level")[1:]
    assert "(ppo.lr=0.001), mean over 2 seeds" in first
    assert "1 (mean) 0.000 [0.000, 0.000]" in first
    assert "1 (mean) 1.000 [1.000, 1.000]" in second


def test_parquet_without_pyarrow_is_one_line(monkeypatch, finished, tmp_path, capsys):
    monkeypatch.setattr(recorded.importlib.util, "find_spec", lambda name: None)
    assert cli.run(command, [str(finished), "--out", str(tmp_path / "returns.parquet")]) == 2
    assert "needs the package pyarrow" in capsys.readouterr().err


def test_parquet_has_the_rows_of_csv(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    made = records(np.random.default_rng(0).normal(size=(2, 3, 2)), seeds=(0, 1))
    recorded.write(made, tmp_path / "a.parquet", ".parquet")
    read = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert list(read) == recorded.columns(made)
    assert [list(row) for row in zip(*read.values(), strict=True)] == list(recorded.rows(made))


def test_a_dimension_with_the_name_of_a_column_keeps_its_values(tmp_path):
    made = records(np.random.default_rng(0).normal(size=(1, 3, 2)), seeds=(0,))
    made = made._replace(names=("length",), tasks=made.tasks[:, :1], length=np.full((1, 3, 2), 7))
    recorded.write(made, tmp_path / "a.csv", ".csv")
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["length"] for row in rows} == {"7"}
    np.testing.assert_allclose([float(row["task/length"]) for row in rows[::2]], made.tasks[:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        (tasks.beta("speed", 0.0, 7.0), np.linspace(0, 7, 15)[:, None]),
        (tasks.log_beta(("mass",)), 2.0 ** np.linspace(-1, 1, 15)[:, None]),
        (tasks.categorical(("a", "b"), [[1, 2], [3, 4], [0, 9]]), [[0, 9], [1, 2], [3, 4]]),
    ],
)
def test_a_line_of_tasks(family, wanted):
    np.testing.assert_allclose(grid(family, 15), wanted, atol=1e-6)


def test_a_range_without_end_stops_where_the_prior_does():
    line = np.asarray(grid(tasks.exponential("noise", 0.1), 50))[:, 0]
    np.testing.assert_allclose(np.diff(line), np.diff(line)[0], rtol=1e-3)
    assert 0 <= line[0] < 1e-3
    assert 0.55 < line[-1] < 0.85  # 99.9 % of an exponential lie below 6.9 means


def test_two_dimensions_are_a_square_and_more_are_lines_through_the_middle():
    square = np.asarray(grid(tasks.log_beta(("a", "b")), 30))
    assert len(square) == 25
    for i in range(2):
        np.testing.assert_allclose(np.unique(square[:, i]), 2.0 ** np.linspace(-1, 1, 5), rtol=1e-6)
    lines = np.asarray(grid(tasks.log_beta(("a", "b", "c")), 30))
    assert lines.shape == (30, 3)
    for i in range(3):
        own = lines[10 * i : 10 * i + 10]
        np.testing.assert_allclose(own[:, i], 2.0 ** np.linspace(-1, 1, 10), rtol=1e-6)
        np.testing.assert_allclose(np.delete(own, i, axis=1), 1.0, rtol=1e-6)


def test_a_grid_has_every_value_of_a_finite_dimension_alike():
    floor = tasks.categorical(("floor",), [[0.0], [1.0], [2.0]], [0.98, 0.0195, 0.0005])
    parts = {"mass": tasks.log_beta(("mass",)), "floor": floor}
    square = np.asarray(grid(tasks.product(parts), 300))
    assert [(square[:, 1] == value).sum() for value in range(3)] == [100] * 3
    assert len(np.unique(square, axis=0)) == 300
    lines = np.asarray(grid(tasks.product(parts | {"head": tasks.log_beta(("head",))}), 103))
    assert len(lines) == 103
    assert set(lines[:, 1].tolist()) == {0.0, 1.0, 2.0}
    np.testing.assert_array_equal(lines[:50, 1], 0.0)  # the median


def test_a_disks_grid_lies_on_the_disk():
    points = np.asarray(grid(tasks.disk(("x", "y"), 5.0), 100))
    assert np.hypot(*points.T).max() <= 5.0 + 1e-4
    assert np.hypot(*points.T).max() > 4.9


def test_more_tasks_than_go_at_once(finished, monkeypatch):
    """Pieces are put together in order; the first is as it is alone."""
    run = saved.load(finished)
    monkeypatch.setattr(recorded.held_out, "_MOST", 16)
    whole, first = recorded.collect(run, 24), recorded.collect(run, 24)
    assert whole.returns.shape == (2, 24, 2)
    np.testing.assert_array_equal(whole.returns, first.returns)
    by_hand = jax.jit(run.parts.learner.test)(
        run.one(0), jnp.asarray(whole.tasks[:16]), recorded.held_out.draw(
            run.parts.env.family, 24, run.config.eval.seed, "test")[1],
    ).returns  # fmt: skip
    np.testing.assert_allclose(whole.returns[0, :16], by_hand, rtol=1e-5)


@pytest.mark.parametrize("agent", ["maml", "pearl"])
def test_learners_do_what_they_do_in_tests(agent):
    """MAML explores in its first episode; tests may have fewer episodes than training."""
    options = {"num_tasks": 4, "frames": 1e4, "protocol.episodes": 3, "protocol.test_episodes": 2}
    config = roml_jax.make_config("probe_memory", "uniform", agent, **options)
    parts = roml_jax.experiment.make(config)
    learner = jax.jit(parts.learner.init)(jax.random.key(0))
    several = jax.jit(lambda tree: jax.tree.map(lambda x: x[None], tree))(learner)
    run = saved.Saved(pathlib.Path(), config, parts, "last", np.zeros(1, int), several)
    found = recorded.collect(run, 6).returns
    tasks, key = recorded.held_out.draw(parts.env.family, 6, config.eval.seed, "test")
    assert found.shape == (1, 6, 2)
    np.testing.assert_allclose(found[0], jax.jit(parts.learner.test)(learner, tasks, key).returns, rtol=1e-5)


@pytest.mark.parametrize("agent", ["maml", "multitask"])
def test_a_final_test_is_repeated_batch_by_batch(agent):
    """Four batches of six tasks, also of an agent that explores; the last is filled up."""
    options = {"num_tasks": 4, "frames": 1e4, "eval.interval": 9, "eval.tasks": 6, "eval.test_tasks": 23}
    config = roml_jax.make_config("probe_memory", "uniform", agent, **options)
    parts = roml_jax.experiment.make(config)
    learner = jax.jit(parts.learner.init)(jax.random.key(0))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        tests = programs.Tests(pool, parts, config, learner)
        tests.ready("test")
        final = tests.outcome(learner, "test").returns
    several = jax.jit(lambda tree: jax.tree.map(lambda x: x[None], tree))(learner)
    run = saved.Saved(pathlib.Path(), config, parts, "last", np.zeros(1, int), several)
    assert roml_jax.experiment.batch_sizes(config) == {"validation": 6, "test": 6}
    assert final.shape == (23, parts.env.spec.episodes)
    np.testing.assert_array_equal(recorded.collect(run, 23).returns[0], final)


def test_a_run_in_which_nothing_acts_is_evaluated(tmp_path, capsys):
    """Regression: returns are minus the loss after so many gradient steps."""
    run = tmp_path / "sine"
    options = ["--frames", "4000", "--eval.test-tasks", "20", "--sampler.batch-size", "20", "--out", str(run)]
    assert train.main(["--env", "sine", "--agent", "maml", *options]) == 0
    assert cli.run(command, [str(run)]) == 0
    (own,) = [row for row in rows(run) if "test/cvar" in row]
    assert f"1 (mean) {own['test/return_mean']:.2f}" in said(capsys)
