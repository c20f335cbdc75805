"""The paper's experiments: what is run, what is kept of it, and the tables made from that alone."""

import json

import numpy as np
import pytest
from rich.console import Console
from small_runs import trained

from benchmarks.reproduce import __main__ as reproduce
from benchmarks.reproduce import campaign, protocol, published, raw, tables
from roml_jax import config, risk
from roml_jax.run import cli, folder, saved

NOISE = np.linspace(0.01, 0.5, 100)[:, None].astype(np.float32)


def write_result(place, sampler, seeds, returns, routes):
    """A compact result as a finished group leaves it."""
    made = config.make("khazad_dum", sampler, seeds=seeds, out=place)
    folder.make(place, "", config.to_mapping(made))
    rows = []
    for at, kind in ((1e6, "eval"), (2e6, "eval"), (2e6, "test")):
        for seed, own in zip(seeds, returns, strict=True):
            values = {f"{kind}/return_mean": float(own.mean()), f"{kind}/cvar": float(own.min())}
            rows.append({"seed": seed, "iteration": int(at), "frames": at, "seconds": 360.0, **values})
    (place / folder.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.savez(place / raw.TASKS, seeds=np.array(seeds), tasks=NOISE, returns=returns, routes=routes)


@pytest.fixture
def results(tmp_path):
    """Two methods of six seeds in two groups; seed by seed RoML is 0.5 better on the noisiest tasks."""
    for start in (0, 3):
        seeds = list(range(start, start + 3))
        base = np.random.default_rng(start).normal(-0.2, 0.01, (3, 100)).astype(np.float32)
        base[:, -5:] = -1 - 0.01 * np.arange(start, start + 3)[:, None]
        better = base.copy()
        better[:, -5:] += 0.5 + 0.001 * np.arange(3)[:, None]
        routes = np.zeros((3, 100, 4), np.uint8)
        routes[:, -20:, -1] = 2  # those that fall do so in the last episode
        write_result(tmp_path / "khazad_dum" / "varibad" / f"seeds_{start}", "uniform", seeds, base, routes)
        write_result(
            tmp_path / "khazad_dum" / "roml" / f"seeds_{start}", "cem", seeds, better, 0 * routes + 1
        )
    return tmp_path


def test_groups_take_methods_in_turn_and_leave_no_seed_out():
    made = list(protocol.groups("khazad_dum", ["varibad", "roml"], 7, "paper"))
    assert [(group.method, group.seeds) for group in made] == [
        ("varibad", (0, 1, 2, 3, 4)), ("roml", (0, 1, 2, 3, 4)), ("varibad", (5, 6)), ("roml", (5, 6)),
    ]  # fmt: skip
    assert len({group.folder for group in made}) == 4
    assert made[0]._replace(frames="5e6").folder.parts[0] == f"{made[0].env}-5e6"


@pytest.mark.parametrize("name", [*protocol.METHODS, *(f"roml+{variant}" for variant in protocol.VARIANTS)])
def test_every_method_is_a_run_that_the_command_line_takes(name):
    env = {"pearl_small": "cheetah_vel", "roml_pearl_small": "cheetah_vel"}.get(name, "khazad_dum")
    env = "cheetah_mass" if "reference_contacts" in name else env
    (group,) = protocol.groups(env, [name], 2, "2e6")
    made = config.parse(group.options)
    method = protocol.METHODS[name.split("+")[0]]
    assert (made.sampler, made.agent) == (method.sampler, method.agent)
    assert (made.frames, made.seeds) == (2e6, (0, 1))


def test_variants_change_what_they_say_and_add_up():
    (group,) = protocol.groups("khazad_dum", ["varibad+reset+credit"], 1, "paper")
    made = config.parse(group.options)
    assert made.protocol.boundary == "reset"
    assert config.to_mapping(made)["ppo.credit"] == "task"


def test_groups_can_be_smaller():
    made = list(protocol.groups("cheetah_mass", ["varibad", "roml"], 3, "2e6", 2))
    assert [group.seeds for group in made] == [(0, 1), (0, 1), (2,), (2,)]


def test_seeds_with_a_result_in_a_group_of_another_size_are_left_out(results, tmp_path, monkeypatch):
    trained, written = [], []
    monkeypatch.setattr(campaign, "_train", lambda group, *_: trained.append(group.seeds) or True)
    monkeypatch.setattr(raw, "write", lambda _, folder: written.append(folder.name))
    groups = protocol.groups("khazad_dum", ["roml"], 9, "paper", 4)  # the results have the seeds 0 to 5
    assert campaign.run(groups, tmp_path / "work", results, None, Console(quiet=True))
    assert trained == [(6, 7), (8,)]
    assert written == ["seeds_6-7", "seeds_8-8"]
    (whole,) = protocol.groups("khazad_dum", ["roml"], 5, "paper")
    rest = whole.without({2, 3})
    assert rest.folder.name == "seeds_0_1_4"  # not the folder of the whole group, which may have begun


def test_every_group_of_the_campaign_is_a_run_that_the_command_line_takes():
    made = list(protocol.campaign())
    assert len({group.folder for group in made}) == len(made)
    for options in {(group.env, group.method): group.options for group in made}.values():
        config.parse(options)
    held = {(group.method, seed) for group in made for seed in group.seeds if group.frames == "paper"}
    assert {("varibad+replay10000", 7), ("roml+replay10000", 29)} <= held


@pytest.mark.parametrize(
    ("name", "baseline"),
    [
        ("varibad", None), ("varibad+reference_contacts", None), ("roml", "varibad"),
        ("roml+reference_contacts", "varibad+reference_contacts"), ("roml+reset", "roml"),
        ("roml+reset+replay10000", "roml+replay10000"), ("roml_rl2", "rl2"),
    ],
)  # fmt: skip
def test_methods_are_compared_with_those_of_the_same_settings(name, baseline):
    assert protocol.baseline(name) == baseline


@pytest.mark.parametrize(
    ("iteration", "text"),
    [
        (320, "772 (at 320)"),
        (312, "772 (at 320)"),
        (100, ""),
        (900, "1072 (between 781 and 1000)"),
        (9000, ""),
    ],
)
def test_published_figures_are_of_the_same_iteration(iteration, text):
    assert published.at_iteration("cheetah_mass", "varibad", "mean", iteration) == text


def test_a_group_that_another_process_works_on_is_left_to_it(results, tmp_path, monkeypatch):
    (group,) = protocol.groups("khazad_dum", ["cvar_ml"], 3, "paper")
    trained = []
    monkeypatch.setattr(campaign, "_train", lambda *given: trained.append(given) or True)
    monkeypatch.setattr(raw, "write", lambda *given: None)
    console = Console(quiet=True)
    with campaign.claimed(tmp_path / "work" / group.folder) as mine:
        assert mine
        assert campaign.run([group], tmp_path / "work", results, None, console)
        assert not trained
    assert campaign.run([group], tmp_path / "work", results, None, console)
    assert len(trained) == 1


@pytest.mark.slow
def test_every_update_of_the_cross_entropy_method_is_kept(tmp_path):
    run = trained(tmp_path / "run", "--seeds", "1", "2")
    loaded = saved.load(run)
    updates = raw._updates(loaded)
    rows = folder.read_metrics(run / folder.METRICS)
    made = int(max(row.get("sampler/updates", 0) for row in rows))
    assert made > 2
    assert updates.phi.shape[:2] == updates.q_int.shape == updates.q_ref.shape == (2, made)
    family = loaded.parts.env.family
    np.testing.assert_array_equal(updates.phi[:, 0], np.tile(family.proposal.phi0, (2, 1)))  # the prior
    assert np.isfinite(updates.q_int).all()
    assert (updates.phi[:, 1:] != updates.phi[:, :-1]).any()


def test_seeds_of_all_groups_are_pooled_and_the_baseline_is_first(results):
    base, ours = tables.load(results / "khazad_dum")
    assert (base.name, ours.name) == ("varibad", "roml")
    assert base.tested.seeds.tolist() == list(range(6))
    assert base.hours == pytest.approx(0.2)
    worst = {seed: float(risk.cvar(base.tested.returns[seed], 0.01)) for seed in range(6)}
    assert base.figures("cvar") == worst


def test_the_tables_say_what_the_results_are(results):
    text = tables.tables("khazad_dum", tables.load(results / "khazad_dum"))
    difference = next(line for line in text.splitlines() if "RoML - VariBAD | CVaR" in line)
    assert "| 6 | 0.501 [0.500, 0.502] | 0.031 |" in difference  # the least p that six pairs can have
    assert "| VariBAD | 6 | 2e6 |" in text
    assert "-0.444 [-0.467, -0.426]" in text  # published
    assert "| VariBAD | all | 80.0% | 0.0% | 20.0% | 0.0% |" in text
    assert "| VariBAD | 0.406 to 0.500 | 0.0% | 0.0% | 100.0% | 0.0% |" in text


def test_differences_late_in_training_are_of_the_last_third_of_evaluations(results):
    for name, gain in (("varibad", 0.0), ("roml", 0.25)):
        for group in (results / "khazad_dum" / name).iterdir():
            rows = folder.read_metrics(group / folder.METRICS)
            tests = [row for row in rows if "test/cvar" in row]
            cvars = [-9, -9, -9, gain, gain + 0.5]  # the last third, rounded up: two of five
            evals = [
                {**rows[0], "seed": row["seed"], "eval/cvar": value, "eval/return_mean": 0.0}
                for value in cvars for row in tests
            ]  # fmt: skip
            text = "".join(json.dumps(row) + "\n" for row in [*evals, *tests])
            (group / folder.METRICS).write_text(text)
    base, ours = tables.load(results / "khazad_dum")
    assert base.figures("late") == dict.fromkeys(range(6), 0.25)
    assert ours.figures("late") == dict.fromkeys(range(6), 0.5)
    assert "| RoML - VariBAD | CVaR 0.01, late validation | 6 | 0.250 [" in tables.paired_table([base, ours])


def test_a_variant_is_compared_with_its_method_and_kept_out_of_the_rest(results, tmp_path):
    for start in (0, 3):
        base = raw.read(results / "khazad_dum" / "roml" / f"seeds_{start}")
        write_result(
            results / "khazad_dum" / "roml+reset" / f"seeds_{start}", "cem", base.seeds.tolist(),
            base.returns + np.float32(0.25) + 0.01 * base.seeds[:, None].astype(np.float32), base.routes,
        )  # fmt: skip
    found = tables.load(results / "khazad_dum")
    assert [result.name for result in found] == ["varibad", "roml", "roml+reset"]
    text = tables.tables("khazad_dum", found)
    (row,) = (line for line in text.splitlines() if "reset" in line)
    assert row.startswith("| RoML, reset | 6 | 0.0")
    assert "| 0.275 [0.262, 0.288] | 0.031 |" in row  # than RoML
    assert "| 0.776 [0.762, 0.790] | 0.031 |" in row  # than VariBAD
    assert tables.tables("khazad_dum", found[2:]) == ""
    assert tables.draw("khazad_dum", found[2:], tmp_path / "images") == []
    drawn = tables.draw("khazad_dum", found, tmp_path / "images")
    without = tables.draw("khazad_dum", found[:2], tmp_path / "without")
    assert [a.read_bytes() for a in drawn] == [b.read_bytes() for b in without]


def test_robust_methods_of_other_agents_are_compared_with_their_own(results):
    for name in ("rl2", "roml_rl2"):
        sampler = protocol.METHODS[name].sampler
        like = raw.read(results / "khazad_dum" / ("roml" if "roml" in name else "varibad") / "seeds_0")
        write_result(
            results / "khazad_dum" / name / "seeds_0", sampler, [0, 1, 2], like.returns - 1, like.routes
        )
    text = tables.paired_table(tables.load(results / "khazad_dum"))
    assert "| RoML-RL2 - RL2 | CVaR 0.01 | 3 | 0.501 [" in text
    assert "RL2 - VariBAD" not in text


def test_a_setting_is_compared_with_the_method_without_it(results):
    like = raw.read(results / "khazad_dum" / "roml" / "seeds_0")
    write_result(
        results / "khazad_dum" / "roml+replay10000" / "seeds_0",
        "cem",
        [0, 1, 2],
        like.returns - 1,
        like.routes,
    )
    text = tables.paired_table(tables.load(results / "khazad_dum"))
    assert "| RoML, replay10000 - RoML | mean return | 3 | -1.000 [-1.000, -1.000] |" in text
    assert "RoML, replay10000 - VariBAD" not in text


def test_a_page_gets_the_tables_of_its_marks_only(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin a -->\nold\n<!-- end a -->\nafter\n")
    assert not tables.fill(page, "b", "new")
    assert tables.fill(page, "a", r"new \1")
    assert page.read_text() == "before\n<!-- begin a -->\n\nnew \\1\n\n<!-- end a -->\nafter\n"


def test_figures_are_drawn_from_the_results_alone(results, tmp_path):
    drawn = tables.draw("khazad_dum", tables.load(results / "khazad_dum"), tmp_path / "images")
    assert {path.stem.rsplit("_", 1)[1] for path in drawn} >= {"learning", "final", "tasks"}
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_curves_are_thinned_to_evaluations_and_tests():
    rows = [
        {"seed": 0, "iteration": i, "frames": i, "seconds": i, "ppo/loss": 1.0, "train/return": 0.123456789}
        for i in range(1, 1001)
    ]
    rows += [
        {"seed": 0, "iteration": i, "frames": i, "seconds": i, "eval/cvar": 0.5} for i in range(10, 1001, 10)
    ]
    rows += [{"seed": 0, "iteration": 1000, "frames": 1000, "seconds": 1000, "test/cvar": 0.5}]
    kept = raw._thinned(rows, 1)
    assert not any("ppo/loss" in row for row in kept)
    assert sum("eval/cvar" in row for row in kept) == 40
    assert kept[-1]["test/cvar"] == 0.5
    assert {row["train/return"] for row in kept if "train/return" in row} == {0.123457}


def test_what_has_a_result_is_not_trained_again_and_no_time_is_none(results, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("it trains")

    monkeypatch.setattr(campaign, "_train", refuse)
    groups = list(protocol.groups("khazad_dum", ["roml"], 3, "paper", 2))  # of results by three
    assert campaign.run(groups, tmp_path / "work", results, None, None)
    (group,) = protocol.groups("khazad_dum", ["cvar_ml"], 3, "paper")
    assert not campaign.run([group], tmp_path / "work", results, 0.0, None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--env", "kazad_dum"], "unknown environment 'kazad_dum'; did you mean 'khazad_dum'?"),
        (["--methods", "romm"], "unknown method 'romm'; did you mean 'roml'?"),
        (["--methods", "roml+rest"], "unknown variant 'rest'; did you mean 'reset'?"),
        (["--frames", "many"], "--frames must be paper or a number, got 'many'"),
        (["--seeds", "0"], "must be at least 1, got 0"),
        (["--tables", "--results", "nowhere"], "nowhere has no results yet"),
    ],
)
def test_wrong_input_is_one_line(arguments, expected, capsys, monkeypatch):
    def refuse(*_):
        raise AssertionError("it trains")

    monkeypatch.setattr(campaign, "run", refuse)
    assert cli.run(reproduce.command, arguments) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1
