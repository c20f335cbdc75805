"""Early ends, worst tasks, maps, comparisons of two runs, and their JSON."""

import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from small_runs import trained

import roml_jax
from roml_jax import tasks
from roml_jax.config import Seed
from roml_jax.envs import EnvState
from roml_jax.errors import ConfigError
from roml_jax.evaluate import grids, tables, verdict, versus
from roml_jax.evaluate import records as recorded
from roml_jax.evaluate.__main__ import command
from roml_jax.evaluate.as_json import plain
from roml_jax.run import cli, saved
from roml_jax.types import Continuous, EnvSpec


class Ends(NamedTuple):
    """Every step pays 1; the episode of a task with a value above 1 ends with its 7th step of 20."""

    family: tasks.TaskFamily = tasks.beta("weight", 0.0, 2.0)
    spec: EnvSpec = EnvSpec("ends", {"step": slice(0, 1)}, Continuous(1), horizon=20, episodes=2)

    def reset(self, key, task):
        return EnvState.start(jnp.zeros(1), key, task, jnp.zeros((), jnp.int32))

    def step(self, state, action):
        step = state.physics + 1
        live = ~state.done
        return state._replace(
            reward=jnp.where(live, 1.0, 0.0), valid=live, physics=step,
            done=state.done | ((step >= 7) & (state.task[0] > 1.0)),
        )  # fmt: skip


@pytest.fixture(scope="module")
def ending():
    """Records of an untrained learner on ``Ends``."""
    options = {"num_tasks": 4, "frames": 1e4}
    config = roml_jax.make_config("probe_memory", "uniform", "rl2", **options)
    parts = roml_jax.experiment.make(config, Ends())
    one_of_one = jax.jit(lambda tree: jax.tree.map(lambda x: x[None], tree))
    learner = one_of_one(jax.jit(parts.learner.init)(jax.random.key(0)))
    run = saved.Saved(pathlib.Path(), config, parts, "last", np.zeros(1, int), learner)
    return recorded.collect(run, 12)


def made(returns, values, seeds=None, length=None, names=("mass",), alpha=0.1, chosen="prior"):
    """Records of returns (R, M), equal in both episodes, on tasks (M, d); H is 20."""
    returns = np.repeat(np.asarray(returns, float)[:, :, None], 2, axis=2)
    seeds = range(len(returns)) if seeds is None else seeds
    if length is not None:
        length = np.broadcast_to(np.asarray(length)[:, :, None], returns.shape)
    return recorded.Records(
        names, tuple(Seed(seed, {}) for seed in seeds), "last", np.full(len(returns), 7),
        (alpha,) * len(returns), chosen, np.asarray(values, float).reshape(returns.shape[1], len(names)),
        returns, np.zeros(returns.shape, bool), {}, length, 20,
    )  # fmt: skip


def shown(*calls):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for show, *arguments in calls:
        show(console, *arguments)
    return " ".join(console.export_text().split())


def test_an_episode_that_ends_at_step_7_of_20_has_length_7_and_counts_as_a_fall(ending):
    heavy = ending.tasks[:, 0] > 1.0
    assert 0 < heavy.sum() < 12
    np.testing.assert_array_equal(ending.length[0], np.where(heavy, 7, 20)[:, None] * np.ones((1, 2), int))
    np.testing.assert_array_equal(ending.early[0, :, 1], heavy)
    np.testing.assert_allclose(ending.returns, ending.length)
    (setting,) = verdict.settings(ending)
    np.testing.assert_allclose(setting.ends.early.mean, heavy.mean())
    np.testing.assert_allclose(setting.ends.length.mean, 20 - 13 * heavy.mean())
    text = shown((tables.show, [setting]))
    assert f"episodes that end early (fall rate) {100 * heavy.mean():.1f} %" in text
    assert f"steps per episode {20 - 13 * heavy.mean():.1f}" in text
    assert verdict.ONE_SEED in text
    row = dict(zip(recorded.columns(ending), next(iter(recorded.rows(ending))), strict=True))
    assert row["length"] == (7 if heavy[0] else 20)


def test_an_episode_that_ends_with_its_last_step_did_not_end_early():
    one = made([[1.0, 1.0]], [0, 1], length=[[20, 19]])
    assert one.early[0, :, 0].tolist() == [False, True]


def test_the_worst_tasks_are_listed_with_their_returns():
    one = made([[5.0, 1.0, 3.0, 9.0], [5.0, 3.0, 1.0, 9.0]], [[1, 2], [3, 4], [5, 6], [7, 8]],
               names=("mass", "friction"), length=[[20, 10, 20, 20]] * 2)  # fmt: skip
    worst = verdict.worst_tasks(one, 2)
    assert [(hard.number, hard.task) for hard in worst] == [
        (1, {"mass": 3.0, "friction": 4.0}), (2, {"mass": 5.0, "friction": 6.0}),
    ]  # fmt: skip
    assert [float(hard.returns.mean) for hard in worst] == [2.0, 2.0]
    assert [hard.early for hard in worst] == [1.0, 0.0]
    (setting,) = verdict.settings(one, worst=2)
    text = shown((tables.show, [setting]))
    assert "number 1 3 4 2.000 [1.000, 3.000] 100.0 % number 2 5 6 2.000 [1.000, 3.000] 0.0 %" in text


@pytest.mark.parametrize(("alpha", "tasks", "wanted"), [(0.01, 300, 3), (0.07, 100, 7), (0.05, 256, 13),
                                                        (0.01, 20, 1), (1.0, 8, 8)])  # fmt: skip
def test_the_number_of_tasks_behind_a_cvar(alpha, tasks, wanted):
    assert verdict.tail(alpha, tasks) == wanted
    returns = np.random.default_rng(0).normal(size=tasks)
    np.testing.assert_allclose(verdict.cvar(returns, alpha), np.sort(returns)[:wanted].mean(), rtol=1e-5)


def test_the_number_of_tasks_is_said():
    (setting,) = verdict.settings(made(np.arange(300.0)[None], np.arange(300)))
    assert "0.01 1.0 3.0 3 of 300" in shown((tables.show, [setting]))


def test_a_map_has_the_means_of_its_cells():
    """Return = 10 column + row on a 4 x 3 grid, each cell twice."""
    x, y = (side.ravel() for side in np.meshgrid([1.0, 2.0, 4.0, 8.0], [0.1, 0.2, 0.3]))
    tasks = np.tile(np.stack([x, y], axis=1), (2, 1))
    column, row = np.searchsorted([1, 2, 4, 8], tasks[:, 0]), np.rint(10 * tasks[:, 1]) - 1
    wobble = np.repeat([-0.25, 0.25], 12)
    one = made([10 * column + row + wobble] * 2, tasks, names=("mass", "friction"),
               length=np.where((column == 3) & (row == 2), 5, 20)[None].repeat(2, axis=0))  # fmt: skip
    got = verdict.map_of(one, 0, 1)
    np.testing.assert_allclose(got.mean, np.arange(4) * 10 + np.arange(3)[:, None])
    assert got.tasks.tolist() == [[2] * 4] * 3
    assert got.columns == [(1, 1), (2, 2), (4, 4), (8, 8)]
    assert got.rows == [(0.1, 0.1), (0.2, 0.2), (0.3, 0.3)]
    wanted = np.zeros((3, 4))
    wanted[2, 3] = 1.0  # heavy and slippery
    np.testing.assert_array_equal(got.early, wanted)
    (setting,) = verdict.settings(one)
    assert "0.1 0.00 (2) 10.00 (2) 20.00 (2) 30.00 (2)" in shown((tables.show, [setting]))


def test_a_cell_without_tasks_is_empty_and_maps_with_the_lowest_cells_come_first():
    values = [[0, 0, 0], [1, 1, 0], [2, 2, 1], [3, 3, 1]]
    one = made([[0.0, 1.0, 2.0, 3.0]], values, names=("a", "b", "c"))
    got = verdict.map_of(one, 0, 1)
    np.testing.assert_array_equal(np.isnan(got.mean), ~np.eye(4, dtype=bool))
    best_first = verdict.maps(one, 3)
    lowest = [float(np.nanmin(each.mean)) for each in best_first]
    assert lowest == sorted(lowest)
    assert verdict.maps(one._replace(chosen="grid"), 3) == []
    assert len(verdict.maps(one, 2)) == 2


def test_a_run_against_itself_differs_by_nothing():
    returns = np.random.default_rng(0).normal(size=(4, 50))
    one = made(returns, np.arange(50))
    (got,) = versus.settings(one, one, ("a", "b"))
    for difference in (got.mean, *(tail.difference for tail in got.tails)):
        assert [float(x) for x in difference[:3]] == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(got.by_task, 0.0)
    assert float(got.probability.mean) == 0.5
    assert got.pairs == 4
    assert got.better == 0.0


def test_differences_are_taken_task_by_task_and_seed_by_seed():
    """What the tasks and seeds of both have in common cancels."""
    rng = np.random.default_rng(1)
    base = rng.normal(scale=100.0, size=(3, 40)) + rng.normal(scale=100.0, size=(3, 1))
    gain = np.where(np.arange(40) < 20, -1.0, 3.0)
    first = made(base + gain + np.array([[0.0], [0.1], [0.2]]), np.arange(40), seeds=(1, 2, 3))
    second = made(base, np.arange(40), seeds=(1, 2, 3))
    (got,) = versus.settings(first, second, ("new", "old"), count=2)
    np.testing.assert_allclose(got.mean.mean, 1.1)
    assert 1.0 <= got.mean.low < got.mean.high <= 1.2 + 1e-9
    np.testing.assert_allclose(got.by_task, gain + 0.1)
    assert got.better == 0.5
    lows = [(part.low, part.high, float(part.difference.mean)) for part in got.by_dimension["mass"]]
    np.testing.assert_allclose([low[2] for low in lows], [-0.9] * 4 + [3.1] * 4)
    np.testing.assert_allclose([float(hard.returns.mean) for hard in got.losses], [-0.9, -0.9])
    assert {hard.number for hard in got.gains} <= set(range(20, 40))
    for tail in got.tails:
        cvars = [[np.sort(row)[: tail.tasks].mean() for row in side.by_task] for side in (first, second)]
        np.testing.assert_allclose(tail.difference.mean, np.mean(cvars[0]) - np.mean(cvars[1]), rtol=1e-4)
    text = shown((versus.show, got))
    assert "new - old, 3 seeds in pairs" in text
    assert "tasks on which its mean over seeds is higher 50.0 %" in text
    assert versus.ONE_SEED not in text


def test_all_rows_of_a_comparison_are_of_the_common_seeds_in_pairs():
    """A seed's level is its number here, so a seed too many, or one resampled alone, would be seen."""
    first, second = (
        made([[100.0 * seed + gain] * 20 for seed in seeds], np.arange(20), seeds=seeds)
        for seeds, gain in ((range(5), 1.0), (range(3, 8), 0.0))
    )
    (got,) = versus.settings(first, second, ("a", "b"))
    for interval in (got.mean, got.iqm):
        np.testing.assert_allclose([float(x) for x in interval[:3]], 1.0)
    assert float(got.probability.mean) == 0.75  # 3 and 4 against 3 and 4


def test_other_seeds_are_not_paired_and_a_single_one_is_described():
    first, second = (
        made([[1.0, 3.0]] * 2, [0, 1], seeds=(1, 2)),
        made([[0.0, 1.0]] * 3, [0, 1], seeds=(3, 4, 5)),
    )
    (got,) = versus.settings(first, second, ("a", "b"))
    assert got.pairs == 0
    assert [float(x) for x in got.mean[:3]] == [1.5] * 3  # the seeds of each side are equal
    assert "2 and 3 seeds without a common one" in shown((versus.show, got))
    (got,) = versus.settings(made([[1.0, 3.0]] * 2, [0, 1], seeds=(1, 3)), second, ("a", "b"))
    assert [float(x) for x in got.mean[:3]] == [1.5] * 3
    assert "2 and 3 seeds with one in common, not in pairs" in shown((versus.show, got))
    single = made([[1.0, 3.0]], [0, 1], seeds=(3,))
    (got,) = versus.settings(single, second, ("a", "b"))
    assert np.isnan(got.mean.low)
    text = shown((versus.show, got))
    assert "a - b, no interval" in text
    assert versus.ONE_SEED in text


def swept(values, alphas):
    one = made(values, np.arange(len(values[0])))
    seeds = tuple(Seed(0, {"alpha": alpha}) for alpha in alphas)
    return one._replace(seeds=seeds, alpha=tuple(alphas))


def test_a_sweep_is_compared_at_common_levels():
    found = verdict.settings(swept([np.arange(100.0), np.arange(100.0) * 2], (0.05, 0.3)))
    assert [[level.alpha for level in setting.levels] for setting in found] == [
        [0.01, 0.05, 0.1, 0.2, 0.3, 0.5]
    ] * 2
    for factor, setting in zip((1, 2), found, strict=True):
        tails = [0, 4, 9, 19, 29, 49]
        np.testing.assert_allclose(
            [float(x.cvar.mean) for x in setting.levels], [factor * t / 2 for t in tails]
        )
    text = shown((tables.show, found))
    assert "The sweep at common risk levels, 100 tasks" in text
    assert "alpha=0.05 49.50 0.00 2.00 4.50 9.50 14.50 24.50 alpha=0.3 99.00 0.00 4.00 9.00" in text


def test_settings_meet_the_same_setting_of_the_other_run_or_its_only_one():
    first = swept([[1.0, 1.0], [2.0, 2.0]], (0.05, 0.3))
    second = swept([[0.0, 0.0], [0.0, 0.0]], (0.3, 0.05))
    plain = made([[0.0, 0.0]], [0, 1])
    for other in (second, plain):
        got = {one.label: float(one.mean.mean) for one in versus.settings(first, other, ("a", "b"))}
        assert got == {"alpha=0.05": 1.0, "alpha=0.3": 2.0}
    got = {one.label: float(one.mean.mean) for one in versus.settings(plain, first, ("a", "b"))}
    assert got == {"alpha=0.05": -1.0, "alpha=0.3": -2.0}
    with pytest.raises(ConfigError, match="no swept setting in common"):
        versus.settings(first, swept([[0.0, 0.0]] * 2, (0.1, 0.2)), ("a", "b"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    cem = trained(place / "cem", "--seeds", "1", "2")
    return cem, trained(place / "uniform", "--seeds", "1", "2", sampler="uniform")


def test_the_command_compares_two_runs_and_writes_json(runs, tmp_path, capsys):
    cem, uniform = map(str, runs)
    out = tmp_path / "verdict.json"
    assert cli.run(command, [cem, uniform, "--tasks", "32", "--json", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "cem - uniform, 2 seeds in pairs" in text
    assert cli.run(command, [cem, "--versus", uniform, "--tasks", "32", "--json", "-"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads(out.read_text())
    read = json.loads(printed)
    assert (read["env"], read["tasks"], read["horizon"]) == ("probe_memory", 32, read["horizon"])
    (setting,), (against,) = read["settings"], read["versus"]
    both = [recorded.collect(saved.load(folder), 32).by_task for folder in runs]
    np.testing.assert_allclose(setting["mean"]["mean"], both[0].mean(), rtol=1e-6)
    np.testing.assert_allclose(against["by_task"], (both[0] - both[1]).mean(axis=0), rtol=1e-6)
    assert [level["tasks"] for level in setting["levels"]] == [1, 2, 4, 7, 16]
    assert setting["ends"]["early"]["mean"] == 0.0


def test_numbers_that_are_not_finite_are_null():
    single = verdict.settings(made([[1.0, 2.0]], [0, 1]))
    assert plain(single[0].mean) == {"mean": 1.5, "low": None, "high": None, "n": 1}
    json.dumps(plain(single), allow_nan=False)


def test_nine_points_of_a_grid_are_nine_rows():
    """Also in the comparison with a second run; draws of the prior stand in eight groups."""
    mass = np.linspace(0.5, 2.0, 9)
    one = made(np.arange(18.0).reshape(2, 9), mass[:, None])
    (found,) = verdict.settings(one._replace(chosen="grid"))
    (name,) = one.names
    rows = found.by_dimension[name]
    assert [(row.low, row.high, row.tasks) for row in rows] == [(x, x, 1) for x in mass]
    np.testing.assert_allclose([row.mean.mean for row in rows], np.arange(9) + 4.5)
    (against,) = versus.settings(*[one._replace(chosen="grid")] * 2, ("a", "b"))
    assert len(against.by_dimension[name]) == 9
    assert [row.tasks for row in verdict.settings(one)[0].by_dimension[name]] == [1] * 7 + [2]


def test_a_table_of_a_grid_of_lines_has_the_dimensions_own_line():
    """Return = -log2(mass)^2 - 100 log2(damping)^2: on the line of the mass, the damping is 1."""
    points = np.asarray(grids.grid(tasks.log_beta(("mass", "damping", "head")), 60))
    returns = -(np.log2(points[:, 0]) ** 2) - 100 * np.log2(points[:, 1]) ** 2
    one = made([returns] * 2, points, names=("mass", "damping", "head"))._replace(chosen="grid")
    rows = verdict.settings(one)[0].by_dimension["mass"]
    masses = 2.0 ** np.linspace(-1, 1, 20)
    np.testing.assert_allclose([row.low for row in rows], masses, rtol=1e-5)
    assert len(rows) == 20
    for row in rows:
        np.testing.assert_allclose(row.mean.mean, -(np.log2(row.low) ** 2), atol=1e-3)
    along = verdict.settings(one)[0].by_dimension["damping"]
    np.testing.assert_allclose(
        [row.mean.mean for row in along], [-100 * np.log2(row.low) ** 2 for row in along], atol=1e-2
    )


def test_few_values_of_a_prior_have_a_row_each_however_rare():
    assert [len(group) for group in verdict.bins(np.array([0.0] * 50 + [1.0] * 49 + [2.0]))] == [50, 49, 1]
