"""What a run's final test shows: summaries per seed, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from roml_jax import held_out
from roml_jax.config import Config


def summaries(returns: Any, config: Config) -> list[dict[str, float]]:
    """Per seed, from returns (M, K), or (R, M, K) with R > 1 seeds."""
    by_seed = np.asarray(returns).reshape(len(config.plan), *returns.shape[-2:])
    summaries = [
        jax.device_get(held_out.summarise(jnp.asarray(one), seed.settings.get("alpha", config.alpha)))
        for seed, one in zip(config.plan, by_seed, strict=True)
    ]
    return [{name: float(value) for name, value in one.items()} for one in summaries]


def mean(rows: list[dict[str, float]], name: str) -> float:
    """Over the rows that have the number; NaN where none has."""
    return float(np.mean([row[name] for row in rows if name in row] or [np.nan]))


def table(config: Config, final: list[dict[str, float]], stopped: Mapping[int, int]) -> Table:
    """The final test, a row per seed, and the mean over the seeds of every setting.

    Args:
        config: of the run.
        final: their summaries.
        stopped: iterations made by those that diverged, by their place.
    """
    shown = Table(title=f"{config.env}, {config.sampler}: {config.eval.test_tasks} held-out tasks")
    episodes = [name for name in final[0] if name.startswith("return_episode_")]
    own_alpha = "alpha" in config.plan[0].settings
    cvar = "CVaR" if own_alpha else f"CVaR {config.alpha:g}"
    for heading in ("seed", "mean return", cvar, *(f"episode {i}" for i in range(len(episodes)))):
        shown.add_column(heading, justify="right")
    labels = [
        f"{seed.label} (diverged after {stopped[i]} iterations)" if i in stopped else seed.label
        for i, seed in enumerate(config.plan)
    ]
    rows: list[tuple[str, Mapping[str, float]]] = []
    per_setting = len(config.seeds)
    for start in range(0, len(final), per_setting):
        part = final[start : start + per_setting]
        rows += list(zip(labels[start : start + per_setting], part, strict=True))
        if per_setting > 1:
            label = config.plan[start]._replace(seed="mean").label
            rows.append((label, {name: mean(part, name) for name in final[0]}))
    for label, values in rows:
        numbers = [values["return_mean"], values["cvar"], *(values[name] for name in episodes)]
        shown.add_row(label, *(f"{number:.3f}" for number in numbers))
    return shown
