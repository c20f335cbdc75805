"""Options, metrics and state of the cross-entropy method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from roml_jax import checks
from roml_jax.types import Array

RefMode = Literal["train", "train_ref", "valid", "none"]


@dataclass(frozen=True)
class CemConfig:
    """Options of the cross-entropy method."""

    batch_size: int = 128
    """Scored tasks per update of the task distribution."""
    ref_share: float = 0.2
    """Share of a batch drawn from the prior as reference tasks (rounded down); 0 with optimise."""
    min_share: float = 0.2
    """Minimum share of a batch that is selected for the fit."""
    soft: float = 0.5
    """Weight of the old phi in an update: phi <- soft * phi + (1 - soft) * fit."""
    ref_mode: RefMode = "train"
    """Source of the threshold: 'train', the weighted batch; 'train_ref', only the reference tasks;
    'valid', scores from the caller (cem.set_reference); 'none', only min_share."""
    threshold: float | None = None
    """Absolute threshold on the score, instead of ref_mode's; None to use ref_mode."""
    weight_clip: float | None = None
    """Clip weights to [1 / weight_clip, weight_clip]; None for no clipping."""
    quantile_soft: float = 0.0
    """Weight of the previous batch's reference quantile in the next one (exponential smoothing)."""
    force_min_share: bool = True
    """If ties at the threshold leave fewer than min_share selected, add tied tasks at random."""
    optimise: bool = False
    """Search for the single hardest task: no reference tasks, no weights, no reference quantile."""
    density: Literal["clipped", "exact"] = "clipped"
    """Density of the weights: 'clipped', bounded but biased (the reference; Beta families clip u at 0.02);
    'exact', unbiased with a heavier tail."""
    history: int = 1000
    """Number of latest batches whose phi and metrics are kept in the state."""

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
                "sampler.ref_mode=train_ref needs reference tasks, at least one per batch: "
                "raise sampler.ref_share"
            )
        unused = {
            "threshold": self.threshold is not None,
            "weight_clip": self.weight_clip is not None,
            "ref_mode": self.ref_mode != "train",
            "quantile_soft": self.quantile_soft > 0,
        }
        conflicting = [f"sampler.{name}" for name, is_set in unused.items() if is_set]
        if self.optimise and conflicting:
            raise ValueError(
                "sampler.optimise uses no threshold, weights or reference quantile: "
                f"leave out {', '.join(conflicting)}"
            )

    @property
    def num_ref(self) -> int:
        """Reference slots per batch."""
        return 0 if self.optimise else int(self.ref_share * self.batch_size)

    @property
    def effective_min_share(self) -> float:
        """The minimum share of a batch to select.

        With 'train_ref', min_share is a share of the tasks that are not references, as in the
        ``cross-entropy-method`` package, where this mode comes from.
        """
        counts_others = self.ref_mode == "train_ref" and self.threshold is None and not self.optimise
        return self.min_share * (1 - self.num_ref / self.batch_size) if counts_others else self.min_share


class CemMetrics(NamedTuple):
    """Metrics of a closed batch, scalars.

    Attributes:
        q_int: the min_share-quantile of the batch itself.
        q_ref: the reference quantile, an estimate of the prior's alpha-quantile; -inf without one.
        selected_share: share of the batch that was selected for the fit.
        ess: effective sample size of the batch's weights, in tasks.
        ref_mean: mean score of the reference tasks.
        ref_cvar: their CVaR_alpha.
        sample_mean: mean score of the other tasks.
        tail_level: the level at which the references' CVaR equals sample_mean. The target is alpha; the
            least possible value is 1 / number of references.
        diverged: number of tasks without a score (NaN), which were left out.
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
    """The latest batches: phi (history, p) that each was drawn with, and its metrics (history,).

    Batch k is in row k % history; rows not yet written are NaN.

    Attributes:
        rows: (history, p + number of metrics), one array, since an update writes each with a kernel.
    """

    rows: Array

    @property
    def phi(self) -> Array:
        """The parameters (history, p)."""
        return self.rows[..., : -len(CemMetrics._fields)]

    @property
    def metrics(self) -> CemMetrics:
        """The metrics, (history,) each."""
        first = self.rows.shape[-1] - len(CemMetrics._fields)
        return CemMetrics(*(self.rows[..., first + i] for i in range(len(CemMetrics._fields))))


class CemState(NamedTuple):
    """The distribution parameters and the open batch.

    Attributes:
        phi: (p,) parameters that tasks are drawn with; constant until the batch closes.
        u: (B, d) the open batch's draws; the first ``cursor`` are filled.
        log_w: (B,) their log-weights, as drawn.
        is_ref: (B,) bool.
        score: (B,) their scores.
        cursor: () number of scores in the open batch.
        drawn: () number of tasks drawn since the open batch began.
        batch: () number of closed batches.
        slot_key: determines which slots of each batch are references.
        slots: (B,) bool, the reference slots of the batch that the next draw belongs to.
        q_ref: () reference quantile of the last closed batch, NaN before the first.
        outside: () threshold that ``set_reference`` set, -inf before.
        history: the latest batches.
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
