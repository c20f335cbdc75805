"""The comparison of one device with a device per core."""

import pytest

from benchmarks import seeds, throughput
from roml_jax.errors import ConfigError


def test_every_round_measures_both_in_turn_and_ratios_are_of_one_round(monkeypatch):
    measured, speeds = [], iter([100.0, 130.0, 200.0, 300.0])

    def speed(env, options, **_):
        measured.append((env, options[0], options[1]))
        return {"layers": {"whole iteration": {"frames_per_s": next(speeds)}}}

    monkeypatch.setattr(throughput, "in_own_process", speed)
    result = seeds.measure([("khazad_dum", 2)], 2, seeds.Console(quiet=True))
    assert measured == [("khazad_dum", "seeds=[0, 1]", f"mesh={mesh}") for mesh in ("none", "auto")] * 2
    assert result["frames_per_s"]["khazad_dum:2"]["ratio"] == pytest.approx([1.3, 1.5])
    assert seeds.table(result).row_count == 1


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("cheetah_mas:4", "cheetah_mass"),
        ("cheetah_mass:1", "two seeds or more"),
        ("cheetah_mass", "ENV:SEEDS"),
    ],
)
def test_a_wrong_case_is_one_line(case, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        seeds.command(["--cases", case])
    assert "\n" not in str(caught.value)
