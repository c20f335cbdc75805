"""Reports on runs: pooling, numbers, and what is said where something is missing."""

import itertools
import json
import re
import shutil

import matplotlib
import numpy as np
import pytest
from small_runs import rows, trained, without

from roml_jax import config, samplers
from roml_jax.config import Seed
from roml_jax.errors import ConfigError
from roml_jax.evaluate.records import Records
from roml_jax.evaluate.verdict import ONE_SEED
from roml_jax.report import data, figures, page, sections, series, style, verdicts
from roml_jax.report.__main__ import command
from roml_jax.run import cli
from roml_jax.samplers import drawn as spreads


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A method's three seeds in two folders, and one seed of another."""
    place = tmp_path_factory.mktemp("runs")
    return [
        trained(place / "cem", "--seeds", "1", "2"),
        trained(place / "cem2", "--seeds", "3"),
        trained(place / "uniform", "--seeds", "1", "2", sampler="uniform"),
    ]


def finals(folder, name):
    return {row["seed"]: row[f"test/{name}"] for row in rows(folder) if f"test/{name}" in row}


def text_of(html):
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.S)).split())


def test_one_command_makes_a_page_and_its_figures(folders, tmp_path, capsys):
    out = tmp_path / "new" / "all.html"
    assert cli.run(command, [*map(str, folders), "--out", str(out), "--tasks", "24"]) == 0
    html = out.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html)  # nothing from elsewhere
    text = text_of(html)
    titles = "Learning curves, Final performance, Return against the task, Verdict, Differences by task"
    for title in [
        *titles.split(", "),
        "Worst tasks",
        "What the sampler draws",
        "Adaptation",
        "Training return, each method on its own tasks",
        "Configuration",
        "Provenance",
    ]:
        assert title in text
    titles = re.findall(r"<h3>(.*?)</h3>", html)
    assert titles[-3:] == ["Training return, each method on its own tasks", "Configuration", "Provenance"]
    names = {path.name for path in (tmp_path / "new" / "all").iterdir()}
    assert names == {f"{name}.png" for name in ("learning", "final", "tasks", "differences", "sampler",
                                                "adaptation", "training")}  # fmt: skip
    assert "CVaR 0.1 (3 of 24 tasks)" in text
    assert "One seed" not in text
    assert html.count("data:image/png;base64,") == len(names)
    own, theirs = finals(folders[0], "cvar"), finals(folders[2], "cvar")
    own |= finals(folders[1], "cvar")
    assert f"{np.mean(list(own.values())):.3f} [" in text
    difference = np.mean([own[seed] - theirs[seed] for seed in (1, 2)])
    assert f"{difference:+.3f} [" in text
    assert " 3 " in text[text.index("cem (RoML)") :]
    before = html
    assert cli.run(command, [str(folders[0]), "--out", str(out)]) == 2
    assert out.read_text() == before


def test_seeds_of_a_method_are_pooled_and_the_baseline_stands_first(folders):
    (group,) = data.load(folders)
    assert group.env == "probe_memory"
    assert [method.label for method in group.methods] == ["uniform", "cem (RoML)"]
    assert [[seed.seed for seed in method.seeds] for method in group.methods] == [[1, 2], [1, 2, 3]]
    assert page.baseline(group) is group.methods[0]
    assert data.note(group.methods[1]) == ""
    assert data.differences(group) == [("sampler", ["uniform", "cem"])]


def test_other_options_are_another_method_and_other_tasks_another_environment(folders, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folders[1], other)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(re.sub(r"ppo.lr: .*", "ppo.lr: 0.5", text))
    (group,) = data.load([*folders, other])
    lr = re.search(r"ppo.lr: (.*)", text)[1]
    assert [method.label for method in group.methods] == [
        "uniform",
        f"cem (RoML), ppo.lr={float(lr):g}",
        "cem (RoML), ppo.lr=0.5",
    ]


def test_a_seed_given_twice_is_refused(folders, tmp_path):
    shutil.copytree(folders[1], tmp_path / "copy")
    with pytest.raises(ConfigError, match="have the same seed 3 of the same method"):
        data.load([*folders, tmp_path / "copy"])
    with pytest.raises(ConfigError, match="given twice"):
        data.load([folders[0], folders[0]])


def test_a_curve_is_the_mean_over_the_seeds_that_got_so_far(folders, tmp_path):
    short = tmp_path / "cem2"
    shutil.copytree(folders[1], short)
    without(short, "test/")
    kept = [row for row in rows(short) if row["iteration"] <= 4]
    (short / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (group,) = data.load([folders[0], short])
    (method,) = group.methods
    made = series.curve(method, "eval/return_mean")
    assert made.x.tolist() == [512, 1024, 1536, 1920]
    by_seed = [
        dict(zip(*map(np.ndarray.tolist, seed.series("eval/return_mean")), strict=True))
        for seed in method.seeds
    ]
    np.testing.assert_allclose(made.y.mean[0], np.mean([curve[512] for curve in by_seed]))
    np.testing.assert_allclose(made.y.mean[3], np.mean([curve[1920] for curve in by_seed[:2]]))
    assert (made.y.low <= made.y.mean).all()
    assert (made.y.mean <= made.y.high).all()
    assert "seed 3 ends at 0.000512 million frames" in data.note(method)
    assert "not tested: values of the last evaluation" in data.note(method)


def test_what_a_sampler_draws_begins_at_the_prior_and_moves_to_phi(folders):
    (group,) = data.load(folders)
    uniform, cem = group.methods
    family = series.environment(cem).family
    assert series.draws(uniform, family) is None
    drawn = series.draws(cem, family)
    assert drawn.x[0] == 0
    prior = of_prior(family)
    np.testing.assert_allclose(prior.mean[0], 0.5, atol=0.01)  # payer is uniform on [0, 1] under the prior
    # before its first update, a sampler is the prior: the same numbers, not only about the same
    for own, wanted in zip((drawn.mean, drawn.low, drawn.high), prior, strict=True):
        np.testing.assert_array_equal(own[0], wanted[0])
    last = [seed.last("sampler/phi_0") for seed in cem.seeds]
    np.testing.assert_allclose(drawn.by_seed[:, -1, 0], last, atol=0.06)
    assert (drawn.low <= drawn.mean).all()
    assert (drawn.mean <= drawn.high).all()


def of_prior(family):
    prior = spreads.prior(family)
    return prior.spread(prior.phi[None])


def moved(sampler, phis, **options):
    """A method with a seed whose sampler had these parameters (T, p) after 100, 200, ... frames."""
    made = config.make(
        "hopper_dynamics", sampler, **{f"sampler.{name}": value for name, value in options.items()}
    )
    phis = np.asarray(phis, float)
    columns = {"frames": 100.0 * np.arange(1, len(phis) + 1)}
    columns |= {f"sampler/phi_{i}": phi for i, phi in enumerate(phis.T)}
    seed = data.Seed(0, None, 0, columns)
    return data.Method(sampler, sampler, 0.05, made, {}, (seed,))


@pytest.fixture(scope="module")
def widening():
    """DORAEMON and AutoDR over three factors 2^x, x uniform on [-1, 1]: narrow at first, then wide."""
    narrow, wide = [[100.0] * 6, [1.0] * 6], [[0.4] * 3 + [0.6] * 3, [0.0] * 3 + [1.0] * 3]
    doraemon, autodr = moved("doraemon", narrow, success=1.0), moved("autodr", wide, success=1.0)
    return data.Group("hopper_dynamics", (doraemon, autodr, moved("plr", [[0.9, 0.5, 0.5]])))


def test_samplers_that_widen_are_drawn_from_their_narrow_start_to_the_prior(widening):
    family = series.environment(widening.methods[0]).family
    doraemon, autodr, plr = (series.draws(method, family) for method in widening.methods)
    prior = of_prior(family)
    np.testing.assert_allclose(
        [doraemon.low[0], doraemon.high[0]], 2 ** np.array([[-0.09] * 3, [0.09] * 3]), atol=0.01
    )
    np.testing.assert_allclose(
        [doraemon.low[-1], doraemon.high[-1]], [prior.low[0], prior.high[0]], atol=0.03
    )
    np.testing.assert_array_equal([autodr.low[0], autodr.mean[0], autodr.high[0]], 1.0)  # a point
    assert (autodr.low[-1] <= prior.low[0]).all()  # a share of its tasks is at the ends
    assert (autodr.high[-1] >= prior.high[0]).all()
    assert np.isnan(plr.low).all()  # of a buffer, only the mean is known
    assert plr.mean[-1, 0] > 1.6
    np.testing.assert_array_equal(plr.mean[0], prior.mean[0])
    figure = figures.sampler(widening, {"doraemon": doraemon, "autodr": autodr, "plr": plr}, family, prior)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "Tasks drawn: mass", "Tasks drawn: friction", "Tasks drawn: motor",
    ]  # fmt: skip
    assert {text.get_text() for text in figure.axes[0].texts} == {"prior", "doraemon", "autodr", "plr"}


# Linear RGB as people see it who lack red, green or blue cones (Machado, Oliveira and Fernandes 2009).
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip


def seen(colour, deficiency):
    """CIE L*a*b* of a colour under D65, where a distance of 2 is just noticed."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.maximum(np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_samplers_can_be_told_apart_by_colour_or_by_dashes(deficiency):
    names = samplers.names()
    looks = dict(zip(names, style.looks(names), strict=True))
    assert set(looks) == set(style._BY_SAMPLER)
    for a, b in itertools.combinations(names, 2):
        distance = np.linalg.norm(seen(looks[a].colour, deficiency) - seen(looks[b].colour, deficiency))
        assert distance > 15 or looks[a].dash != looks[b].dash, (a, b, distance)
    repeated = style.looks(["cem"] * 28)
    assert len(set(repeated)) == 28
    assert len({look.colour for look in repeated[:7]}) == 7
    assert len(style.looks(["cem"] * 40)) == 40


def test_one_seed_without_evaluations_or_checkpoint_says_so(folders, tmp_path, capsys):
    bare = tmp_path / "run"
    shutil.copytree(folders[1], bare)
    shutil.rmtree(bare / "checkpoint")
    without(bare, "eval/")
    without(bare, "test/")
    assert cli.run(command, [str(bare), "--out", str(tmp_path / "page.html")]) == 0
    text = text_of((tmp_path / "page.html").read_text())
    assert f"One seed per method, so no intervals. {ONE_SEED}" in text
    assert "No run was evaluated more than once during training." in text
    assert "never evaluated" in text
    assert "has no checkpoint yet" in text
    assert "[nan" not in text
    assert {path.stem for path in (tmp_path / "page").iterdir()} == {"training", "sampler"}


def with_options(folder, to, **options):
    """A copy of a run whose saved options are others."""
    shutil.copytree(folder, to)
    text = (to / "config.yaml").read_text()
    for name, value in options.items():
        text, count = re.subn(
            rf"(?m)^{name.replace('__', '.')}: .*$", f"{name.replace('__', '.')}: {value}", text
        )
        assert count == 1
    (to / "config.yaml").write_text(text)
    return to


def compared(section, label):
    """The cells of a method's row of the final table that compare it with the baseline."""
    row = next(row for row in section.table.split("<tr>") if f"<td>{label}</td>" in row)
    return re.findall(r"<td>(.*?)</td>", row)[-3:]


def lengths_of(group):
    env = series.environment(group.methods[0])
    return {method.label: series.tested(method, env) for method in group.methods}


def test_methods_are_compared_on_the_same_tasks_whatever_their_seeds(folders, tmp_path):
    (group,) = data.load([folders[0], with_options(folders[2], tmp_path / "other", eval__seed=7)])
    found, missing = sections._by_task(group, lengths_of(group), 8)
    first, second = found.values()
    np.testing.assert_array_equal(first.tasks, second.tasks)
    assert not missing
    assert "of its own (eval.seed, eval.tasks)" in sections._learning(group).words
    (final,) = sections._final(group, lengths_of(group))
    assert "tested on held-out tasks of their own" in final.words
    (group,) = data.load([folders[0], folders[2]])
    assert "on the same held-out tasks" in sections._learning(group).words


def test_methods_with_other_numbers_of_episodes_are_drawn_and_not_compared(folders, tmp_path):
    short = with_options(folders[2], tmp_path / "short", protocol__test_episodes=1)
    kept = [{k: v for k, v in row.items() if not k.endswith("episode_1")} for row in rows(short)]
    (short / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (group,) = data.load([folders[0], short])
    lengths = lengths_of(group)
    assert sorted(len(test.numbers) for test in lengths.values()) == [1, 2]
    figure = figures.adaptation(group, lengths)
    for axis in figure.axes:
        assert sorted(len(line.get_xdata()) for line in axis.lines) == [1, 2]
    found, (missing,) = sections._by_task(group, lengths, 8)
    assert len(found) == 1
    (final,) = sections._final(group, lengths)
    assert "not compared: cem (RoML)" in final.words
    assert [bool(cell) for cell in compared(final, "cem (RoML)")] == [False] * 3
    (group,) = data.load([folders[0], folders[2]])
    (final,) = sections._final(group, lengths_of(group))
    assert [bool(cell) for cell in compared(final, "cem (RoML)")] == [True] * 3
    assert missing.endswith("is tested on 2 episode(s) of 8 steps and not 1 episode(s) of 8 steps")


def test_a_report_without_rollouts(folders, tmp_path):
    assert cli.run(command, [str(folders[0]), "--out", str(tmp_path / "r.html"), "--tasks", "0"]) == 0
    assert not (tmp_path / "r" / "tasks.png").exists()


def test_figures_say_what_they_show(folders):
    (group,) = data.load(folders)
    held_out, training = figures.learning(group), figures.training(group)
    assert [axis.get_title(loc="left") for axis in held_out.axes] == [
        "Held-out tasks: mean", "Held-out tasks: CVaR 0.1",
    ]  # fmt: skip
    assert training.axes[0].get_title(loc="left") == "Each method's own training tasks"
    for axis in [*held_out.axes, *training.axes]:
        assert axis.get_xlabel() == "training (thousand frames)"
        assert axis.get_ylabel() == "return per episode"
        assert {text.get_text() for text in axis.texts} == {"uniform", "cem (RoML)"}
    final = dict(zip(("mean", "cvar"), figures.final(group).axes, strict=True))
    drawn = [line.get_xdata() for line in final["mean"].lines if len(line.get_xdata()) == 1]
    wanted = [np.mean(list(finals(folders[2], "return_mean").values()))]
    np.testing.assert_allclose(drawn[0], wanted)


def made(returns, seeds, names=("mass", "friction")):
    """Records of returns (R, M) on a grid of four masses and frictions; the heaviest episodes end early."""
    tasks = np.stack(np.meshgrid(*[np.arange(4.0)] * len(names)), axis=-1).reshape(-1, len(names))
    returns = np.asarray(returns, float)[:, :, None]
    length = np.broadcast_to(np.where(tasks[:, 0] == 3, 5, 20)[:, None], returns.shape)
    return Records(
        names, tuple(Seed(seed, {}) for seed in seeds), "last", np.full(len(seeds), 7), (0.1,) * len(seeds),
        "prior", tasks, returns, np.zeros(returns.shape, bool), {}, length, 20,
    )  # fmt: skip


def test_the_verdict_says_how_much_better_where_and_how_often_it_falls(folders):
    (group,) = data.load(folders)
    uniform, cem = (method.label for method in group.methods)
    base = np.arange(16.0)
    records = {uniform: made([base, base + 1], (1, 2)), cem: made([base + 2, base + 3, base + 4], (1, 2, 3))}
    parts = {section.title: section for section in verdicts.sections(group, records)}
    assert list(parts) == ["Verdict", "Differences by task", "Two dimensions of the task", "Worst tasks"]
    rows = [text_of(row) for row in parts["Verdict"].table.split("<tr>")[2:]]
    # alpha 0.1 of 16 tasks: 2 tasks; a quarter of the episodes ends early; 2 is better than 0 and 1
    assert "CVaR 0.1 (2 of 16 tasks)" in parts["Verdict"].table
    assert rows[0] == f"{uniform} 2 8.00 [7.50, 8.50] 1.00 [0.50, 1.50] 25.0 [25.0, 25.0] % 16.2 [16.2, 16.2]"
    assert rows[1] == (
        f"{cem} 3 10.50 [9.50, 11.50] 3.50 [2.50, 4.50] 25.0 [25.0, 25.0] % 16.2 [16.2, 16.2] "
        "100.0 [100.0, 100.0] %"
    )
    (axis, *_) = parts["Differences by task"].figure.axes
    np.testing.assert_allclose(axis.collections[0].get_offsets()[:, 1], 2.0)  # of the common seeds 1 and 2
    shown = {text.get_text() for text in parts["Two dimensions of the task"].figure.axes[0].texts}
    assert {"0.50", "15.50"} <= shown
    assert "<td>0</td><td>0</td><td>0</td><td>0.50</td><td>3.00</td>" in parts["Worst tasks"].table


def test_a_single_seed_is_described_and_not_compared(folders):
    (group,) = data.load(folders)
    uniform, cem = (method.label for method in group.methods)
    base = np.arange(16.0)
    records = {uniform: made([base], (1,)), cem: made([base + 2], (1,))}
    parts = {section.title: section for section in verdicts.sections(group, records)}
    assert ONE_SEED in parts["Verdict"].words
    assert "Differences by task" not in parts
    assert "100.0" not in parts["Verdict"].table


def test_the_page_says_where_its_runs_come_from(folders, tmp_path):
    (group,) = data.load(folders)
    text = text_of(page.provenance_table(group))
    assert text.startswith("folder started version JAX device seeds wall time frames/s outcome ")
    assert text.count("folder started command") == 1
    assert text.count("python -m roml_jax.train --env probe_memory") == 3
    assert text.count("complete") == 3
    old = tmp_path / "old"
    shutil.copytree(folders[1], old)
    (old / "provenance.json").unlink()
    (group,) = data.load([old])
    assert "not recorded in provenance.json" in text_of(page.provenance_table(group))
