"""The comparison of samplers: its protocol, its numbers on results made by hand, and its command."""

import json

import numpy as np
import pytest

from benchmarks import sampler_cost
from benchmarks.samplers import __main__ as comparison
from benchmarks.samplers import figures, protocol, summary, tables, training
from roml_jax import samplers
from roml_jax.errors import ConfigError

BED = protocol.BEDS["khazad_dum"]


def result(returns, alpha=0.5):
    """A result with returns (seeds, tasks) of one dimension of tasks."""
    returns = np.asarray(returns, float)
    seeds, tasks = returns.shape
    drawn = np.broadcast_to(np.array([0.1, 0.5, 0.9])[None, None, :, None], (seeds, 3, 3, 1))
    about = {"alpha": alpha, "minutes": 1.0, "episodes": 2, "seeds": seeds}
    return training.Result(
        np.linspace(0, 1, tasks)[:, None], returns, np.array([0, 1e5, 2e5]), np.zeros((seeds, 3)),
        np.zeros((seeds, 3)), drawn, ("noise",), about,
    )  # fmt: skip


@pytest.fixture
def results():
    """Two seeds and four tasks: cem gains 1 on the worst half of the tasks and loses 1 on the others."""
    uniform = np.array([[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]])
    return {
        "uniform": result(uniform),
        "cem": result(uniform + np.array([1.0, 1.0, -1.0, -1.0])),
        "plr": result(uniform - 1.0),
    }


def test_every_sampler_is_compared_and_every_bed_is_a_configuration():
    assert set(protocol.OPTIONS) | {"cem_weighted"} == set(samplers.names())
    assert "cem_weighted" in protocol.IDEAS
    for bed in protocol.ALL_BEDS.values():
        for seeds in bed.groups:
            made = training.configure(bed, "cem", None, seeds)
            assert (made.frames, made.seeds) == (bed.frames, tuple(seeds))
        assert [seed for seeds in bed.groups for seed in seeds] == list(range(bed.seeds))
    regression = training.configure(protocol.BEDS["sine"], "plr", None, range(1))
    assert regression.sampler_options.score == "regret"  # maml has no critic
    assert training.configure(BED, "plr", None, range(1)).sampler_options.score == "value_loss"


def test_thresholds_are_quantiles_of_the_scores_of_uniform():
    uniform = np.array([[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]])  # means 1, 2, 3, 4
    assert protocol.thresholds(BED, uniform, episodes=3) == (1.75 * 3, 2.5 * 3)
    assert protocol.thresholds(protocol.BEDS["sine"], uniform, episodes=2) == (1.75, 2.5)
    options = training.configure(BED, "autodr", (-1.5, -0.5), range(1)).sampler_options
    assert (options.failure, options.success) == (-1.5, -0.5)
    with pytest.raises(ValueError, match="run uniform first"):
        protocol.options(BED, "doraemon", None)


def test_differences_are_paired_by_seed(results):
    rows = {row.sampler: row for row in summary.rows(results, BED.baselines)}
    assert rows["uniform"].mean.mean == pytest.approx(3.5)
    assert rows["uniform"].cvar.mean == pytest.approx(1.5)  # of 0, 1 and of 2, 3
    gain = rows["cem"].cvar_gain["uniform"]
    assert (gain.mean, gain.low, gain.high) == pytest.approx((1.0, 1.0, 1.0))  # the same on both seeds
    assert rows["cem"].mean_gain["uniform"].mean == pytest.approx(0.0)
    assert rows["plr"].cvar_gain["cem"].mean == pytest.approx(-2.0)
    assert rows["plr"].worst.mean == pytest.approx(0.0)
    assert rows["cem"].improves.mean == pytest.approx(0.75)  # 1.5, 3.5 against 0.5, 2.5
    assert "uniform" not in rows["uniform"].cvar_gain


def test_ranks_are_averaged_over_beds_and_ties_share_a_rank(results):
    both = {"khazad_dum": results, "sine": results | {"cem": results["plr"]}}
    ranks = summary.ranks(both, "cvar")
    assert ranks["cem"].mean == pytest.approx((1 + 2.5) / 2)
    assert ranks["plr"].mean == pytest.approx((3 + 2.5) / 2)
    assert ranks["uniform"].mean == pytest.approx((2 + 1) / 2)
    assert ranks["cem"].low <= ranks["cem"].mean <= ranks["cem"].high
    del both["sine"]["plr"]
    assert "plr" not in summary.ranks(both, "cvar")  # only samplers with a result on every bed


def test_tables_and_figures_say_what_is_better(results, tmp_path):
    beds, found = {"khazad_dum": BED}, {"khazad_dum": results}
    lead = tables.lead_table(beds, found)
    assert "| `cem` | 1.0" in lead
    assert "(better)" in next(line for line in lead.splitlines() if "`cem`" in line)
    assert "(worse)" in next(line for line in lead.splitlines() if "`plr`" in line)
    text = tables.bed_table(BED, results, {"oracle": "needs one dimension"})
    assert "**+1.000 [+1.000, +1.000]**" in text
    assert text.endswith("`oracle` is refused here: needs one dimension")
    assert [path.name for path in figures.draw(beds, found, tmp_path)] == [
        "samplers_gains.png", "samplers_tasks_khazad_dum.png",
    ]  # fmt: skip


def test_a_result_is_read_as_written_and_a_refusal_is_kept(results, tmp_path):
    def path(bed, sampler):
        return training.path(tmp_path, bed, sampler, protocol.BEDS[bed].groups[0])

    training.write(path("khazad_dum", "cem"), results["cem"])
    again = training.read(tmp_path, "khazad_dum", "cem")
    np.testing.assert_array_equal(again.returns, results["cem"].returns)
    assert again.names == ("noise",)
    refused = training.attempt(protocol.BEDS["sine"], "oracle", None, range(1), print)
    assert "needs one task dimension" in refused
    training.write(path("sine", "oracle"), refused)
    assert training.read(tmp_path, "sine", "oracle") is None
    assert training.refusal(tmp_path, "sine", "oracle") == refused
    assert json.loads(path("sine", "oracle").read_text()) == {"refused": refused}


def test_groups_of_seeds_are_one_result_once_all_are_there(results, tmp_path):
    bed, groups = "khazad_dum_ideas", protocol.IDEA_BEDS["khazad_dum_ideas"].groups
    assert groups == [range(10), range(10, 20)]
    for seeds, name in zip(groups, ("uniform", "cem"), strict=True):
        assert training.read(tmp_path, bed, "pdts") is None
        training.write(training.path(tmp_path, bed, "pdts", seeds), results[name])
    assert {path.name for path in (tmp_path / bed).glob("*.json")} == {"pdts-0.json", "pdts-10.json"}
    whole = training.read(tmp_path, bed, "pdts")
    assert whole.about["seeds"] == 4
    both = np.concatenate([results["uniform"].returns, results["cem"].returns])
    np.testing.assert_array_equal(whole.returns, both)
    assert (whole.tasks.shape, whole.drawn.shape[0]) == ((4, 1), 4)


@pytest.mark.slow
def test_a_sampler_is_trained_tested_and_asked_for_its_tasks():
    small = {"chunk": 5, "eval.tasks": 8, "eval.test_tasks": 12, "sampler.batch_size": 20}
    bed = protocol.BEDS["sine"]._replace(seeds=2, frames=4000, options=small)
    said = []
    made = training.train(bed, "cem", None, range(2), said.append)
    assert made.returns.shape == (2, 12)
    assert made.tasks.shape == (12, 3)
    assert made.frames.tolist() == [400 * i for i in range(11)]  # ten iterations of 400 frames
    assert made.drawn.shape == (2, 11, 3, 3)
    assert (np.diff(made.drawn, axis=2) >= 0).all()  # 10 %, 50 % and 90 % quantiles
    assert np.abs(np.diff(made.drawn[:, :, 1], axis=1)).max() > 0.01
    assert len(said) == 10


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (comparison.command, ["--beds", "hoper_multitask"], "hopper_multitask"),
        (comparison.command, ["--samplers", "cm"], "cem"),
        (sampler_cost.command, ["--samplers", "oracle"], "sampler"),
    ],
)
def test_a_wrong_name_is_one_line(command, arguments, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        command(arguments)
    assert "\n" not in str(caught.value)


def test_the_cost_of_samplers_is_measured(monkeypatch):
    monkeypatch.setattr(sampler_cost, "_whole_iteration", lambda: (lambda: np.zeros(1), 10))
    made = sampler_cost.measure(["uniform", "gdrm"], [4, 32], 1, comparison.Console(quiet=True))
    assert all(value > 0 for each in made["samplers_ms"].values() for value in each.values())
    made["whole_iteration_ms"] = 2 * made["samplers_ms"]["gdrm"]["32"]
    assert sampler_cost.table(made).row_count == 2
    assert list(sampler_cost.table(made).columns[-1].cells)[1] == "50.0%"
