"""What MuJoCo decides once, when it compiles a model, although a task may edit what the decision rests on.

- A body is *simple* if its mass matrix is diagonal: its joints lie along its inertial axes, and it has no
  children. The C engine then stores no more than the diagonal.
- Limits, clamps and plastic springs exist only for the joints, tendons and actuators that were compiled with
  them.
- Many fields are computed from others (``mj_setConst``), or are not read by the simulation at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

import mujoco
import numpy as np
from mujoco.batch import Batch

from roml_jax.envs.physics.base import Derived

# A simple body stays simple only as long as these fields keep the compiled values.
KEEPS_SIMPLE = ("body_ipos", "body_iquat", "jnt_pos", "jnt_axis", "tendon_armature", "actuator_armature")

# Fields that mj_setConst computes from others. (It also computes parts of eq_data.)
DERIVED = (
    "actuator_acc0", "actuator_length0", "body_invweight0", "body_subtreemass", "dof_M0", "dof_invweight0",
    "dof_length", "tendon_invweight0", "tendon_length0",
)  # fmt: skip
# Fields that the C engine computes from others or that no step reads.
_NOT_READ = re.compile(
    r"key_.*|.*_user|numeric_data|tuple_objprm|sensor_noise"
    r"|geom_aabb|bvh_aabb|body_margin|efm0_L"
)
# Option fields that are read only if the model switches them on.
_OPTIONS: Mapping[str, tuple[Callable[[mujoco.MjOption], object], str]] = {
    **dict.fromkeys(
        ("opt.o_margin", "opt.o_solref", "opt.o_solimp", "opt.o_friction"),
        (lambda opt: opt.enableflags & mujoco.mjtEnableBit.mjENBL_OVERRIDE, "the flag override"),
    ),
    "opt.noslip_tolerance": (lambda opt: opt.noslip_iterations, "noslip_iterations"),
    "opt.sleep_tolerance": (lambda opt: opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP, "the flag sleep"),
}
# Fields whose rows are read only where another field, compiled with the model, says so.
_READ_WHERE: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("jnt_range", "jnt_margin", "jnt_solref", "jnt_solimp"), ("jnt_limited", "limit")),
    "jnt_actfrcrange": ("jnt_actfrclimited", "limit of actuator forces"),
    "jnt_springyield": ("jnt_plasticadr", "plastic spring (springyield)"),
    **dict.fromkeys(
        ("tendon_range", "tendon_margin", "tendon_solref_lim", "tendon_solimp_lim"),
        ("tendon_limited", "limit"),
    ),
    "tendon_actfrcrange": ("tendon_actfrclimited", "limit of actuator forces"),
    "tendon_springyield": ("tendon_plasticadr", "plastic spring (springyield)"),
    "actuator_delay": ("actuator_historyadr", "delay"),
    **dict.fromkeys(("sensor_delay", "sensor_interval"), ("sensor_historyadr", "delay")),
    "actuator_ctrlrange": ("actuator_ctrllimited", "control limit"),
    "actuator_forcerange": ("actuator_forcelimited", "force limit"),
    "actuator_actrange": ("actuator_actlimited", "activation limit"),
}


def rows_read(model: mujoco.MjModel, field: str) -> tuple[np.ndarray, str] | None:
    """Which rows of a field the simulation reads, where the compiled model decides that.

    Returns:
        (the rows (n,) bool, what the other rows lack), or None if every row is read.
    """
    if field not in _READ_WHERE:
        return None
    flag, lacks = _READ_WHERE[field]
    values = getattr(model, flag)
    return (values >= 0 if flag.endswith("adr") else values.astype(bool)), lacks


def refuse_edits(model: mujoco.MjModel, names: Iterable[str], derived: Derived) -> None:
    """Refuses fields whose edits the C engine would not read, or would overwrite.

    Raises:
        ValueError: one line that names the field.
    """
    for name in names:
        reads, needs = _OPTIONS.get(name, (lambda _: True, ""))
        if _NOT_READ.fullmatch(name):
            raise ValueError(f"{name} is not read by the simulation: a task's edit would do nothing")
        if name.startswith("flex"):
            raise ValueError(f"a task cannot edit {name}: fields of flexes are not supported")
        if not reads(model.opt):
            raise ValueError(f"{name} is read only with {needs}, which this model leaves off")
        where = rows_read(model, name)
        if where is not None and not where[0].any():
            raise ValueError(f"{name} is not read: the compiled model has no {where[1]}")
        refuse_derived(name, derived)


def refuse_derived(name: str, derived: Derived) -> None:
    """Refuses an edit of a field that is recomputed after every edit.

    Raises:
        ValueError: one line that names the field.
    """
    if derived == "consistent" and name in DERIVED:
        raise ValueError(
            f"{name} is computed from other fields: edit those, or keep your values with derived='stale'"
        )


def diagonal_bodies(model: mujoco.MjModel) -> np.ndarray:
    """(nbody,) bool: bodies with several degrees of freedom and a diagonal mass matrix."""
    return (model.body_simple > 0) & (model.body_dofnum > 1)


def _bodies_of(model: mujoco.MjModel, field: str) -> np.ndarray:
    """(n, nbody) bool: the bodies whose simplicity depends on each row of a field of ``KEEPS_SIMPLE``."""
    bodies = np.eye(model.nbody, dtype=bool)
    if field.startswith("body"):
        return bodies
    if field.startswith("jnt"):
        return bodies[model.jnt_bodyid]
    of_tendons = np.zeros((model.ntendon, model.nbody), bool)
    for tendon, (start, count) in enumerate(zip(model.ten_J_rowadr, model.ten_J_rownnz, strict=True)):
        of_tendons[tendon, model.dof_bodyid[model.ten_J_colind[start : start + count]]] = True
    if field == "tendon_armature":
        return of_tendons
    pulls = model.actuator_trntype == mujoco.mjtTrn.mjTRN_TENDON
    of_actuators = np.zeros((len(model.actuator_armature), model.nbody), bool)
    of_actuators[pulls] = of_tendons[model.actuator_trnid[pulls, 0]]
    return of_actuators


def _moved(base: mujoco.MjModel, leaves: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """(rows, nbody) bool: the bodies whose frames, joints or tendons differ from the compiled model's."""
    moved = np.zeros((len(rows), base.nbody), bool)
    for name in KEEPS_SIMPLE:
        if name in leaves:
            original = getattr(base, name).astype(leaves[name].dtype)
            changed = (leaves[name][rows] != original).reshape(len(rows), len(original), -1).any(-1)
            moved |= (changed[..., None] & _bodies_of(base, name)).any(1)
    return moved


def write_simple(
    batch: Batch, base: mujoco.MjModel, leaves: Mapping[str, np.ndarray], rows: np.ndarray
) -> np.ndarray:
    """Marks bodies as not simple in the rows whose tasks change their inertial frames, joints or tendons.

    Args:
        batch: simulations of ``base``.
        base: the unedited model.
        leaves: (n, ...) for all n rows of the batch.
        rows: indices of the rows to write.

    Returns:
        (rows, nv) bool, the degrees of freedom that are simple.

    Raises:
        ValueError: for a simple body with several degrees of freedom, of whose mass matrix the compiled model
            holds the diagonal only; one line.
    """
    simple = np.tile(base.body_simple, (len(rows), 1))
    if simple.any() and not leaves.keys().isdisjoint(KEEPS_SIMPLE):
        moved = _moved(base, leaves, rows) & (simple > 0)
        several = np.flatnonzero((moved & diagonal_bodies(base)).any(0))
        if several.size:
            raise ValueError(diagonal_only(base, several[0], "the C engine"))
        simple[moved] = 0
        batch.expand("body_simple")[rows] = simple
        batch.expand("dof_simplenum")[rows] = _consecutive(simple[:, base.dof_bodyid] > 0)
    return simple[:, base.dof_bodyid] > 0


def diagonal_only(model: mujoco.MjModel, body: int, engine: str) -> str:
    """What is wrong with an edit of ``KEEPS_SIMPLE`` for a body among ``diagonal_bodies``."""
    name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, int(body)) or int(body)
    return (
        f"body {name!r} was compiled with a diagonal mass matrix, so {engine} cannot edit its inertial "
        'frame, joints or tendon armature; give the body simple="false" in its MJCF'
    )


def _consecutive(simple: np.ndarray) -> np.ndarray:
    """(rows, nv): for each degree of freedom, the number of simple ones from it on without a gap."""
    counts = np.zeros(simple.shape, np.int32)
    for i in reversed(range(simple.shape[1])):
        following = counts[:, i + 1] if i + 1 < simple.shape[1] else 0
        counts[:, i] = np.where(simple[:, i], 1 + following, 0)
    return counts


def compile_for(spec: mujoco.MjSpec, edited: Collection[str]) -> mujoco.MjModel:
    """Compiles a model that tasks may edit: none of its bodies is simple where a task could move it.

    Args:
        spec: not changed.
        edited: names of the fields that tasks edit.
    """
    model = spec.compile()
    diagonal = diagonal_bodies(model)
    if set(edited).isdisjoint(KEEPS_SIMPLE) or not diagonal.any():
        return model
    spec = spec.copy()
    for body in spec.bodies:
        if diagonal[body.id]:
            body.simple = False
    return spec.compile()
