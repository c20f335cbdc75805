"""One unit for returns: a task's mean return per episode.

The compiled program counts in scores, a task's sum over its K episodes, as its samplers do. What a run shows
and writes is divided by K.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from roml_jax import agents
from roml_jax.config import Config
from roml_jax.envs import Env

# Metrics of the program that are sums over a task's episodes, and their names once divided.
_NAMES = {"train/return": "train/return_mean", "train/return_min": "train/return_worst"}
_SAMPLER = ("ref_mean", "ref_cvar", "sample_mean", "q_ref", "q_int")
_SUMS = _NAMES | {f"sampler/{name}": f"sampler/{name}" for name in _SAMPLER}


def episodes(config: Config, env: Env) -> int:
    """K, the episodes that a training task's score is a sum over; 1 for a learner without episodes."""
    name = config.agent
    acts = name in agents.names() and agents.get(name, env) is agents.get(name)
    return config.protocol.agent_spec(env.spec).episodes if acts else 1


def per_episode(row: Mapping[str, Any], count: int) -> dict[str, Any]:
    """A row of the program's metrics, with sums over a task's episodes divided.

    ``train/return`` becomes ``train/return_mean``, and ``train/return_min`` becomes ``train/return_worst``.
    Other names stay; a term of the reward (``reward/NAME``) is a mean per episode already.

    Args:
        row: values by metric name; NaN and infinite values may be strings.
        count: K.
    """
    divided = {}
    for name, value in row.items():
        is_sum = name in _SUMS and not isinstance(value, str)
        divided[_SUMS.get(name, name)] = value / count if is_sum else value
    return divided


def from_file(rows: Sequence[Mapping[str, Any]], count: Callable[[], int]) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl``, with those of older versions converted, which have ``train/return``.

    Args:
        rows: as in the file.
        count: () -> K; called only if there is such a row.
    """
    old = ["train/return" in row for row in rows]
    divisor = count() if any(old) else 1
    return [per_episode(row, divisor) if is_old else dict(row) for row, is_old in zip(rows, old, strict=True)]
