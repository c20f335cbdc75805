"""The comparison's numbers: mean, CVaR and worst task, paired differences, and ranks over test beds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.samplers import protocol
from benchmarks.samplers.training import Result
from roml_jax.evaluate import intervals
from roml_jax.evaluate.intervals import Interval
from roml_jax.evaluate.verdict import cvar

_RESAMPLES = 2000
_SEED = 20261126  # of the resampling, so that repeated tables are identical


class Row(NamedTuple):
    """A sampler on a bed.

    Attributes:
        sampler: its name.
        mean: mean return over the held-out tasks.
        cvar: CVaR at the bed's own risk level.
        levels: CVaR at ``protocol.LEVELS``.
        worst: return of the worst task of each seed.
        cvar_gain: paired differences in CVaR at the bed's level, by baseline.
        mean_gain: paired differences in the mean, by baseline.
        improves: probability that a seed has a higher CVaR than one of the first baseline.
    """

    sampler: str
    mean: Interval
    cvar: Interval
    levels: tuple[Interval, ...]
    worst: Interval
    cvar_gain: Mapping[str, Interval]
    mean_gain: Mapping[str, Interval]
    improves: Interval | None


def rivals(results: Mapping[str, Mapping[str, Result]]) -> dict[str, Mapping[str, Result]]:
    """The results by bed without the beds of ideas, which are in no ranking."""
    return {bed: one for bed, one in results.items() if bed in protocol.BEDS}


def by_seed(result: Result) -> dict[str, np.ndarray]:
    """The figures (S,) of each seed: "mean", "cvar" at the bed's level, "worst"."""
    returns = result.returns
    tails = np.array([cvar(one, result.about["alpha"]) for one in returns])
    return {"mean": returns.mean(axis=1), "cvar": tails, "worst": returns.min(axis=1)}


def _gain(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    return intervals.bootstrap(ours - theirs)


def rows(results: Mapping[str, Result], baselines: Sequence[str]) -> list[Row]:
    """A row per sampler with a result, in the order of ``results``.

    Args:
        results: by sampler.
        baselines: samplers that differences are taken from, where they have a result.
    """
    figures = {name: by_seed(result) for name, result in results.items()}
    made = []
    for name, result in results.items():
        ours, returns = figures[name], result.returns
        levels = tuple(
            intervals.bootstrap([cvar(one, level) for one in returns]) for level in protocol.LEVELS
        )
        against = {base: figures[base] for base in baselines if base in figures and base != name}
        improves = None
        if baselines[0] in against:
            improves = intervals.resampled(
                intervals.probability_of_improvement,
                ours["cvar"][:, None],
                against[baselines[0]]["cvar"][:, None],
            )
        made.append(Row(
            name, *(intervals.bootstrap(ours[what]) for what in ("mean", "cvar")), levels,
            intervals.bootstrap(ours["worst"]),
            {base: _gain(ours["cvar"], other["cvar"]) for base, other in against.items()},
            {base: _gain(ours["mean"], other["mean"]) for base, other in against.items()},
            improves,
        ))  # fmt: skip
    return made


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks (n,) of values (n,), 1 for the highest; equal values share the mean of their ranks."""
    above = (values[None] > values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    return above + (equal + 1) / 2


def ranks(results: Mapping[str, Mapping[str, Result]], what: str) -> dict[str, Interval]:
    """Each sampler's rank in a figure, averaged over the beds, with a 95 % interval.

    Samplers are ranked on each bed by their mean over seeds. The interval resamples the seeds of a bed, the
    same for all samplers, since the samplers of a seed begin with the same networks.

    Args:
        results: results by bed and sampler. Only samplers with a result on every bed are ranked.
        what: "mean", "cvar" or "worst".
    """
    names = [name for name in protocol.OPTIONS if results and all(name in one for one in results.values())]
    if not names:
        return {}
    values = {
        bed: np.stack([by_seed(one[name])[what] for name in names]) for bed, one in results.items()
    }  # (samplers, seeds)

    def average(picked: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.mean([_ranks(of[:, picked[bed]].mean(axis=1)) for bed, of in values.items()], axis=0)

    rng = np.random.default_rng(_SEED)
    sizes = {bed: of.shape[1] for bed, of in values.items()}
    rank = average({bed: np.arange(n) for bed, n in sizes.items()})
    drawn = np.stack([
        average({bed: rng.integers(n, size=n) for bed, n in sizes.items()}) for _ in range(_RESAMPLES)
    ])  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    n = min(sizes.values())
    return {
        name: Interval(rank[i], min(low[i], rank[i]), max(high[i], rank[i]), n)
        for i, name in enumerate(names)
    }
