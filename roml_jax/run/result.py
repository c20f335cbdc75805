"""Results of a run's tests: a summary per seed, and the table of the final test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.markup import escape
from rich.table import Table

from roml_jax import held_out, quickly
from roml_jax.config import Config
from roml_jax.types import Outcome

_summarise = quickly.jit(held_out.summarise)


def summaries(returns: Any, config: Config) -> list[dict[str, float]]:
    """One summary per seed (``held_out.summarise``), at the seed's risk level.

    Args:
        returns: (M, K), or (R, M, K) with R > 1 seeds.
        config: the run's configuration.
    """
    by_seed = np.asarray(returns).reshape(len(config.plan), *returns.shape[-2:])
    summaries = [
        jax.device_get(_summarise(jnp.asarray(one), alpha))
        for alpha, one in zip(config.alphas, by_seed, strict=True)
    ]
    return [{name: float(value) for name, value in one.items()} for one in summaries]


def of_test(outcome: Outcome, config: Config) -> list[dict[str, float]]:
    """As ``summaries``, with the number of tasks on which the simulation diverged.

    Args:
        outcome: returns and divergence as in ``summaries``.
        config: the run's configuration.
    """
    diverged = np.asarray(outcome.diverged).any(axis=-1).reshape(len(config.plan), -1).sum(axis=1)
    return [
        row | {"diverged": float(count)}
        for row, count in zip(summaries(outcome.returns, config), diverged, strict=True)
    ]


def mean(rows: list[dict[str, float]], name: str) -> float:
    """The mean of a metric over the rows that have it; NaN if none has it."""
    return float(np.mean([row[name] for row in rows if name in row] or [np.nan]))


def table(
    config: Config, final: list[dict[str, float]], stopped: Mapping[int, int], inner_steps: Sequence[int] = ()
) -> Table:
    """The table of the final test: a row per seed, and a row with the mean over the seeds of each setting.

    Args:
        config: the run's configuration.
        final: one summary per seed.
        stopped: for the seeds that diverged, the iterations done before, by position of the seed.
        inner_steps: as in ``MetaLearner``.
    """
    tasks = f"{config.eval.test_tasks} held-out tasks"
    unit = "return" if inner_steps else "return per episode"
    output = Table(title=escape(f"{config.env}, {config.sampler}: {tasks}, {unit}"))
    episodes = [name for name in final[0] if name.startswith("return_episode_")]
    alpha_swept = "alpha" in config.plan[0].settings
    cvar = "CVaR" if alpha_swept else f"CVaR {config.alpha:g}"
    each = [f"after {n} step{'s' * (n != 1)}" for n in inner_steps] or [
        f"episode {i}" for i in range(len(episodes))
    ]
    for heading in ("seed", "mean", cvar, *each):
        output.add_column(heading, justify="right")
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
            label = config.plan[start].labelled("mean")
            rows.append((label, {name: mean(part, name) for name in final[0]}))
    for label, values in rows:
        numbers = [values["return_mean"], values["cvar"], *(values[name] for name in episodes)]
        output.add_row(label, *(f"{number:.3f}" for number in numbers))
    return output
