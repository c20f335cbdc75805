"""The table of docs/your_own_tasks.md says which model fields a task can vary, as the engines do today."""

import jax
import numpy as np
import pytest

from benchmarks import field_probes, fields

OPTIMISED = True


def page_rows():
    """The committed table: (field -> its verdicts), with the stars of whole families written out."""
    text = fields.PAGE.read_text().split(fields.START)[1].split(fields.END)[0]
    base = fields.compiled()
    names, rows = fields.float_fields(base), {}
    for line in text.splitlines():
        if line.startswith("| ") and "`" in line:
            *verdicts, cell = [part.strip() for part in line.strip("|").split("|")]
            for name in (part.strip("` ") for part in cell.split(",")):
                family = [n for n in names if n.split("_")[0] == name.removesuffix("_*")]
                rows.update(dict.fromkeys(family if name.endswith("_*") else [name], tuple(verdicts)))
    return rows


def test_the_committed_table_holds_on_c_and_by_warps_rules():
    result = fields.verdicts(("mujoco", "warp"))
    rows = page_rows()
    assert rows.keys() == result["mujoco"].keys()
    assert {field: (row[0], row[2]) for field, row in rows.items()} == {
        field: (result["mujoco"][field], result["warp"][field]) for field in rows
    }
    assert fields.WRONG not in {verdict for row in rows.values() for verdict in row}


def test_every_probe_has_an_effect_and_a_dead_edit_is_wrong():
    base = fields.compiled()
    plain = fields.reference(base, base.qpos0)
    for field, tried in fields.all_probes(base).items():
        for probe in tried:
            moved = np.abs(probe.want - plain).max()
            assert moved > 1e-6 or field in ("geom_gap", "pair_gap"), field
            if moved:
                assert not fields.is_right(plain, plain, probe.want, plain)
    assert set(field_probes.TOGETHER) <= set(fields.float_fields(base))


@pytest.mark.slow
def test_the_committed_table_is_what_the_command_gives():
    with jax.enable_x64(True):
        text = fields.table(fields.verdicts())
    page = fields.PAGE.read_text()
    assert fields.page_with(text, page) == page
