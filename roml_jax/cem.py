"""The cross-entropy method over task distributions: pure functions over distribution parameters.

Tasks are drawn from a proposal with parameters phi. Every ``batch_size`` scored tasks the batch
closes: the worst of them, by the weighted quantile that estimates the prior's alpha-quantile, are
fitted and phi moves toward the fit. Some slots of each batch are drawn from the prior itself (the
references). Source: RoML's Algorithm 1 and its Dynamic CEM.

A CEM batch is not an iteration's batch: ``sample`` and ``update`` take any number of tasks, fewer
or more than a batch, and carry the leftovers with the weights they were drawn with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.proposals import Proposal
from roml_jax.types import Array

RefMode = Literal["train", "train_ref", "valid", "none"]


@dataclass(frozen=True)
class CemConfig:
    """How the cross-entropy method chooses and fits the hard tasks."""

    batch_size: int = 128
    """Scored tasks per update of the task distribution."""
    ref_share: float = 0.2
    """Share of a batch drawn from the prior: the reference tasks (rounded down)."""
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
    history: int = 1000
    """Batches whose phi and figures are kept in the state; later ones replace the oldest."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 2, "batch_size")
        checks.at_least(self, "sampler", 1, "history")
        checks.at_least(self, "sampler", 1, "weight_clip")
        checks.share(self, "sampler", "ref_share", "soft", "quantile_soft")
        checks.share(self, "sampler", "min_share", zero=False)
        checks.finite(self, "sampler", "threshold")
        checks.one_of(self, "sampler", "ref_mode", get_args(RefMode))
        if self.ref_mode == "train_ref" and self.num_ref < 1 and self.threshold is None:
            raise ValueError(
                "sampler.ref_mode=train_ref needs reference tasks: raise sampler.ref_share above 0"
            )

        if self.optimise and (self.threshold is not None or self.weight_clip is not None):
            raise ValueError("sampler.optimise knows no threshold and no weights: leave out the others")

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
    q_ref: Array
    outside: Array
    history: CemHistory


class _Entries(NamedTuple):
    """Draws with their scores: an open batch, or what is to join it."""

    u: Array
    log_w: Array
    is_ref: Array
    score: Array


def init(config: CemConfig, proposal: Proposal, key: Array) -> CemState:
    """The state before the first task: phi at the prior, an empty batch.

    Args:
        config: sizes and shares.
        proposal: the family of distributions.
        key: fixes which slots of each batch are references.
    """
    size, dtype = config.batch_size, proposal.phi0.dtype
    unknown = jnp.full((), jnp.nan, dtype)
    past = jnp.full(config.history, jnp.nan, dtype)
    return CemState(
        phi=jnp.array(proposal.phi0),  # a copy: training donates its state
        u=jnp.zeros((size, proposal.dims), dtype),
        log_w=jnp.zeros(size, dtype),
        is_ref=jnp.zeros(size, bool),
        score=jnp.zeros(size, dtype),
        cursor=jnp.zeros((), jnp.int32),
        drawn=jnp.zeros((), jnp.int32),
        batch=jnp.zeros((), jnp.int32),
        slot_key=key,
        q_ref=unknown,
        outside=jnp.full((), -jnp.inf, dtype),
        history=CemHistory(
            jnp.full((config.history, proposal.phi0.size), jnp.nan, dtype),
            CemMetrics(*(jnp.array(past) for _ in CemMetrics._fields)),
        ),
    )


def set_reference(state: CemState, scores: Array, alpha: Array | float) -> CemState:
    """Takes scores (n,) of tasks from the prior, from outside, for ``ref_mode="valid"``; NaN is left out.

    Raises:
        ValueError: if there are none.
    """
    if scores.shape[0] == 0:
        raise ValueError("set_reference needs at least one score")
    valid = ~jnp.isnan(scores)
    outside = risk.quantile(risk.finite(scores), risk.underlying_level(alpha, valid.sum()), valid)
    return state._replace(outside=jnp.where(valid.any(), outside, -jnp.inf).astype(state.phi.dtype))


def reference_slots(config: CemConfig, slot_key: Array, batch: Array) -> Array:
    """Which slots of a batch are references, (B,) bool: num_ref of them, without replacement."""
    slots = jax.random.permutation(jax.random.fold_in(slot_key, batch), config.batch_size)
    return slots < config.num_ref


def sample(
    config: CemConfig, proposal: Proposal, state: CemState, key: Array, n: int
) -> tuple[CemState, Array, Array, Array]:
    """Draws n tasks for the next n slots.

    Slots beyond the open batch take the references of the batches to come, and the open batch's phi.

    Returns:
        (state, u (n, d), log_w (n,), is_ref (n,)).
    """
    size = config.batch_size
    batches = jnp.arange((n - 1) // size + 2)
    first = state.drawn // size
    slots = jax.vmap(lambda k: reference_slots(config, state.slot_key, state.batch + first + k))(batches)
    is_ref = jax.lax.dynamic_slice(slots.reshape(-1), (state.drawn - first * size,), (n,))
    key_ref, key_phi = jax.random.split(key)
    u = jnp.where(
        is_ref[:, None],
        proposal.sample(proposal.phi0.astype(state.phi.dtype), key_ref, n),
        proposal.sample(state.phi, key_phi, n),
    )
    log_w = proposal.log_prob(proposal.phi0.astype(state.phi.dtype), u) - proposal.log_prob(state.phi, u)
    log_w = jnp.where(is_ref, 0.0, log_w)
    return state._replace(drawn=state.drawn + n), u, log_w, is_ref


def weights_of(config: CemConfig, log_w: Array) -> Array:
    """The weights that a batch's draws count with, from their log-weights."""
    if config.optimise:
        return jnp.ones_like(log_w)
    weights = jnp.exp(log_w)
    return (
        weights
        if config.weight_clip is None
        else jnp.clip(weights, 1 / config.weight_clip, config.weight_clip)
    )


def _reference_quantile(
    config: CemConfig, score: Array, weights: Array, is_ref: Array, alpha: Array | float, outside: Array
) -> Array:
    """The threshold that references or outside scores give; -inf for none."""
    valid = ~jnp.isnan(score)
    none = jnp.full((), -jnp.inf, score.dtype)
    if config.optimise:
        return none
    if config.threshold is not None:
        return jnp.full((), config.threshold, score.dtype)
    if config.ref_mode == "train":
        level = risk.underlying_level(alpha, valid.sum())
        return risk.weighted_quantile(risk.finite(score), weights, level, valid)
    if config.ref_mode == "train_ref":
        refs = valid & is_ref
        q_ref = risk.quantile(risk.finite(score), risk.underlying_level(alpha, refs.sum()), refs)
        return jnp.where(refs.any(), q_ref, none)
    return outside if config.ref_mode == "valid" else none


def select(config: CemConfig, score: Array, q_ref: Array, tie_order: Array) -> tuple[Array, Array]:
    """Chooses the tasks of a closed batch that the next distribution is fitted to.

    Every score strictly under max(q_int, q_ref) is chosen, q_int being the batch's own quantile;
    where ties at that threshold leave fewer than the least share, tied tasks are added in order.

    Args:
        config: shares.
        score: (B,) returns; a NaN is left out.
        q_ref: () reference quantile, -inf for none.
        tie_order: (B,) distinct numbers; among tied tasks the lowest come first.

    Returns:
        (chosen (B,) bool, q_int ()).
    """
    valid, score = ~jnp.isnan(score), risk.finite(score)
    q_int = risk.quantile(score, config.effective_min_share, valid)
    threshold = jnp.maximum(q_int, q_ref)
    chosen = valid & (score < threshold)
    if config.force_min_share:
        missing = int(config.effective_min_share * config.batch_size) - chosen.sum()
        tied = valid & (score == threshold)
        in_order = jnp.sort(jnp.where(tied, tie_order, jnp.inf))
        last = in_order[jnp.maximum(missing - 1, 0)]
        chosen |= tied & (tie_order <= last) & (missing > 0)
    return chosen, q_int


def _figures(
    batch: _Entries, weights: Array, chosen: Array, q_int: Array, q_ref: Array, alpha: Array | float
) -> CemMetrics:
    valid = ~jnp.isnan(batch.score)
    refs, others = valid & batch.is_ref, valid & ~batch.is_ref
    counted = jnp.where(valid, weights, 0.0)
    sample_mean = risk.masked_mean(batch.score, others)
    return CemMetrics(
        q_int=q_int,
        q_ref=q_ref,
        selected_share=chosen.mean(dtype=weights.dtype),
        ess=counted.sum() ** 2 / jnp.maximum((counted**2).sum(), jnp.finfo(weights.dtype).tiny),
        ref_mean=risk.masked_mean(batch.score, refs),
        ref_cvar=risk.cvar(batch.score, alpha, refs),
        sample_mean=sample_mean,
        tail_level=risk.tail_level(sample_mean, batch.score, refs),
        diverged=(~valid).sum().astype(weights.dtype),
    )


def _close(
    config: CemConfig, proposal: Proposal, state: CemState, batch: _Entries, alpha: Array | float, key: Array
) -> tuple[Array, CemMetrics]:
    """The next phi, and the figures of the batch that closes."""
    phi, weights = state.phi, weights_of(config, batch.log_w)
    q_ref = _reference_quantile(config, batch.score, weights, batch.is_ref, alpha, state.outside)
    if config.quantile_soft:
        smoothed = config.quantile_soft * state.q_ref + (1 - config.quantile_soft) * q_ref
        q_ref = jnp.where(jnp.isfinite(state.q_ref) & jnp.isfinite(q_ref), smoothed, q_ref)
    chosen, q_int = select(config, batch.score, q_ref, jax.random.uniform(key, batch.score.shape))
    kept = jnp.where(chosen, weights, 0.0)
    # Weights far from the prior can be tiny; only their ratios matter to the fit.
    kept = kept / jnp.maximum(kept.max(), jnp.finfo(kept.dtype).tiny)
    fitted = proposal.fit(batch.u, kept)  # 0/0 where nothing was chosen, and not used then
    moved = config.soft * phi + (1 - config.soft) * fitted
    new_phi = jnp.where(kept.sum() > 0, moved, phi)
    return new_phi, _figures(batch, weights, chosen, q_int, q_ref, alpha)


def _empty_metrics(state: CemState) -> CemMetrics:
    return CemMetrics(*(jnp.full((), jnp.nan, state.phi.dtype) for _ in CemMetrics._fields))


def _append(
    config: CemConfig, proposal: Proposal, state: CemState, new: _Entries, alpha: Array | float, key: Array
) -> tuple[CemState, CemMetrics]:
    """Adds at most a batch of entries; closes the open batch at most once."""
    size, n = config.batch_size, new.score.shape[0]
    held = _Entries(state.u, state.log_w, state.is_ref, state.score)

    def place(old: Array, added: Array) -> Array:
        room = jnp.concatenate([old, jnp.zeros((n, *old.shape[1:]), old.dtype)])
        return jax.lax.dynamic_update_slice_in_dim(room, added.astype(old.dtype), state.cursor, axis=0)

    room = jax.tree.map(place, held, new)
    closes = state.cursor + n >= size
    full = jax.tree.map(lambda x: x[:size], room)
    phi, metrics = jax.lax.cond(
        closes,
        lambda: _close(config, proposal, state, full, alpha, key),
        lambda: (state.phi, _empty_metrics(state)),
    )

    def keep(x: Array) -> Array:
        leftover = jnp.concatenate([x[size:], jnp.zeros((size - n, *x.shape[1:]), x.dtype)])
        return jnp.where(closes, leftover, x[:size])

    def note(past: Array, value: Array) -> Array:
        row = state.batch % config.history
        return past.at[row].set(jnp.where(closes, value, past[row]))

    open_batch = jax.tree.map(keep, room)
    shift = jnp.where(closes, size, 0)
    return CemState(
        phi=phi,
        u=open_batch.u,
        log_w=open_batch.log_w,
        is_ref=open_batch.is_ref,
        score=open_batch.score,
        cursor=state.cursor + n - shift,
        drawn=state.drawn - shift,
        batch=state.batch + closes,
        slot_key=state.slot_key,
        q_ref=jnp.where(closes, metrics.q_ref, state.q_ref),
        outside=state.outside,
        history=jax.tree.map(note, state.history, CemHistory(state.phi, metrics)),
    ), metrics


def update(
    config: CemConfig,
    proposal: Proposal,
    state: CemState,
    draw: tuple[Array, Array, Array],
    score: Array,
    alpha: Array | float,
    key: Array,
) -> tuple[CemState, CemMetrics]:
    """Takes the scores of drawn tasks; closes as many batches as they fill.

    Args:
        config: sizes, shares, mode.
        proposal: the family of distributions.
        state: what ``sample`` returned.
        draw: (u (n, d), log_w (n,), is_ref (n,)) as ``sample`` gave them, in the same order.
        score: (n,) returns, higher is better; NaN marks a diverged task, which is left out.
        alpha: risk level in (0, 1].
        key: breaks ties.

    Returns:
        (state, figures of the last batch that closed, NaN where none closed).
    """
    n, size = score.shape[0], config.batch_size
    entries = _Entries(*draw, score)
    whole = n // size
    metrics = _empty_metrics(state)

    def append(state: CemState, now: tuple[_Entries, Array]) -> tuple[CemState, CemMetrics]:
        return _append(config, proposal, state, now[0], alpha, now[1])

    if whole:
        batches = jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), entries)
        state, each = jax.lax.scan(append, state, (batches, jax.random.split(key, whole)))
        metrics = jax.tree.map(lambda m: m[-1], each)
    if n % size:
        rest = jax.tree.map(lambda x: x[whole * size :], entries)
        state, latest = append(state, (rest, jax.random.fold_in(key, n)))
        closed = ~jnp.isnan(latest.selected_share)
        metrics = jax.tree.map(lambda new, old: jnp.where(closed, new, old), latest, metrics)
    return state, metrics
