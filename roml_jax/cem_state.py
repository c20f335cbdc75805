"""What the cross-entropy method is told and what it remembers: its options, figures and state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from roml_jax import checks
from roml_jax.types import Array

RefMode = Literal["train", "train_ref", "valid", "none"]


@dataclass(frozen=True)
class CemConfig:
    """How the cross-entropy method chooses and fits the hard tasks."""

    batch_size: int = 128
    """Scored tasks per update of the task distribution."""
    ref_share: float = 0.2
    """Share of a batch drawn from the prior: the reference tasks (rounded down); none when optimising."""
    min_share: float = 0.2
    """Share of a batch that is always selected, however hard the tasks have become."""
    soft: float = 0.5
    """How much of the old phi an update keeps."""
    ref_mode: RefMode = "train"
    """Where the threshold comes from: 'train', the weighted batch; 'train_ref', the reference tasks
    alone; 'valid', scores from outside (set_reference); 'none', min_share alone."""
    threshold: float | None = None
    """An absolute threshold in place of ref_mode's; None for none."""
    weight_clip: float | None = None
    """Clip weights to [1 / weight_clip, weight_clip]; None for no clipping."""
    quantile_soft: float = 0.0
    """How much of the last batch's reference quantile the next one keeps."""
    force_min_share: bool = True
    """Add tasks tied at the threshold, at random, where fewer than min_share lie under it."""
    optimise: bool = False
    """Seek the single hardest task: no reference tasks, no weights, no reference quantile."""
    density: Literal["clipped", "exact"] = "clipped"
    """Density that weights are taken with: 'clipped', as the family clips it (Beta families at 0.02, the
    reference: bounded, biased weights); 'exact', the family's own: unbiased, with a heavier tail."""
    history: int = 1000
    """Batches whose phi and figures are kept in the state; later ones replace the oldest."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 2, "batch_size")
        checks.at_least(self, "sampler", 1, "history")
        checks.at_least(self, "sampler", 1, "weight_clip")
        checks.share(self, "sampler", "quantile_soft")
        checks.share(self, "sampler", "ref_share", "soft", one=False)
        checks.share(self, "sampler", "min_share", zero=False)
        checks.finite(self, "sampler", "threshold")
        checks.one_of(self, "sampler", "ref_mode", get_args(RefMode))
        checks.one_of(self, "sampler", "density", ("clipped", "exact"))
        if self.ref_mode == "train_ref" and self.num_ref < 1 and self.threshold is None:
            raise ValueError(
                "sampler.ref_mode=train_ref needs reference tasks: raise sampler.ref_share above 0"
            )
        contradictions = {
            "threshold": self.threshold is not None,
            "weight_clip": self.weight_clip is not None,
            "ref_mode": self.ref_mode != "train",
            "quantile_soft": self.quantile_soft > 0,
        }
        given = [f"sampler.{name}" for name, contradicts in contradictions.items() if contradicts]
        if self.optimise and given:
            raise ValueError(
                "sampler.optimise knows no threshold, weights or reference quantile: "
                f"leave out {', '.join(given)}"
            )

    @property
    def num_ref(self) -> int:
        """Reference slots per batch."""
        return 0 if self.optimise else int(self.ref_share * self.batch_size)

    @property
    def effective_min_share(self) -> float:
        """The least share of a batch to select.

        With 'train_ref' the share counts over the tasks that are no references, as in the package
        that this mode comes from.
        """
        counts_others = self.ref_mode == "train_ref" and self.threshold is None and not self.optimise
        return self.min_share * (1 - self.num_ref / self.batch_size) if counts_others else self.min_share


class CemMetrics(NamedTuple):
    """Figures of a closed batch, scalars.

    Attributes:
        q_int: the batch's own min_share-quantile.
        q_ref: the reference quantile, an estimate of the prior's alpha-quantile; -inf without one.
        selected_share: share of the batch that was fitted.
        ess: effective sample size of the batch's weights, in tasks.
        ref_mean: mean score of the reference tasks.
        ref_cvar: their CVaR_alpha.
        sample_mean: mean score of the other tasks.
        tail_level: the level at which the references' CVaR equals sample_mean; alpha is the aim, but it
            cannot fall below one in the number of references.
        diverged: tasks without a score (NaN), which were left out.
    """

    q_int: Array
    q_ref: Array
    selected_share: Array
    ess: Array
    ref_mean: Array
    ref_cvar: Array
    sample_mean: Array
    tail_level: Array
    diverged: Array


class CemHistory(NamedTuple):
    """The last batches: phi (history, p) when each closed, before its update, and its figures (history,).

    Batch number k stands in row k % history; rows not yet written are NaN.
    """

    phi: Array
    metrics: CemMetrics


class CemState(NamedTuple):
    """The distribution parameters and the open batch.

    Attributes:
        phi: (p,) parameters that tasks are drawn with; frozen until the batch closes.
        u: (B, d) the open batch's draws, up to ``cursor``.
        log_w: (B,) their log-weights, as drawn.
        is_ref: (B,) bool.
        score: (B,) their scores.
        cursor: how many scores the open batch holds.
        drawn: how many slots have been handed out, counted from the open batch's start.
        batch: how many batches have closed.
        slot_key: decides which slots of each batch are references.
        slots: (B,) bool, the references of the batch that the next draw falls into.
        q_ref: reference quantile of the last batch, NaN before the first.
        outside: threshold from outside scores, -inf before ``set_reference``.
        history: the last batches.
    """

    phi: Array
    u: Array
    log_w: Array
    is_ref: Array
    score: Array
    cursor: Array
    drawn: Array
    batch: Array
    slot_key: Array
    slots: Array
    q_ref: Array
    outside: Array
    history: CemHistory
