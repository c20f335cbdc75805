"""The fields of MuJoCo's data that observations, rewards and ends of episodes may read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import mujoco
import numpy as np
from mujoco.batch import DATA_FIELDS, Batch

from roml_jax.errors import suggestion

ON_REQUEST: dict[str, Callable[[mujoco.MjModel, mujoco.MjData], None]] = {
    **dict.fromkeys(("cacc", "cfrc_int", "cfrc_ext"), mujoco.mj_rnePostConstraint),
    **dict.fromkeys(("subtree_linvel", "subtree_angmom"), mujoco.mj_subtreeVel),
}
"""Fields that MuJoCo's step leaves at 0 unless a sensor needs them, and the functions that compute them."""

# Memory of the solvers and integrators, which a step fills only in part or not at all, and addresses.
_INTERNAL = frozenset((
    "bvh_aabb_dyn", "bvh_active", "flex_hessian_valid", "flexedge_hessian", "flexelem_krot",
    "flexvert_conage", "flexvert_hessian", "flexvert_lambda", "nA", "nJ", "nidof", "nisland", "plugin",
    "plugin_data", "qDeriv", "qH", "qHDiagInv", "qLU", "qfrc_inverse", "solver_fwdinv", "solver_niter",
    "solver_nnz",
))  # fmt: skip
READINGS = frozenset(DATA_FIELDS) - _INTERNAL


def check(names: Iterable[str]) -> None:
    """Refuses readings that no engine has.

    Raises:
        ValueError: for a field that MuJoCo's data does not have, or that a step does not compute; one line.
    """
    for name in names:
        if name in _INTERNAL:
            raise ValueError(f"readings: {name} is internal memory of MuJoCo that a step need not compute")
        if name not in READINGS:
            raise ValueError(f"readings: MuJoCo's data has no field {name!r}{suggestion(name, READINGS)}")


def like(data: mujoco.MjData, name: str) -> np.ndarray:
    """A reading's shape and type in the compiled program: rotation matrices are 3 x 3, as in MJX."""
    value = np.asarray(getattr(data, name))
    shape = value.shape
    if name.endswith("mat") and shape[-1:] == (9,):
        shape = (*shape[:-1], 3, 3)
    kind = {"f": np.float32, "b": np.bool_}.get(value.dtype.kind, np.int32)
    return np.zeros(shape, bool if name == "eq_active" else kind)


def with_energy(model: mujoco.MjModel, names: Iterable[str]) -> mujoco.MjModel:
    """The model, or a copy that computes the energy if the energy is read."""
    if "energy" not in names:
        return model
    model = copy.copy(model)
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    return model


class OnRequest:
    """The readings of a batch that MuJoCo's step leaves at 0; one more forward pass each.

    Attributes:
        values: by name, (n, ...), of the last ``compute``.
    """

    def __init__(self, batch: Batch, names: Iterable[str]) -> None:
        self._batch = batch
        self._model, self._data = copy.copy(batch.model), mujoco.MjData(batch.model)
        self.values = {
            name: np.zeros((batch.nsim, *getattr(self._data, name).shape))
            for name in names
            if name in ON_REQUEST
        }

    def compute(self, rows: Iterable[int]) -> None:
        """Computes the readings in the present state of some rows; NaN where MuJoCo fails."""
        functions = {ON_REQUEST[name] for name in self.values}
        for row in rows if functions else ():
            self._batch.get_model(int(row), self._model)
            state = mujoco.mjtState.mjSTATE_INTEGRATION
            mujoco.mj_setState(self._model, self._data, self._batch.state[row], state)
            try:
                mujoco.mj_forward(self._model, self._data)
                for function in functions:
                    function(self._model, self._data)
            except mujoco.FatalError:
                for values in self.values.values():
                    values[row] = np.nan
                continue
            for name, values in self.values.items():
                values[row] = getattr(self._data, name)
