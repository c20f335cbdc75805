"""What a run shows while it trains: frames of a seed, time, returns, the tasks drawn, and a plot."""

import io
import json
import re

import numpy as np
import pytest
import small_runs
from rich.console import Console

from roml_jax import config, samplers, tasks, testing, train
from roml_jax.run import plot, programs, progress, shown


def output(terminal, width=80):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def advanced(console, steps, monkeypatch, plot=None, num_seeds=3):
    """The output of calls (seconds of the clock, frames of a seed, evaluated) of a run of 4,000 frames."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.ConsoleProgress(console, 4000, num_seeds, plot=plot) as bar:
        for seconds, frames, evaluated in steps:
            clock[0] = seconds
            bar.advance(frames, lambda at=seconds: f"facts at {at}", evaluated)
    return console.file.getvalue()


def test_lines_count_a_seeds_frames_and_come_every_ten_seconds_and_every_quarter(monkeypatch):
    steps = [
        (2, 100, False),
        (4, 900, True),
        (5, 500, True),
        (16, 500, False),
        (18, 1900, True),
        (20, 100, True),
    ]
    lines = advanced(output(terminal=False), steps, monkeypatch).splitlines()
    assert lines == [
        "  2%  100/4,000 frames per seed, 50/s  2s elapsed, 1m18s left  facts at 2",
        " 25%  1,000/4,000 frames per seed, 250/s  4s elapsed, 12s left  facts at 4",  # a quarter
        " 50%  2,000/4,000 frames per seed, 125/s  16s elapsed, 16s left  facts at 16",  # ten seconds
        " 97%  3,900/4,000 frames per seed, 217/s  18s elapsed, 0s left  facts at 18",  # three quarters
        "100%  4,000/4,000 frames per seed, 200/s  20s elapsed, 0s left  facts at 20",
    ]  # fmt: skip
    (line, *_) = advanced(output(terminal=False), steps, monkeypatch, num_seeds=1).splitlines()
    assert " 100/4,000 frames, 50/s " in line


def test_a_line_in_a_pipe_is_wrapped_at_80_columns(monkeypatch):
    to = output(terminal=False)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    with progress.ConsoleProgress(to, 4000, 3) as bar:
        bar.advance(4000, lambda: "train 1.25  held-out mean 1.5  CVaR 0.05 -0.25  mass 1.00 -> 1.42")
    lines = to.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines).split()[-5:] == ["-0.25", "mass", "1.00", "->", "1.42"]


def test_waiting_for_a_compiler_counts_neither_for_the_speed_nor_for_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock, to = progress.Clock(50.0), output(terminal=False)
    with progress.ConsoleProgress(to, 4000, clock=clock) as bar:
        now[0] = 10.0
        with clock.stopped():
            now[0] = 70.0
            assert clock.seconds() == 60.0
        now[0] = 80.0
        bar.advance(2000, str)
    assert "100/s  1m20s elapsed, 20s left" in to.file.getvalue()


def test_the_seconds_of_a_run_leave_out_what_the_compiler_takes(tmp_path, monkeypatch):
    real, late = progress.time.monotonic, [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: real() + late[0])
    begin = programs.Tests.begin

    def slow(tests):
        late[0] += 1000.0
        return begin(tests)

    monkeypatch.setattr(programs.Tests, "begin", slow)
    assert train.main([*small_runs.TINY, "--sampler", "uniform", "--out", str(tmp_path / "run")]) == 0
    assert late[0] > 1000.0
    assert all(row["seconds"] < 1000.0 for row in small_runs.rows(tmp_path / "run"))
    (session,) = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert session["training_seconds"] < 1000.0 < session["wall_seconds"]


def test_a_terminal_has_a_bar_within_its_width_and_keeps_the_evaluations(monkeypatch):
    steps = [(2, 100, False), (4, 900, True), (9, 3000, True)]
    text = advanced(output(terminal=True), steps, monkeypatch)
    text = re.sub(r"\x1b\[[\d;?]*\w", "", text)
    assert "100% ━━━━━━" in text
    assert "facts at 4" in text  # printed above the display
    assert max(map(len, text.splitlines())) <= 80
    assert "⣀" not in text
    drawn = [plot.Line("mean", "cyan", [0, 4000], [0.0, 1.0])]
    text = advanced(output(True), steps, monkeypatch, lambda width: plot.draw(drawn, 4000, "4,000", width))
    assert re.search(r"┤ .*[\u2801-\u28ff]+ mean", text)


@pytest.mark.parametrize("iterations", [*range(1, 40), 161, 1000, 10**6])
def test_every_run_is_evaluated_at_least_four_times(iterations):
    for interval in (None, 1, 7, 10**9):
        every = config.EvalConfig(interval=interval).every(16, iterations)
        at = {*range(every, iterations + 1, every), iterations}
        assert len(at) >= min(4, iterations)
        assert every <= (interval or 160)
    assert config.EvalConfig(interval=0).every(16, iterations) == 0


FACTORS = tasks.log_beta(("mass", "friction", "motor", "damping", "length"))


def drawn(name, phi, family=FACTORS, **options):
    sampler = testing.make_sampler(name, family, 0.05, **options)
    return shown.Tasks(sampler, family).text(np.array(phi, np.float32))


def test_tasks_are_named_where_their_mean_moved():
    assert drawn("cem", [[0.5] * 5]) == ""  # the prior: factors 2^x, x uniform on [-1, 1], mean 1.5 / ln 4
    assert drawn("uniform", [[0.5] * 5]) == ""
    (name, before, now) = re.fullmatch(
        r"(\w+) (\d\.\d\d) -> (\d\.\d\d)", drawn("cem", [[0.9, *[0.5] * 4]])
    ).groups()
    assert name == "mass"
    assert abs(float(before) - 1.082) < 0.02
    assert 1.6 < float(now) < 1.85
    # the mean over the seeds; the dimension that moved the most comes first, and only three are named
    text = drawn("cem", [[0.3, 0.5, 0.2, 0.9, 0.7]] * 2)
    assert re.fullmatch(r"damping 1.\d\d -> 1.\d\d, motor .*, (mass|length) .* and 1 more", text)
    velocity = tasks.beta("velocity", 0.0, 7.0)
    assert re.fullmatch(
        r"velocity 3\.\d\d -> 4\.\d\d", drawn("plr", [[0.65]], velocity)
    )  # phi is a mean of u
    assert "-> 1.00, " in drawn("doraemon", [[100.0] * 10])  # starts narrow, at the middle
    assert re.search(r"-> 0\.5\d", drawn("autodr", [[*[0.0] * 5, *[0.1] * 5]]))
    assert drawn("cem", np.zeros((0, 5))) == ""


def test_a_sampler_of_ones_own_without_known_parameters_shows_no_tasks():
    sampler = samplers.TaskSampler(
        lambda key: (), None, None, phi=lambda state: np.zeros(3, np.float32)
    )  # fmt: skip
    assert shown.Tasks(sampler, FACTORS).text(np.zeros((1, 3), np.float32)) == ""


def test_the_facts_are_means_over_the_seeds_and_the_plot_has_the_whole_run():
    made = config.make("probe_risk", "uniform", alpha=0.1, seeds=[1, 2])
    family = tasks.beta("x", 0.0, 1.0)
    before = [{"seed": 1, "frames": 0, "train/return_mean": -9.0}]
    show = shown.Shown(made, shown.Tasks(samplers.make("uniform", family, 0.1), family), 1000, before)
    show.trained(
        500,
        [
            {"train/return_mean": -3.0, "sampler/phi_0": 0.5},
            {"train/return_mean": -1.0, "sampler/phi_0": 0.5},
        ],
    )
    assert show.facts() == "train -2"
    show.evaluated(500, [{"return_mean": -2.5, "cvar": -4.0}, {"return_mean": -1.5, "cvar": -5.0}])
    assert show.facts() == "train -2  held-out mean -2  CVaR 0.1 -4.5"
    show.trained(600, [{"train/stopped": 1.0}, {"train/return_mean": -1.0, "sampler/phi_0": 0.5}])
    assert show.facts().endswith("  1 of 2 seeds diverged")
    text = show.plot(60).plain.splitlines()
    assert text[0].startswith("-1 ┤")  # the highest return
    assert text[9].startswith("-9 ┤")  # from before the run was resumed
    assert {name for name in ("train", "mean", "CVaR 0.1") if any(name in line for line in text)} == {
        "train", "mean", "CVaR 0.1",
    }  # fmt: skip
    assert text[10].endswith("1,000 frames")
    assert max(map(len, text)) <= 60


def test_a_plot_has_a_line_where_its_points_are():
    rising = plot.Line("up", "red", [0.0, 10.0], [0.0, 1.0])
    falling = plot.Line("down", "blue", [0.0, 5.0, 7.0], [1.0, 0.0, np.nan])
    lines = plot.draw([rising, falling], 10.0, "10", 40, height=5).plain.splitlines()
    left = min(i for i, line in enumerate(lines[:5]) if line[3] not in " ")
    assert left == 0  # the falling line begins at the top, the rising one at the bottom
    assert lines[4][3] != " "
    assert lines[0].endswith(" up")
    assert lines[4].endswith(" down")
    inside = lines[2][3:-1]
    assert len(inside.strip(" up")) < len(inside)
    assert plot.draw([plot.Line("none", "red", [], [])], 1.0, "1", 40).plain.startswith("the plot begins")
    level = plot.draw([plot.Line("level", "red", [0.0, 1.0], [2.0, 2.0])], 1.0, "1", 40).plain.splitlines()
    assert (level[0][:5], level[9][:5]) == ("2.5 ┤", "1.5 ┤")


def test_a_plot_needs_a_terminal_that_shows_it():
    assert progress.can_plot(output(terminal=True))
    assert not progress.can_plot(output(terminal=False))
    ascii_only = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), force_terminal=True)
    assert not progress.can_plot(ascii_only)
