"""The picture of Khazad-Dum says what happened."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.colors import to_hex

from roml_jax.envs.khazad_dum import KhazadDum
from roml_jax.envs.khazad_dum_figure import plot_map

BLUE, GREEN, VERMILLION, PURPLE = "#0072b2", "#009e73", "#d55e00", "#cc79a7"
SHORT = [(2.0, y) for y in range(2, 8)]
LONG = [(2.0, 2.0), (8.0, 2.0), (8.0, 4.0), (8.0, 6.0), (3.0, 6.0), (2.0, 7.0)]
FALL = [(2.0, 2.0), (2.0, 3.0), *[(3.0, 3.0)] * 4]
STAY = [(2.0, 2.0)] * 6


def lines(axis):
    """Trajectories drawn on a panel, by colour."""
    return {
        to_hex(drawn.get_colors()[0]): [segment.tolist() for segment in drawn.get_segments()]
        for drawn in axis.collections
        if hasattr(drawn, "get_segments")
    }


def test_trajectories_are_drawn_in_the_colour_of_their_outcome():
    figure = plot_map(KhazadDum(), {"one": [SHORT, LONG, FALL, STAY], "two": [SHORT, SHORT, SHORT, FALL]})
    one, two = figure.axes
    as_lists = lambda *walks: [[list(point) for point in walk] for walk in walks]  # noqa: E731
    assert lines(one) == {
        BLUE: as_lists(SHORT),
        GREEN: as_lists(LONG),
        VERMILLION: as_lists(FALL),
        PURPLE: as_lists(STAY),
    }
    assert lines(two) == {BLUE: as_lists(SHORT, SHORT, SHORT), VERMILLION: as_lists(FALL)}
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["one", "two"]
    assert "75% short, 25% fall" in [text.get_text() for text in two.texts]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:4] == [
        "goal over the narrow bridge",
        "goal over the wide bridge",
        "fallen",
        "not at the goal in time",
    ]


def test_a_row_for_each_noise_with_its_circle_to_scale():
    figure = plot_map(KhazadDum(), {"one": [[SHORT], [FALL]]}, noise=(0.1, 0.4))
    above, below = figure.axes
    assert lines(above).keys() == {BLUE}
    assert lines(below).keys() == {VERMILLION}
    assert [patch.radius for axis in figure.axes for patch in axis.patches if hasattr(patch, "radius")] == [
        0.1,
        0.4,
    ]
    assert "noise 0.4: 100% fall" in [text.get_text() for text in below.texts]


@pytest.mark.parametrize(
    ("trajectories", "noise", "said"),
    [
        ({}, None, "at least one policy"),
        ({"one": SHORT}, 0.1, r"trajectories of 'one' must have shape \(episodes, steps, 2\), got \(6, 2\)"),
        ({"one": [SHORT]}, (0.1, 0.2), r"shape \(2, episodes, steps, 2\), got \(1, 6, 2\)"),
        ({"one": [[SHORT]]}, (0.1, 0.2), r"shape \(2, episodes, steps, 2\), got \(1, 1, 6, 2\)"),
    ],
)
def test_wrong_shapes_are_one_line(trajectories, noise, said):
    with pytest.raises(ValueError, match=said):
        plot_map(KhazadDum(), trajectories, noise)


def test_the_environment_does_not_import_matplotlib():
    code = "import sys, roml_jax; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_draws(tmp_path, monkeypatch, capsys):
    out = tmp_path / "folder" / "map.png"
    example = Path(__file__).parents[2] / "examples" / "khazad_dum_map.py"
    monkeypatch.setattr(sys, "argv", ["khazad_dum_map.py", "--out", str(out), "--width", "8"])
    runpy.run_path(str(example), run_name="__main__")
    assert out.read_bytes().startswith(b"\x89PNG")
    assert out.stat().st_size > 10_000
    monkeypatch.setattr(sys, "argv", ["khazad_dum_map.py", "--width", "7"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(example), run_name="__main__")
    assert left.value.code == 2
    assert "env.width must be at least 8, got 7" in capsys.readouterr().err
