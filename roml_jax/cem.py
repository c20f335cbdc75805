"""The cross-entropy method over task distributions: pure functions of a state.

Tasks are drawn from a proposal with parameters phi. A batch closes after ``batch_size`` scored tasks:
the proposal is fitted to the batch's worst tasks and phi moves toward the fit. The worst tasks are those
below a threshold, a weighted quantile that estimates the prior's alpha-quantile. Some slots of each batch
are drawn from the prior (the references). Source: RoML's Algorithm 1 and its Dynamic CEM.

A CEM batch is independent of an iteration's batch: ``sample`` and ``update`` take any number of tasks.
Tasks of an unfinished batch stay in the state with the weights they were drawn with.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import proposals, risk, stacked
from roml_jax.cem_state import CemConfig, CemHistory, CemMetrics, CemState, RefMode
from roml_jax.proposals import Proposal
from roml_jax.types import Array, TaskDraw

__all__ = [
    "CemConfig",
    "CemHistory",
    "CemMetrics",
    "CemState",
    "RefMode",
    "init",
    "reference_slots",
    "sample",
    "select",
    "set_reference",
    "update",
    "weights_of",
]


class _Entries(NamedTuple):
    """Draws with their scores: the open batch, or new entries for it."""

    u: Array
    log_w: Array
    is_ref: Array
    score: Array


class _Sorted(NamedTuple):
    """A closed batch in ascending order of score, NaN last; every quantile and metric uses this one sort.

    Attributes:
        score: (B,) unchanged scores.
        finite: (B,) scores with infinities clipped to large finite numbers; +inf in place of NaN.
        weights: (B,).
        is_ref: (B,) bool.
        valid: (B,) bool, False where the score is NaN.
    """

    score: Array
    finite: Array
    weights: Array
    is_ref: Array
    valid: Array


def _family(config: CemConfig, proposal: Proposal) -> Proposal:
    return proposals.exact(proposal) if config.density == "exact" else proposal


def init(config: CemConfig, proposal: Proposal, key: Array) -> CemState:
    """The initial state: phi at the prior and an empty batch.

    Args:
        config: options.
        proposal: the family of distributions.
        key: determines which slots of each batch are references.
    """
    size, dtype = config.batch_size, proposal.phi0.dtype
    unknown = jnp.full((), jnp.nan, dtype)
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
        slots=reference_slots(config, key, jnp.zeros((), jnp.int32)),
        q_ref=unknown,
        outside=jnp.full((), -jnp.inf, dtype),
        history=CemHistory(
            jnp.full((config.history, proposal.phi0.size + len(CemMetrics._fields)), jnp.nan, dtype)
        ),
    )


def set_reference(state: CemState, scores: Array, alpha: Array | float) -> CemState:
    """Sets the threshold of ``ref_mode="valid"`` from the scores of prior tasks that the caller evaluated.

    Args:
        state: before.
        scores: (n,) NaN is left out.
        alpha: risk level in (0, 1].

    Raises:
        ValueError: if n is 0.
    """
    if scores.shape[0] == 0:
        raise ValueError("set_reference needs at least one score")
    valid = ~jnp.isnan(scores)
    outside = risk.quantile(risk.finite(scores), risk.underlying_level(alpha, valid.sum()), valid)
    return state._replace(outside=jnp.where(valid.any(), outside, -jnp.inf).astype(state.phi.dtype))


def reference_slots(config: CemConfig, slot_key: Array, batch: Array) -> Array:
    """The reference slots of a batch, (B,) bool: ``num_ref`` random ones, without replacement."""
    order = risk.order(jax.random.bits(jax.random.fold_in(slot_key, batch), (config.batch_size,)))
    return order < config.num_ref


def sample(
    config: CemConfig, proposal: Proposal, state: CemState, key: Array, n: int
) -> tuple[CemState, TaskDraw]:
    """Draws n tasks for the next n slots.

    Slots after the open batch use the reference slots of their own batch and the current phi.

    Returns:
        (state, draw of n tasks). The draw's ``task`` is u; a family decodes u to the environment's units.
    """
    size, proposal = config.batch_size, _family(config, proposal)
    ahead = (n - 1) // size + 1
    current = state.drawn // size
    offset = state.drawn - current * size

    def of_the_next_batches() -> Array:
        later = state.batch + current + 1 + jnp.arange(ahead)
        return jax.vmap(lambda k: reference_slots(config, state.slot_key, k))(later).reshape(-1)

    # sorting for the reference slots dominates a small call, so it runs only if another batch begins
    begins = (n >= size) | (offset + n >= size)  # n >= size is static; if True, XLA removes the branch
    nothing = jnp.zeros(ahead * size, bool)
    slots = jnp.concatenate([state.slots, jax.lax.cond(begins, of_the_next_batches, lambda: nothing)])
    is_ref = jax.lax.dynamic_slice(slots, (offset,), (n,))
    following = jax.lax.dynamic_slice(slots, ((offset + n) // size * size,), (size,))

    phi0 = proposal.phi0.astype(state.phi.dtype)
    key_ref, key_phi = jax.random.split(key)
    from_prior, from_phi = proposal.sample(phi0, key_ref, n), proposal.sample(state.phi, key_phi, n)
    u = jnp.where(is_ref[:, None], from_prior, from_phi)
    log_w = jnp.where(is_ref, 0.0, proposal.log_prob(phi0, u) - proposal.log_prob(state.phi, u))
    return state._replace(drawn=state.drawn + n, slots=following), TaskDraw(u, u, log_w, is_ref)


def weights_of(config: CemConfig, log_w: Array) -> Array:
    """Weights of a batch's draws, from their log-weights."""
    if config.optimise:
        return jnp.ones_like(log_w)
    weights = jnp.exp(log_w)
    return (
        weights
        if config.weight_clip is None
        else jnp.clip(weights, 1 / config.weight_clip, config.weight_clip)
    )


def _reference_quantile(config: CemConfig, batch: _Sorted, alpha: Array | float, outside: Array) -> Array:
    """The threshold from the source that ``ref_mode`` names; -inf if there is none."""
    none = jnp.full((), -jnp.inf, batch.score.dtype)
    if config.optimise:
        return none
    if config.threshold is not None:
        return jnp.full((), config.threshold, batch.score.dtype)
    if config.ref_mode == "train":
        level = risk.underlying_level(alpha, batch.valid.sum())
        return risk.weighted_quantile(batch.finite, batch.weights, level, batch.valid, assume_sorted=True)
    if config.ref_mode == "train_ref":
        refs = batch.valid & batch.is_ref
        level = risk.underlying_level(alpha, refs.sum())
        q_ref = risk.quantile(batch.finite, level, refs, assume_sorted=True)
        return jnp.where(refs.any(), q_ref, none)
    return outside if config.ref_mode == "valid" else none


def select(config: CemConfig, score: Array, threshold: Array) -> Array:
    """Selects the tasks of a closed batch that the next distribution is fitted to.

    Every task with a score below the threshold is selected. With ``force_min_share``, tasks tied at the
    threshold are added, in order, until the minimum share is reached. At alpha = 1 the threshold is the best
    score, so that every task but the best is selected, as in the reference.

    Args:
        config: options.
        score: (B,) ascending, ties in random order; entries that do not count are +inf.
        threshold: () the larger of the batch's own quantile and the reference quantile.

    Returns:
        (B,) bool.
    """
    chosen = score < threshold
    if not config.force_min_share:
        return chosen
    least = int(config.effective_min_share * config.batch_size)
    tied = (score == threshold) & (score < jnp.inf)  # without any score, the threshold is +inf, too
    return chosen | (tied & (jnp.arange(score.shape[0]) < least))


def _figures(batch: _Sorted, chosen: Array, q_int: Array, q_ref: Array, alpha: Array | float) -> CemMetrics:
    refs, others = batch.valid & batch.is_ref, batch.valid & ~batch.is_ref
    counted = jnp.where(batch.valid, batch.weights, 0.0)
    sample_mean = risk.masked_mean(batch.score, others)
    return CemMetrics(
        q_int=q_int,
        q_ref=q_ref,
        selected_share=chosen.mean(dtype=counted.dtype),
        ess=counted.sum() ** 2 / jnp.maximum((counted**2).sum(), jnp.finfo(counted.dtype).tiny),
        ref_mean=risk.masked_mean(batch.score, refs),
        ref_cvar=risk.cvar(batch.score, alpha, refs, assume_sorted=True),
        sample_mean=sample_mean,
        tail_level=risk.tail_level(sample_mean, batch.score, refs, assume_sorted=True),
        diverged=(~batch.valid).sum().astype(counted.dtype),
    )


def _selected_weights(log_w: Array, weights: Array, order: Array, chosen: Array) -> Array:
    """Weights for the fit, (B,) in the order of the draws: at most 1, and 0 for tasks that are not chosen.

    The fit depends on the ratios of weights only. Far from the prior, all chosen weights may be too small
    for a float; they are then computed from the ratios.

    Args:
        log_w: (B,) as drawn.
        weights: (B,) of the same draws.
        order: (B,) indices that sort the batch by score.
        chosen: (B,) bool, in sorted order.
    """
    chosen = jnp.zeros_like(chosen).at[order].set(chosen, unique_indices=True)
    selected = jnp.where(chosen, weights, 0.0)
    largest = selected.max()
    selected = selected / jnp.maximum(largest, jnp.finfo(selected.dtype).tiny)
    counted = chosen & (log_w > -jnp.inf)
    from_ratios = jnp.exp(log_w - jnp.where(counted, log_w, -jnp.inf).max())
    return jnp.where(largest > 0, selected, jnp.where(counted, from_ratios, 0.0))


def _close(
    config: CemConfig, proposal: Proposal, state: CemState, batch: _Entries, alpha: Array | float, key: Array
) -> tuple[Array, CemMetrics]:
    """Returns (the next phi, the metrics of the closing batch).

    Phi stays as it is if no task was selected (e.g. without any score) or if the fit is not finite.
    """
    weights, valid = weights_of(config, batch.log_w), ~jnp.isnan(batch.score)
    score = jnp.where(valid, risk.finite(batch.score), jnp.inf)
    order = risk.order(score, jax.random.uniform(key, score.shape))
    columns = stacked.pack(_Sorted(batch.score, score, weights, batch.is_ref, valid))
    ordered = stacked.unpack(dataclasses.replace(columns, floats=columns.floats[order]))
    q_int = risk.quantile(ordered.finite, config.effective_min_share, ordered.valid, assume_sorted=True)
    q_ref = _reference_quantile(config, ordered, alpha, state.outside)
    if config.quantile_soft:
        smoothed = config.quantile_soft * state.q_ref + (1 - config.quantile_soft) * q_ref
        q_ref = jnp.where(jnp.isfinite(state.q_ref) & jnp.isfinite(q_ref), smoothed, q_ref)
    chosen = select(config, ordered.finite, jnp.maximum(q_int, q_ref))
    selected = _selected_weights(batch.log_w, weights, order, chosen)
    fitted = proposal.fit(batch.u, selected)  # NaN if no task was selected, but then not used
    moved = config.soft * state.phi + (1 - config.soft) * fitted
    moves = (selected.sum() > 0) & jnp.isfinite(moved).all()
    new_phi = jnp.where(moves, moved, state.phi)
    return new_phi, _figures(ordered, chosen, q_int, q_ref, alpha)


def _append(
    config: CemConfig, proposal: Proposal, state: CemState, new: _Entries, alpha: Array | float, key: Array
) -> tuple[CemState, CemMetrics]:
    """Adds up to ``batch_size`` entries to the open batch and closes it if it is full."""
    size, n = config.batch_size, new.score.shape[0]
    # one array each for the batch, the metrics and the history: each array would be kernels of its own
    entries = _Entries(state.u, state.log_w, state.is_ref, state.score)
    held = stacked.pack(entries)
    added = stacked.pack(jax.tree.map(lambda x, like: x.astype(like.dtype), new, entries))
    room = jnp.concatenate([held.floats, jnp.zeros((n, held.floats.shape[1]), held.floats.dtype)])
    room = jax.lax.dynamic_update_slice_in_dim(room, added.floats, state.cursor, axis=0)
    closes = (n >= size) | (state.cursor + n >= size)  # n >= size is static; if True, XLA removes the branch

    def close() -> tuple[Array, Array]:
        full = stacked.unpack(dataclasses.replace(held, floats=room[:size]))
        phi, metrics = _close(config, proposal, state, full, alpha, key)
        return phi, jnp.stack(metrics)

    unknown = jnp.full(len(CemMetrics._fields), jnp.nan, state.phi.dtype)
    phi, figures = jax.lax.cond(closes, close, lambda: (state.phi, unknown))
    leftover = jnp.concatenate([room[size:], jnp.zeros((size - n, room.shape[1]), room.dtype)])
    open_batch = stacked.unpack(dataclasses.replace(held, floats=jnp.where(closes, leftover, room[:size])))
    row = state.batch % config.history
    past = state.history.rows
    noted = jnp.where(closes, jnp.concatenate([state.phi, figures]), past[row])
    metrics, shift = CemMetrics(*figures), jnp.where(closes, size, 0)
    return state._replace(
        phi=phi,
        **open_batch._asdict(),
        cursor=state.cursor + n - shift,
        drawn=state.drawn - shift,
        batch=state.batch + closes,
        q_ref=jnp.where(closes, metrics.q_ref, state.q_ref),
        history=CemHistory(past.at[row].set(noted)),
    ), metrics


def update(
    config: CemConfig,
    proposal: Proposal,
    state: CemState,
    draw: TaskDraw,
    score: Array,
    key: Array,
    alpha: Array | float,
) -> tuple[CemState, CemMetrics]:
    """Adds the scores of drawn tasks and closes every batch that they fill.

    Args:
        config: options.
        proposal: the family of distributions.
        state: as returned by ``sample``.
        draw: n tasks, as returned by ``sample``; ``draw.task`` is not read.
        score: (n,) returns in the draw's order, higher is better; NaN, a diverged task, is left out.
            A batch without any score leaves phi as it is.
        key: randomness for breaking ties.
        alpha: risk level in (0, 1]; 1 leaves out the best task of a batch (see ``select``).

    Returns:
        (state, metrics of the last batch that closed; NaN if none closed).
    """
    n, size = score.shape[0], config.batch_size
    entries, proposal = _Entries(draw.u, draw.log_w, draw.is_ref, score), _family(config, proposal)
    whole = n // size
    metrics = CemMetrics(*(jnp.full((), jnp.nan, state.phi.dtype) for _ in CemMetrics._fields))

    def append(state: CemState, now: tuple[_Entries, Array]) -> tuple[CemState, CemMetrics]:
        return _append(config, proposal, state, now[0], alpha, now[1])

    if whole:
        batches = jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), entries)
        state, each = jax.lax.scan(append, state, (batches, jax.random.split(key, whole)))
        metrics = jax.tree.map(lambda m: m[-1], each)
    if n % size:
        rest = jax.tree.map(lambda x: x[whole * size :], entries)
        state, latest = append(state, (rest, jax.random.fold_in(key, n)))
        if not whole:
            return state, latest
        closed = ~jnp.isnan(latest.selected_share)
        metrics = jax.tree.map(lambda new, old: jnp.where(closed, new, old), latest, metrics)
    return state, metrics
