"""Which contacts an edit of a geom's contact parameters reaches."""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np

PARAMETERS = ("friction", "solref", "solimp", "solmix", "margin", "gap")
"""The contact parameters of geoms, without the prefix ``geom_``."""
_FRICTIONS = {1: (), 3: (0,), 4: (0, 1), 6: (0, 1, 2)}  # columns of geom_friction that a condim reads


class Partners(NamedTuple):
    """What a geom can touch.

    Attributes:
        dynamic: geoms with which MuJoCo makes contacts from the two geoms' own parameters.
        pairs: explicit contact pairs that contain the geom.
    """

    dynamic: tuple[int, ...]
    pairs: tuple[int, ...]


def _excluded(model: mujoco.MjModel) -> set[tuple[int, int]]:
    """Pairs of bodies without contacts."""
    signatures = model.exclude_signature.tolist()
    return {tuple(sorted((s & 0xFFFF, (s >> 16) & 0xFFFF))) for s in signatures}


def partners(model: mujoco.MjModel, geom: int) -> Partners:
    """What a geom can touch, by MuJoCo's rules for pairs, types, bodies, parents and exclusions."""
    pairs = np.flatnonzero((model.pair_geom1 == geom) | (model.pair_geom2 == geom)).tolist()
    paired = {int(g) for pair in pairs for g in (model.pair_geom1[pair], model.pair_geom2[pair])}
    excluded, welds = _excluded(model), model.body_weldid
    body = model.geom_bodyid[geom]
    no_parents = bool(model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_FILTERPARENT)
    dynamic = []
    for other in range(model.ngeom):
        across = model.geom_bodyid[other]
        mine, yours = int(welds[body]), int(welds[across])
        parents = int(welds[model.body_parentid[mine]]), int(welds[model.body_parentid[yours]])
        related = not no_parents and mine and yours and (mine == parents[1] or yours == parents[0])
        types = (model.geom_contype[geom] & model.geom_conaffinity[other]) | (
            model.geom_contype[other] & model.geom_conaffinity[geom]
        )
        barred = other in paired or mine == yours or related
        if types and not barred and tuple(sorted((int(body), int(across)))) not in excluded:
            dynamic.append(other)
    return Partners(tuple(dynamic), tuple(pairs))


def name_of(model: mujoco.MjModel, kind: mujoco.mjtObj, index: int) -> str:
    """An object's name in quotes, or its number."""
    name = mujoco.mj_id2name(model, kind, index)
    return f"'{name}'" if name else f"number {index}"


def _geom(model: mujoco.MjModel, index: int) -> str:
    return name_of(model, mujoco.mjtObj.mjOBJ_GEOM, index)


def dead_geom(model: mujoco.MjModel, field: str, geom: int, low: np.ndarray, high: np.ndarray) -> str | None:
    """Why an edit of a contact parameter reaches no contact of a geom, with the cure; None if it may.

    Args:
        model: the unedited model.
        field: ``geom_friction`` or another of ``PARAMETERS``.
        geom: the edited geom.
        low: (ngeom, ...) the field's values at the low end of the task.
        high: the same at its high end.
    """
    parameter = field.removeprefix("geom_")
    touch = partners(model, geom)
    if not touch.dynamic and touch.pairs:
        kind = mujoco.mjtObj.mjOBJ_PAIR
        shown = ", ".join(_pair(model, kind, pair) for pair in touch.pairs[:3])
        plural = "s" if len(touch.pairs) > 1 else ""
        cure = "" if parameter == "solmix" else f"; edit pair_{parameter}"
        return f"its contacts are those of the explicit pair{plural} {shown}{cure}"
    if not touch.dynamic:
        return "the geom touches nothing (contype and conaffinity, excluded or parent bodies)"
    above = [g for g in touch.dynamic if model.geom_priority[g] > model.geom_priority[geom]]
    if parameter not in ("margin", "gap") and len(above) == len(touch.dynamic):
        shown = ", ".join(_geom(model, g) for g in above[:3])
        return f"geoms that it touches have a higher priority ({shown}); edit {field} of those"
    return _dead_friction(model, geom, touch.dynamic, low, high) if parameter == "friction" else None


def _pair(model: mujoco.MjModel, kind: mujoco.mjtObj, pair: int) -> str:
    if mujoco.mj_id2name(model, kind, pair):
        return name_of(model, kind, pair)
    return f"{_geom(model, model.pair_geom1[pair])} and {_geom(model, model.pair_geom2[pair])}"


def _dead_friction(
    model: mujoco.MjModel, geom: int, others: tuple[int, ...], low: np.ndarray, high: np.ndarray
) -> str | None:
    """Friction that no contact reads: a larger one of the other geom, or a column beyond the condim."""
    larger, unread = [], set()
    for other in others:
        mine, yours = model.geom_priority[[geom, other]]
        winner = geom if mine >= yours else other
        condim = int(model.geom_condim[winner if mine != yours else [geom, other]].max())
        columns = list(_FRICTIONS[condim])
        used = [end[winner] if mine != yours else np.maximum(end[geom], end[other]) for end in (low, high)]
        if (used[0] != used[1])[columns].any():
            return None
        if (low[geom] != high[geom])[columns].any():
            larger.append(other)
        else:
            unread.add(condim)
    if larger:
        shown = ", ".join(_geom(model, g) for g in larger[:3])
        return f"a contact uses the larger friction of its two geoms, that of {shown}; edit both"
    column = np.flatnonzero((low != high).any(axis=0))[0]
    return f"contacts of condim {max(unread)} do not read column {column}; raise condim in the model"


def unreached_pairs(model: mujoco.MjModel, field: str, geoms: list[int]) -> list[str]:
    """Explicit pairs, by name, whose parameters an edit of these geoms leaves as they are."""
    pairs = sorted({pair for geom in geoms for pair in partners(model, geom).pairs})
    return [_pair(model, mujoco.mjtObj.mjOBJ_PAIR, pair) for pair in pairs]
