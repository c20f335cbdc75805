"""Makes the table of docs/your_own_tasks.md: which model fields a task can vary, on which engine.

    python -m benchmarks.fields [--write]

For C and MJX every field is tried: a small model is stepped with the edit, and compared with plain ``mujoco``
on the model that is compiled with the value written in. For Warp, the table follows from the rules in the
package's code, which reads Warp's source. ``--write`` puts the table into the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco.batch import Batch

from benchmarks import field_probes as probes
from roml_jax.envs import physics
from roml_jax.envs.physics import mjx_limits, mujoco_c
from roml_jax.envs.physics.base import ModelLeaves, field_of, is_inert
from roml_jax.envs.physics.derived import inertia_scaled
from roml_jax.envs.physics.mjx import is_traced
from roml_jax.quiet import mjx

PAGE = Path(__file__).parent.parent / "docs" / "your_own_tasks.md"
START, END = "<!-- made by `python -m benchmarks.fields --write` -->", "<!-- end of the table -->"
WORKS, WRONG, REFUSED, STILL, UNTRIED = "works", "WRONG", "refused", "moves nothing", "not tried"
_STILL = ("geom_gap", "pair_gap")  # they list contacts without force
_COLUMNS = ("C", "MJX", "Warp, from its source")
_ENOUGH = 1e-6  # the least effect of a probe
_CLOSE = 1e-3  # the largest error, relative to the effect
_ALIKE = 2e-5  # and the engines' difference without an edit, relative to 1 plus the value


def compiled(change: probes.Change | None = None) -> mujoco.MjModel:
    """The probes' model, with a change of its source."""
    spec = mujoco.MjSpec.from_string(probes.MODEL)
    changed = None if change is None else change(spec)
    return (changed or spec).compile()


def float_fields(model: mujoco.MjModel) -> list[str]:
    """The floating-point fields of a model and its options, without the time step, in alphabetical order."""
    names = [name for name in dir(model) if not name.startswith("_")]
    arrays = [name for name in names if isinstance(getattr(model, name), np.ndarray)]
    options = [f"opt.{name}" for name in dir(model.opt) if not name.startswith("_") and name != "timestep"]
    return [name for name in (*arrays, *options) if field_of(model, name).dtype.kind == "f"]


def reference(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """Positions and sensor data after ``probes.STEPS`` steps of plain MuJoCo."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, probes.QVEL, probes.CTRL
    mujoco.mj_step(model, data, probes.STEPS)
    return np.concatenate([data.qpos, data.sensordata])


def on_c(base: mujoco.MjModel, leaves: Mapping[str, np.ndarray]) -> np.ndarray:
    """The same from the C engine's batch, for an edit of the unedited model."""
    batch = Batch(base, 1, nthread=1)
    rows = {name: leaf[None] for name, leaf in leaves.items()}
    mujoco_c.write_tasks(batch, base, rows, np.zeros(1, np.int32), "consistent")
    sensors = batch.bind("sensordata")
    for name, value in (("qpos", base.qpos0), ("qvel", probes.QVEL), ("ctrl", probes.CTRL)):
        batch.bind(name)[:] = value
    batch.step(nstep=probes.STEPS)
    return np.concatenate([batch.bind("qpos")[0], sensors[0]])


def on_mjx(base: mujoco.MjModel, edits: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """The same from MJX, for several edits (n): one program, in which every row has all the fields."""
    edits = [dict(edit) for edit in (*edits, {})]
    for edit in edits:
        if "body_mass" in edit and "body_inertia" not in edit:  # which the engine does if it is not a field
            edit["body_inertia"] = np.asarray(
                inertia_scaled(base.body_mass, base.body_inertia, edit["body_mass"])
            )
    names = sorted({name for edit in edits for name in edit})
    batch = {name: jnp.stack([edit.get(name, field_of(base, name)) for edit in edits]) for name in names}
    engine = physics.make("mjx", base, probes.STEPS, ("sensordata",), "consistent")

    def run(leaves: ModelLeaves) -> jax.Array:
        edited = engine.prepare(leaves)
        state = engine.reset(jnp.asarray(base.qpos0), jnp.asarray(probes.QVEL), edited)
        state = engine.step(state, jnp.asarray(probes.CTRL), edited)
        return jnp.concatenate([state.qpos, state.readings["sensordata"]])

    return np.asarray(jax.jit(jax.vmap(run))(batch))


def is_right(got: np.ndarray, unedited: np.ndarray, want: np.ndarray, plain: np.ndarray) -> bool:
    """Whether an edit moved an engine as far as the value written in moves plain MuJoCo.

    Raises:
        ValueError: if the probe has no effect in plain MuJoCo.
    """
    effect = np.abs(want - plain).max()
    if effect < _ENOUGH:
        raise ValueError(f"the probe has no effect: {effect:.1e}")
    error = np.abs((got - unedited) - (want - plain))
    return bool((error < _CLOSE * effect + _ALIKE * (1 + np.abs(plain))).all())


def refused(engine: str, base: mujoco.MjModel, leaves: Mapping[str, np.ndarray]) -> bool:
    """Whether an engine ("mujoco", "mjx" or "warp") refuses an edit of these fields."""
    try:
        if engine == "warp":  # as mjx._prepare does, without Warp
            original = mjx.put_model(base, impl="jax")
            mjx_limits.refuse_edits(base, leaves, "warp")
            return not all(is_traced(original, name) for name in leaves) or refused("mujoco", base, leaves)
        engine_of = physics.make(engine, base, 1, derived="consistent")
        engine_of.prepare({name: jnp.asarray(leaf) for name, leaf in leaves.items()})
    except ValueError:
        return True
    return False


class Probe(NamedTuple):
    """An edit to try.

    Attributes:
        beside: fields that must be edited together with the field.
        leaves: the edited fields.
        want: what plain MuJoCo makes of the values written in.
    """

    beside: tuple[str, ...]
    leaves: Mapping[str, np.ndarray]
    want: np.ndarray


def all_probes(base: mujoco.MjModel) -> dict[str, list[Probe]]:
    """The probes of each field, alone before together with others."""
    found: dict[str, list[Probe]] = {}
    alone = [(field, change, ()) for field, change in probes.PROBES.items()]
    together = [(field, change, beside) for field, (change, beside) in probes.TOGETHER.items()]
    for field, change, beside in (*alone, *together):
        model = compiled(change)
        leaves = {name: field_of(model, name).astype(float) for name in (field, *beside)}
        found.setdefault(field, []).append(Probe(beside, leaves, reference(model, base.qpos0)))
    return found


def _verdict(right: list[bool], tried: list[Probe]) -> str:
    """The verdict on a field from its probes."""
    if not all(right):
        return WRONG
    beside = " and ".join(f"`{name}`" for name in tried[0].beside)
    return f"{WORKS}, beside {beside}" if beside else WORKS


def verdicts(engines: Iterable[str] = ("mujoco", "mjx", "warp")) -> dict[str, dict[str, str]]:
    """The verdict on every field, by engine: (engine -> field -> verdict)."""
    base = compiled()
    plain, found = reference(base, base.qpos0), all_probes(base)
    result: dict[str, dict[str, str]] = {}
    for engine in engines:
        known = {field: _known(engine, base, field, found.get(field, [])) for field in float_fields(base)}
        open_fields = [field for field, verdict in known.items() if not verdict]
        edits = [probe for field in open_fields for probe in found[field]]
        if engine == "mujoco":
            got = np.stack([on_c(base, probe.leaves) for probe in edits])
            unedited = on_c(base, {})
        elif engine == "mjx":
            *rows, unedited = on_mjx(base, [probe.leaves for probe in edits])
            got = np.stack(rows)
        else:
            got, unedited = np.stack([probe.want for probe in edits]), plain
        right = iter(is_right(g, unedited, p.want, plain) for g, p in zip(got, edits, strict=True))
        for field in open_fields:
            known[field] = _verdict([next(right) for _ in found[field]], found[field])
        result[engine] = known
    return result


def _known(engine: str, base: mujoco.MjModel, field: str, tried: list[Probe]) -> str:
    """The verdict that needs no simulation, or "" for a field to try."""
    if is_inert(field):
        return STILL
    alone = tried[0].leaves if tried else {field: field_of(base, field).astype(float) + 1.0}
    if refused(engine, base, alone):
        return REFUSED
    if field in _STILL:
        return STILL
    return "" if tried else UNTRIED


def _short(fields: list[str], everything: list[str]) -> str:
    """Names in one cell; all fields that share a prefix are one name with a star."""
    by_prefix: dict[str, list[str]] = {}
    for name in everything:
        by_prefix.setdefault(name.split("_")[0], []).append(name)
    cells = []
    for prefix, family in by_prefix.items():
        here = [name for name in family if name in fields]
        whole = len(here) == len(family) > 1
        cells += [f"`{prefix}_*`"] if whole else [f"`{name}`" for name in here]
    return ", ".join(cells)


def table(result: Mapping[str, Mapping[str, str]]) -> str:
    """The verdicts as a table in Markdown, with one row for all fields that share their verdicts."""
    columns = list(result.values())
    fields = list(columns[0])
    rows: dict[tuple[str, ...], list[str]] = {}
    for field in fields:
        rows.setdefault(tuple(column[field] for column in columns), []).append(field)
    order = sorted(rows, key=lambda key: (key[0] != WORKS, [verdict != WORKS for verdict in key], key))
    lines = [" | ".join(("", *_COLUMNS, "fields", "")).strip(), "|---" * (len(_COLUMNS) + 1) + "|"]
    lines += ["| " + " | ".join((*key, _short(rows[key], fields))) + " |" for key in order]
    notes = [
        f"- To change `{field}` as the compiler does, edit beside it: {', '.join(f'`{n}`' for n in beside)}."
        for field, (_, beside) in probes.TOGETHER.items()
        if field in probes.PROBES
    ]
    return "\n".join([*lines, "", *notes])


def page_with(text: str, page: str) -> str:
    """A page with the text between its marks."""
    before, rest = page.split(START)
    return f"{before}{START}\n{text}\n{END}{rest.split(END)[1]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/your_own_tasks.md")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    text = table(verdicts())
    if options.write:
        PAGE.write_text(page_with(text, PAGE.read_text()))
    else:
        print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
