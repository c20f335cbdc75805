"""Compiling for devices that are not there: counts by hand, the command, and the real thing (slow)."""

import pytest

from benchmarks.compiled import __main__ as compiled
from benchmarks.compiled import hlo, targets
from roml_jax.errors import ConfigError

MODULE = """\
HloModule jit_chunk, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %a = f32[4]{0} add(%p, %p)
  ROOT %m = f32[4]{0} multiply(%a, %p)
}

%inner_body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[4]{0} get-tuple-element(%s), index=1
  %f = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  %r = f32[4]{0} all-reduce(%f), to_apply=%add
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %r)
}

%condition (s: (s32[], f32[4])) -> pred[] {
  %s = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] constant(5)
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

%outer_body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %w = (s32[], f32[4]{0}) while(%s), condition=%condition, body=%inner_body, metadata={op_name="steps"}, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %b = (s32[], f32[4]{0}) copy(%w)
}

%until (s: (s32[], f32[4])) -> pred[] {
  %s = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%s), index=1
  %m = f32[] reduce(%x), to_apply=%add
  %n = f32[] constant(5)
  ROOT %c = pred[] compare(%m, %n), direction=LT
}

%left (p: f32[4]) -> f32[4] {
  ROOT %e = f32[4]{0} exponential(%p)
}

%right (p: f32[4]) -> f32[4] {
  %u = f32[4]{0} exponential(%p)
  ROOT %v = f32[4]{0} negate(%u)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %z = s32[] constant(0)
  %t = (s32[], f32[4]{0}) tuple(%z, %p)
  %w = (s32[], f32[4]{0}) while(%t), condition=%until, body=%outer_body, metadata={op_name="episodes"}
  %x = f32[4]{0} get-tuple-element(%w), index=1
  %k = s32[] constant(1)
  ROOT %y = f32[4]{0} conditional(%k, %x, %x), branch_computations={%left, %right}
}
"""  # noqa: E501


def test_kernels_are_counted_by_hand():
    counts = hlo.count(MODULE)
    step = 1 + 1  # a fusion and an all-reduce; a loop of known length does not run its condition
    episode = 5 * step + 1 + 2  # a copy, and two instructions of the outer condition
    assert counts.kernels == episode + 1 + 2  # a conditional, and its longer branch
    compared = hlo.count(MODULE.replace(', backend_config={"known_trip_count":{"n":"5"}}', ""))
    assert compared.kernels == counts.kernels + 5  # the length is found in the condition, which is run
    assert compared.loops[1].trips == 5
    assert [(loop.depth, loop.trips, loop.kernels, loop.where) for loop in counts.loops] == [
        (0, None, episode, "episodes"), (1, 5, step, "steps"),
    ]  # fmt: skip
    assert counts.collectives == {"all-reduce": (5, 5 * 16)}


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[2,3]{1,0}", 24),
        ("(s32[], pred[7])", 11),
        ("bf16[8]{0:T(128)}", 16),
        ("u32[0]", 0),
        ("f64[3]", 24),
    ],
)
def test_bytes_of_shapes(shape, size):
    assert hlo.size_of(shape) == size


def test_the_table_says_what_does_not_compile():
    good = {
        "target": "h100", "env": "khazad_dum", "mesh": "none", "compile_s": 100.0, "memory_mib": 538.2,
        "gflop": 1.2, "gbyte": 3.4, "kernels": 10_700, "kernels_of": {"environment step": 39},
        "collectives": {},
    }  # fmt: skip
    bad = {"target": "tpu-v5e", "env": "humanoid_mass", "mesh": "none", "failed": "ValueError: no room"}
    rows = compiled.table([good, bad]).splitlines()
    assert "| 10,700 | 39 per environment step |" in rows[2]
    assert "no: ValueError: no room" in rows[3]
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--targets", "tpu"], "tpu-v5e"),
        (["--envs", "hopper_dynamics"], "khazad_dum"),
        (["--mesh", "2x2"], "must be auto, none or sizes"),
        (["--mesh", "seed=2,task=2"], "h100 is described with 1"),
        (["--targets", "tpu-v5e", "--mesh", "seed=8"], "8 devices, and tpu-v5e is described with 4"),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_installed(arguments, expected, monkeypatch):
    monkeypatch.setattr(targets, "packages", lambda *_: pytest.fail("installed"))
    with pytest.raises(ConfigError, match=expected) as caught:
        compiled.command(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_khazad_dum_compiles_for_a_tpu(tmp_path):
    one = compiled.compile_one(
        "tpu-v5e", "khazad_dum", "none", compiled._cache(), compiled.Console(quiet=True)
    )
    assert "failed" not in one
    assert one["frames"] == 4096
    assert one["gflop"] > 0.5
    assert 0 < one["memory_mib"] < 2000
