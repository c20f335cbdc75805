"""What MJX and MuJoCo Warp do not simulate: features of a model, and fields of a task, refused in one line.

Two kinds of faults would otherwise be silent:

- MJX follows a version of MuJoCo, and may lack a feature of the installed one. A field that its code never
  reads must have MuJoCo's default value, and no task may edit it.
- MJX decides when a model is put on the device which rows and forces exist, by whether a field is zero. A
  task that edits such a field needs a device model in which it is not zero (``with_room``).
"""

from __future__ import annotations

import copy
import functools
import operator
import re
from collections.abc import Iterable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Literal

import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs.physics import compiled_flags
from roml_jax.envs.physics.base import ModelLeaves, field_of, is_inert
from roml_jax.envs.physics.mjx_data import INSTEAD
from roml_jax.quiet import mjx

Implementation = Literal["jax", "warp"]


_MJX = Path(mujoco.__file__).parent / "mjx"
_ROOMS = {"jax": _MJX / "_src", "warp": _MJX / "third_party" / "mujoco_warp" / "_src"}
_LABELS = {"jax": "MJX", "warp": "MuJoCo Warp"}
# Modules that declare every field, and those that no step runs.
_NO_STEP = {
    "types",
    "dataclasses",
    "test_util",
    "inverse",
    "render",
    "render_util",
    "bvh",
    "cli",
    "set_const",
}
_LOADER = "io"  # the module that puts a model on the device, which may fold one field into others

# Fields that change no motion: names, addresses and sizes; the C engine's sparse structure and bounding
# volumes; meshes' assets; pictures; keyframes and the user's own numbers; constants that are derived from
# other fields; and the width of the zone in which contacts without force are listed (gap).
_NO_MOTION = re.compile(
    r"(M|B|D|map|ten_J|bvh|oct|efm|efm0|efmC|mesh|hfield|tex|mat|skin|cam|light|key|name|names|text|tuple|"
    r"numeric|exclude|flex|flexedge|tree|plugin)(_.*|[A-Z].*)?"
    r"|(?!geom_fluid).*(adr|num|id|group|user|rgba|sameframe|simple|castshadow|signature|_aabb|_rbound|_gap)"
    r"|(dof|tendon|actuator)_(M0|length|length0|width|type|history|ctrlspec)"
    r"|body_(margin|contype|conaffinity)|sensor_(noise|history)|eq_active0"
    r"|opt\.(ccd|sdf|o|sleep)_.*|opt\.(noslip_tolerance|enableflags|disableflags|jacobian|integrator|solver)"
)

# One of everything, with MuJoCo's defaults.
_DEFAULTS = """
<mujoco>
  <worldbody>
    <site name="s"/>
    <body name="b"><joint name="j"/><geom name="g" size="1"/><geom name="h" size="1"/></body>
  </worldbody>
  <contact><pair geom1="g" geom2="h"/></contact>
  <equality><joint joint1="j"/></equality>
  <tendon><fixed name="t"><joint joint="j" coef="1"/></fixed></tendon>
  <actuator><motor joint="j"/></actuator>
  <sensor><jointpos joint="j"/></sensor>
</mujoco>
"""

# Fields by whose zeros rows, forces or kernels are left out of the program. With meshes, a margin is refused.
_FORCES = (
    "dof_frictionloss", "tendon_frictionloss", "body_gravcomp", "opt.density", "opt.viscosity", "opt.wind",
)  # fmt: skip
_SWITCHES = {
    "jax": (*_FORCES, "geom_margin", "pair_margin"),
    "warp": (
        *_FORCES, "body_mass", "tendon_stiffness", "tendon_stiffnesspoly", "tendon_damping",
        "tendon_dampingpoly", "actuator_gainprm", "actuator_biasprm",
    ),
}  # fmt: skip
# Warp adds the damping of actuators to these fields when it reads the model.
_DAMPING_OF_ACTUATORS = (
    "dof_damping", "dof_dampingpoly", "tendon_damping", "tendon_dampingpoly", "actuator_gear",
)  # fmt: skip
# Whether a tendon passes inside or outside a geom that it wraps is decided once, by these fields.
_WRAPPING = ("geom_pos", "geom_size", "site_pos")


def _names(code: CodeType) -> set[str]:
    """The names that compiled code uses, nested functions included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        names |= _names(constant) if isinstance(constant, CodeType) else set()
    return names


@functools.cache
def _names_of_module(path: Path) -> frozenset[str]:
    code = SourceFileLoader(path.stem, str(path)).get_code(path.stem)
    return frozenset(_names(code)) if code else frozenset()


@functools.cache
def names_read(impl: Implementation, *, loader: bool = False) -> frozenset[str]:
    """The names of attributes that the code of an implementation's step uses; model fields are among them.

    Args:
        impl: the implementation.
        loader: also the names that are used when the model is put on the device.
    """
    left_out = _NO_STEP if loader else _NO_STEP | {_LOADER}
    files = [path for path in sorted(_ROOMS[impl].glob("*.py")) if not path.stem.endswith("_test")]
    return frozenset().union(*(_names_of_module(path) for path in files if path.stem not in left_out))


def is_read(field: str, impl: Implementation) -> bool:
    """Whether a step of this implementation reads a model field."""
    return field.split(".")[-1] in names_read(impl)


def _fields(model: mujoco.MjModel) -> Iterable[str]:
    """The names of all numeric fields of a model and its options."""
    for part, prefix in ((model, ""), (model.opt, "opt.")):
        for name in dir(part):
            value = None if name.startswith("_") else getattr(part, name)
            if isinstance(value, np.ndarray) or (prefix and isinstance(value, int | float)):
                yield prefix + name


@functools.cache
def _default_rows() -> Mapping[str, np.ndarray]:
    """The default row of each field that an implementation may not read; of option fields, the value."""
    model = mujoco.MjModel.from_xml_string(_DEFAULTS)
    values = {name: field_of(model, name) for name in _fields(model) if not _NO_MOTION.fullmatch(name)}
    return {
        name: value if name.startswith("opt.") else value[-1]
        for name, value in values.items()
        if name.startswith("opt.") or len(value)
    }


def dropped(model: mujoco.MjModel, impl: Implementation) -> list[str]:
    """The fields that the implementation never reads and that are not at MuJoCo's default in this model."""
    # Warp reads some fields when it puts the model on the device; MJX's loader only copies them
    read = names_read(impl, loader=impl == "warp")
    return [
        name
        for name, default in _default_rows().items()
        if name.split(".")[-1] not in read and not np.all(field_of(model, name) == default)
    ]


def refuse_model(model: mujoco.MjModel, impl: Implementation) -> None:
    """Refuses a model with a feature that the implementation does not simulate.

    Raises:
        ValueError: one line that names the field.
    """
    for name in dropped(model, impl):
        raise ValueError(f"{_LABELS[impl]} does not simulate {name}, which this model sets; {INSTEAD}")
    if impl == "warp":
        return
    if not model.nu == model.nout == model.nactuator:
        raise ValueError(f"MJX does not simulate actuators with several inputs or outputs; {INSTEAD}")
    if model.nplugin:
        raise ValueError(f"MJX does not simulate plugins, which this model has; {INSTEAD}")
    passive = mujoco.mjtDisableBit.mjDSBL_SPRING | mujoco.mjtDisableBit.mjDSBL_DAMPER
    if model.opt.disableflags & passive not in (0, passive):
        raise ValueError(f"MJX disables all passive forces if springs or damping are disabled; {INSTEAD}")
    if model.opt.enableflags & (mujoco.mjtEnableBit.mjENBL_SLEEP | mujoco.mjtEnableBit.mjENBL_IPC):
        raise ValueError(f"MJX does not simulate sleep or ipc, which this model enables; {INSTEAD}")
    if (model.sensor_type == mujoco.mjtSensor.mjSENS_RANGEFINDER).any() and not model.nmat:
        raise ValueError(
            "MJX cannot follow the rays of rangefinders in a model without materials; add one "
            f"(<asset><material name='any'/></asset>), or: {INSTEAD}"
        )
    if model.opt.integrator == mujoco.mjtIntegrator.mjINT_DISCRETE:
        raise ValueError(f"MJX has no integrator 'discrete', which this model sets; {INSTEAD}")


def refuse_readings(model: mujoco.MjModel, blank: mjx.Data, readings: Iterable[str]) -> None:
    """Refuses sensors that MJX leaves at 0 or reads wrongly.

    Those of forces and accelerations, without any constraint; of touch (tactile); and rangefinders on a
    camera, or of more than the distance.

    Args:
        model: the unedited model.
        blank: data of the JAX implementation.
        readings: fields of the data that are read.

    Raises:
        ValueError: one line.
    """
    if "sensordata" not in readings:
        return
    kinds, rays = model.sensor_type, mujoco.mjtSensor.mjSENS_RANGEFINDER
    plain = (model.sensor_objtype == mujoco.mjtObj.mjOBJ_SITE) & (model.sensor_intprm[:, 0] == 1)
    wrong = (kinds == mujoco.mjtSensor.mjSENS_TACTILE) | ((kinds == rays) & ~plain)
    for row in np.flatnonzero(wrong):
        what = "rangefinders other than of a site's distance" if kinds[row] == rays else "tactile sensors"
        name = model.sensor(int(row)).name or int(row)
        raise ValueError(f"readings: MJX has no {what}, which sensor {name!r} is; {INSTEAD}")
    late = (model.sensor_needstage == mujoco.mjtStage.mjSTAGE_ACC).any()
    if late and not blank._impl.efc_J.size:
        raise ValueError(
            "readings: MJX computes no sensors of forces or accelerations in a model without constraints "
            f"(limits, contacts, friction, equalities); {INSTEAD}"
        )


def refuse_edits(
    model: mujoco.MjModel, names: Iterable[str], impl: Implementation, readings: Iterable[str] = (),
    cure: str = INSTEAD,
) -> None:  # fmt: skip
    """Refuses fields whose edits would do nothing, or less than they say.

    Args:
        model: the unedited model.
        names: of the fields that a task edits.
        impl: the implementation.
        readings: fields of the data that are read.
        cure: what to do instead, for the message.

    Raises:
        ValueError: one line that names the field.
    """
    damped = impl == "warp" and (model.actuator_damping.any() or model.actuator_dampingpoly.any())
    diagonal = np.flatnonzero(compiled_flags.diagonal_bodies(model)) if impl == "warp" else np.zeros(0, int)
    wraps = impl == "jax" and _wraps_by_side(model)
    for name in (name for name in names if not is_inert(name, readings)):
        if not is_read(name, impl):
            reason = f"{_LABELS[impl]} does not read {name}: a task's edit would do nothing"
        elif damped and name in _DAMPING_OF_ACTUATORS:
            reason = f"MuJoCo Warp adds actuators' damping to {name} once, before edits"
        elif diagonal.size and name in compiled_flags.KEEPS_SIMPLE:
            reason = compiled_flags.diagonal_only(model, diagonal[0], "MuJoCo Warp")
        elif wraps and name in _WRAPPING:
            reason = f"MJX decides on which side tendons wrap geoms once, before edits of {name}"
        elif impl == "jax" and name == "geom_size" and model.nhfield:
            reason = "MJX sizes the contacts with height fields once, before edits of geom_size"
        else:
            continue
        raise ValueError(f"{reason}; {cure}")


def _wraps_by_side(model: mujoco.MjModel) -> bool:
    """Whether a tendon wraps a geom with a side site."""
    wraps = np.isin(model.wrap_type, [int(mujoco.mjtWrap.mjWRAP_SPHERE), int(mujoco.mjtWrap.mjWRAP_CYLINDER)])
    return bool((model.wrap_prm[wraps] >= 0).any())


def switches(model: mujoco.MjModel, names: Iterable[str], impl: Implementation) -> frozenset[str]:
    """Those of the edited fields that change which rows, forces or entries of matrices the program has."""
    moving = compiled_flags.KEEPS_SIMPLE if compiled_flags.diagonal_bodies(model).any() else ()
    return frozenset(names) & frozenset((*_SWITCHES[impl], *moving))


def with_room(model: mujoco.MjModel, names: Iterable[str]) -> mujoco.MjModel:
    """A model in which no entry of the named fields is zero, so that all their rows and forces exist.

    Args:
        model: the unedited model; not changed.
        names: fields among ``switches``.

    Returns:
        The model itself if no entry was zero, else a copy. Its values stand for nothing: the fields must be
        replaced on the device (by ``with_values``) before the model is stepped.
    """
    zeros_count = [name for name in names if name not in compiled_flags.KEEPS_SIMPLE]
    absent = {name: field_of(model, name) == 0 for name in zeros_count}
    if not any(mask.any() for mask in absent.values()):
        return model
    model = copy.copy(model)
    for name, mask in absent.items():
        if name.startswith("opt.") and mask.ndim == 0:
            setattr(model.opt, name.removeprefix("opt."), 1.0)
        else:
            field_of(model, name)[mask] = 1.0
    model.flg_gravcomp = bool(model.body_gravcomp.any())
    return model


def with_values(roomy: mjx.Model, original: mjx.Model, names: Iterable[str]) -> mjx.Model:
    """A device model of ``with_room`` with the unedited values of the named fields."""
    values = {name: operator.attrgetter(name)(original) for name in names}
    return roomy.tree_replace(
        {name: value.astype(operator.attrgetter(name)(roomy).dtype) for name, value in values.items()}
    )


def above_zero(leaves: ModelLeaves) -> ModelLeaves:
    """A task's fields with dry friction above 0: where it is 0, MJX's solver locks the joint or tendon."""
    friction = {
        name: jnp.maximum(leaves[name], mujoco.mjMINVAL)
        for name in ("dof_frictionloss", "tendon_frictionloss")
        if name in leaves
    }
    return {**leaves, **friction}


def with_full_inertia(model: mjx.Model, names: Iterable[str]) -> mjx.Model:
    """A device model with all entries of the mass matrix, if tasks may move bodies compiled as simple.

    Args:
        model: of the JAX implementation, whose mass matrix has the entries that the compiler left.
        names: of the edited fields.
    """
    if frozenset(names).isdisjoint(compiled_flags.KEEPS_SIMPLE):
        return model
    columns: list[list[int]] = []
    for parent in model.dof_parentid:
        columns.append([*(columns[parent] if parent >= 0 else ()), len(columns)])
    width = np.array([len(row) for row in columns], np.int32)
    return model.replace(
        nC=int(width.sum()),
        M_rownnz=width,
        M_rowadr=(np.cumsum(width) - width).astype(np.int32),
        M_colind=np.concatenate(columns).astype(np.int32),
    )


def refuse_dead(model: mjx.Model, edited: Mapping[str, np.ndarray]) -> None:
    """Refuses edits that would do nothing in a model that is on the device already.

    For environments of other libraries, which make their own ``mjx.Model`` (of the JAX implementation).

    Args:
        model: the device model.
        edited: the entries that tasks change, as bool arrays of the fields' shapes.

    Raises:
        ValueError: one line that names the field.
    """
    has = {
        "dof_frictionloss": lambda: np.asarray(model._impl.dof_hasfrictionloss),
        "tendon_frictionloss": lambda: np.asarray(model._impl.tendon_hasfrictionloss),
        "body_gravcomp": lambda: np.asarray(bool(model.flg_gravcomp)),
        **dict.fromkeys(
            ("opt.density", "opt.viscosity", "opt.wind"),
            lambda: np.asarray(bool(model.opt._impl.has_fluid_params)),
        ),
    }
    for name, mask in edited.items():
        if is_inert(name):
            continue
        if not is_read(name, "jax"):
            raise ValueError(f"MJX does not read {name}: a task's edit would do nothing")
        if (
            name in compiled_flags.KEEPS_SIMPLE
            and (model.M_rownnz != with_full_inertia(model, (name,)).M_rownnz).any()
        ):
            raise ValueError(
                f"{name}: a body of the environment's model was compiled with a diagonal mass matrix, which "
                'an edit cannot fill; build the environment from a model with simple="false" there'
            )
        if name in has and np.any(mask & ~has[name]()):
            raise ValueError(
                f"{name} is 0 in the environment's model, so MJX left it out and an edit would do nothing; "
                "build the environment with values above 0"
            )
