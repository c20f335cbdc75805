"""The model fields of every row of a batch, for the C engine: a task's edits and what follows from them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import mujoco
import numpy as np

from roml_jax.envs.physics.base import Derived, field_of
from roml_jax.envs.physics.boxes import make_box_refresher

_SHAPE = {"geom_size", "geom_pos", "geom_quat", "body_ipos", "body_iquat"}
_BOXES = ("geom_rbound", "geom_aabb", "bvh_aabb")
_CONSTANTS = (  # what mj_setConst computes and the dynamics read
    "body_subtreemass", "body_invweight0", "dof_M0", "dof_invweight0", "tendon_length0",
    "tendon_invweight0", "actuator_length0", "actuator_acc0", "stat.meaninertia",
)  # fmt: skip


def assign(model: mujoco.MjModel, field: str, value: np.ndarray) -> None:
    """Writes a field; ``stat.meaninertia`` and the like write a part's."""
    head, _, last = field.rpartition(".")
    owner = getattr(model, head) if head else model
    if np.ndim(value):
        getattr(owner, last)[...] = value
    else:
        setattr(owner, last, float(value))


def following(leaves: Iterable[str], derived: Derived) -> tuple[str, ...]:
    """The fields that change with the edited ones."""
    leaves = set(leaves)
    fields = list(_BOXES) if leaves & _SHAPE else []
    if derived == "consistent":
        fields += _CONSTANTS
        fields += ["body_inertia"] if "body_mass" in leaves else []
    elif "body_mass" in leaves:
        fields.append("body_subtreemass")
    return tuple(name for name in dict.fromkeys(fields) if name not in leaves)


class TaskRows:
    """A cache by value: rows are derived again only where their task has changed."""

    def __init__(self, model: mujoco.MjModel, leaves: Mapping[str, np.ndarray], derived: Derived) -> None:
        """Args: the unedited model; one batch of leaves, for their names; what to derive."""
        self.names = (*leaves, *following(leaves, derived))
        self._base, self._derived = model, derived
        self._model, self._scratch = copy.copy(model), mujoco.MjData(model)
        self._refresh_boxes = make_box_refresher(model)
        self._seen = np.full((0, sum(leaf[0].size for leaf in leaves.values())), np.nan)
        self.values = [np.zeros((0, *field_of(model, name).shape)) for name in self.names]

    def update(self, leaves: Mapping[str, np.ndarray]) -> None:
        """Brings the first n rows up to date with leaves (n, ...)."""
        flat = [leaf.reshape(leaf.shape[0], -1) for leaf in leaves.values()]
        now = np.concatenate(flat, axis=1).astype(float)
        n, missing = now.shape[0], now.shape[0] - self._seen.shape[0]
        if missing > 0:
            self._seen = np.concatenate([self._seen, np.full((missing, now.shape[1]), np.nan)])
            self.values = [
                np.concatenate([rows, np.zeros((missing, *rows.shape[1:]))]) for rows in self.values
            ]
        for row in np.flatnonzero((self._seen[:n] != now).any(axis=1)):
            self._derive({name: leaf[row] for name, leaf in leaves.items()})
            for name, rows in zip(self.names, self.values, strict=True):
                rows[row] = field_of(self._model, name)
            self._seen[row] = now[row]

    def _derive(self, leaves: Mapping[str, np.ndarray]) -> None:
        """Edits the scratch model and recomputes what follows."""
        model, base = self._model, self._base
        for name, leaf in leaves.items():
            assign(model, name, leaf)
        if leaves.keys() & _SHAPE:
            # culling by boxes that an edit left stale would lose contacts
            self._refresh_boxes(model)
        if self._derived == "consistent":
            if "body_mass" in leaves and "body_inertia" not in leaves:
                ratio = model.body_mass / np.where(base.body_mass > 0, base.body_mass, 1)
                model.body_inertia[:] = base.body_inertia * ratio[:, None]
            mujoco.mj_setConst(model, self._scratch)
            model.stat.meaninertia = model.dof_M0.mean()  # which mj_setConst leaves
        elif "body_mass" in leaves:
            # the engine divides by the stored masses of subtrees, also where inertia stays as it was:
            # with stale ones, centres of mass lie in wrong places
            mass = model.body_mass.copy()
            for body in range(model.nbody - 1, 0, -1):
                mass[model.body_parentid[body]] += mass[body]
            model.body_subtreemass[:] = mass
