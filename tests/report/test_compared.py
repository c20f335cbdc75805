"""What a report's tables and figures compare, and what they leave alone, on made-up methods."""

import pathlib
import re

import numpy as np
import pytest

from roml_jax import config, envs
from roml_jax.report import data, figures, sections, series
from roml_jax.report.data import Group, Method, Seed
from roml_jax.tasks import beta, exponential


def method(label, made, values, kind="test", frames=100.0, columns=("0", "1")):
    """Three seeds whose mean is the value, and whose CVaR is twice that."""
    seeds = [
        Seed(seed, pathlib.Path("run"), 0, {
            "frames": np.array([frames]), f"{kind}/return_mean": np.array([value]),
            f"{kind}/cvar": np.array([2 * value]),
            **{f"{kind}/{metric}_episode_{k}": np.array([value + int(k)])
               for metric in ("return", "cvar") for k in columns},
        })
        for seed, value in enumerate(values)
    ]  # fmt: skip
    return Method(label, made.sampler, made.alpha, made, {}, tuple(seeds))


def compared(group, label):
    """The cells of a method's row that compare it with the first, and the section's words."""
    env = envs.from_options(group.methods[0].config.env, group.methods[0].config.env_options)
    tests = {one.label: series.tested(one, env) for one in group.methods}
    (section,) = sections._final(group, tests)
    row = next(row for row in section.table.split("<tr>") if f"<td>{label}</td>" in row)
    cells = re.findall(r"<td>(.*?)</td>", row)
    return cells[5:8], section.words


def probe(**options):
    return config.make("probe_memory", "uniform", "multitask", **options)


def test_a_cvar_is_compared_at_the_same_level_only():
    group = Group("probe_memory", (
        method("uniform", probe(alpha=0.01), (1.0, 2.0, 3.0)),
        method("mild", probe(alpha=0.5), (2.0, 3.0, 4.0)),
        method("same", probe(alpha=0.01), (2.0, 3.0, 4.0)),
    ))  # fmt: skip
    cells, words = compared(group, "mild")
    assert cells == ["+1.000 [+1.000, +1.000]", "", "3"]
    assert "CVaR is compared at the same alpha only, that of uniform." in words
    assert compared(group, "same")[0][1] == "+2.000 [+2.000, +2.000]"


@pytest.mark.parametrize(("kinds", "is_compared"), [
    (("test", "eval"), False), (("eval", "test"), False), (("eval", "eval"), True), (("test", "test"), True),
])  # fmt: skip
def test_a_final_test_is_not_compared_with_an_evaluation_during_training(kinds, is_compared):
    methods = (
        method(label, probe(), (1.0, 2.0, 3.0), kind)
        for label, kind in zip(("uniform", "other"), kinds, strict=True)
    )
    group = Group("probe_memory", tuple(methods))
    cells, words = compared(group, "other")
    assert [bool(cell) for cell in cells] == [is_compared] * 3
    assert ("one side is not tested yet" in words) is not is_compared
    labels = [label.get_text() for label in figures.final(group).axes[0].get_yticklabels()]
    assert labels == [
        one.label + (" (not tested yet)" if kind == "eval" else "")
        for one, kind in zip(group.methods, kinds, strict=True)
    ]


def test_evaluations_at_other_frames_are_not_compared():
    methods = (
        method(label, probe(), (1.0, 2.0, 3.0), "eval", at) for label, at in (("uniform", 9.0), ("b", 5.0))
    )
    assert compared(Group("probe_memory", tuple(methods)), "b")[0] == ["", "", ""]


def test_runs_that_stopped_apart_are_compared_where_they_were_evaluated_alike():
    """Their last rows are of training, at frames of their own."""
    methods = []
    for label, end in (("uniform", 6.1), ("b", 6.4)):
        one = method(label, probe(), (1.0, 2.0, 3.0), "eval", 5.0)
        seeds = [
            seed._replace(columns={
                name: np.append(values, end if name == "frames" else np.nan)
                for name, values in seed.columns.items()
            })
            for seed in one.seeds
        ]  # fmt: skip
        methods.append(one._replace(seeds=tuple(seeds)))
    cells, words = compared(Group("probe_memory", tuple(methods)), "b")
    assert all(cells)
    assert "not tested" not in words


def test_a_learner_that_breaks_the_simulation_in_the_test_has_no_return_and_is_told():
    """Its evaluations before stand for nothing."""
    good = method("uniform", probe(), (1.0, 2.0, 3.0))
    bad = method("b", probe(), (np.nan, np.nan, np.nan))
    columns = {"eval/return_mean": np.array([-80.0]), "test/diverged": np.array([32.0])}
    bad = bad._replace(seeds=tuple(seed._replace(columns={**seed.columns, **columns}) for seed in bad.seeds))
    assert bad.tested
    assert np.isnan([*bad.final("return_mean").values()]).all()
    assert "an episode diverged on all test tasks: seed 0, 1, 2" in data.note(bad)
    cells, words = compared(Group("probe_memory", (good, bad)), "b")
    assert not any("80" in cell for cell in cells)
    assert "not tested yet" not in words


def sine(*steps):
    return config.make("sine", "uniform", "maml", test_steps=steps)


def test_returns_after_other_numbers_of_inner_steps_are_not_compared():
    """Regression has no episodes: its columns are numbers of gradient steps on the task."""
    one = method("uniform", sine(1), (1.0, 2.0, 3.0), columns=("0",))
    group = Group("sine", (one, method("more", sine(1, 8), (2.0, 3.0, 4.0))))
    cells, words = compared(group, "more")
    assert cells == ["", "", ""]
    assert "not compared: more" in words
    env = envs.make("sine")
    tests = {each.label: series.tested(each, env) for each in group.methods}
    assert tests["more"].text == "returns after 1, 8 inner steps"
    figure = figures.adaptation(group, tests)
    lines = [line.get_xdata().tolist() for line in figure.axes[0].lines]
    np.testing.assert_allclose(sorted(lines, key=len)[1], [1.03, 8.03])
    assert figure.axes[0].get_xlabel() == "gradient steps on the task"
    only = Group("sine", (one,))
    assert figures.adaptation(only, {one.label: tests[one.label]}) is None
    assert not figures.adaptation(group, {one.label: tests["more"]}).axes[1].lines[1:]


def test_units_are_those_of_the_packages_own_environments():
    noise = exponential("noise", 0.1)
    assert figures._with_unit(Group("khazad_dum, env.width=20", ()), noise, 0) == "noise (cells)"
    assert figures._with_unit(Group("robot", ()), noise, 0) == "noise"
    assert figures._with_unit(Group("belt", ()), beta("velocity", 0.0, 1.0), 0) == "velocity"
    assert data.judged(method("a", probe(), (1.0,))) is None
