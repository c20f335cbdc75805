"""The numbers of an evaluation as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from roml_jax.evaluate.records import Records
from roml_jax.evaluate.verdict import Setting
from roml_jax.evaluate.versus import Versus
from roml_jax.run.saved import Saved


def plain(value: Any) -> Any:
    """NamedTuples, arrays and mappings as JSON's values; numbers that are not finite become null."""
    if hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def text(run: Saved, records: Records, found: Sequence[Setting], against: Sequence[Versus]) -> str:
    """The evaluation of a run as JSON.

    Args:
        run: the run.
        records: its results.
        found: the numbers of its settings.
        against: the comparisons with a second run.
    """
    head = {
        "run": str(run.folder), "env": run.config.env, "sampler": run.config.sampler,
        "agent": run.config.agent, "which": run.which, "tasks": len(records.tasks),
        "chosen": records.chosen, "episodes": 0 if records.inner_steps else records.returns.shape[2],
        "inner_steps": records.inner_steps,
        "horizon": records.horizon if records.length is not None else None, "interval": "95 % bootstrap",
    }  # fmt: skip
    return json.dumps(plain({**head, "settings": list(found), "versus": list(against)}), indent=1) + "\n"
