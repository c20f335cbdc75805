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
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.tasks import Proposal
from roml_jax.types import Array, Metrics

RefMode = Literal["train", "train_ref", "none"]


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
    alone; 'none', min_share alone."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 2, "batch_size")
        checks.share(self, "sampler", "ref_share", "soft")
        checks.share(self, "sampler", "min_share", zero=False)
        if self.ref_mode == "train_ref" and self.num_ref < 1:
            raise ValueError(
                "sampler.ref_mode=train_ref needs reference tasks: raise sampler.ref_share above 0"
            )

    @property
    def num_ref(self) -> int:
        """Reference slots per batch."""
        return int(self.ref_share * self.batch_size)


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


class _Entries(NamedTuple):
    """Draws with their scores: an open batch, or what is to join it."""

    u: Array
    log_w: Array
    is_ref: Array
    score: Array


class Selection(NamedTuple):
    """Which tasks of a closed batch are fitted, and why.

    Attributes:
        mask: (B,) bool.
        q_int: the batch's own min_share-quantile.
        q_ref: the estimate of the prior's alpha-quantile, -inf without references.
        valid: (B,) bool, False where a score is NaN (a diverged task).
    """

    mask: Array
    q_int: Array
    q_ref: Array
    valid: Array


def init(config: CemConfig, proposal: Proposal, key: Array, dims: int) -> CemState:
    """The state before the first task: phi at the prior, an empty batch.

    Args:
        config: sizes and shares.
        proposal: the family of distributions.
        key: fixes which slots of each batch are references.
        dims: d, the numbers in one u.
    """
    size, dtype = config.batch_size, proposal.phi0.dtype
    return CemState(
        phi=jnp.array(proposal.phi0),  # a copy: training donates its state
        u=jnp.zeros((size, dims), dtype),
        log_w=jnp.zeros(size, dtype),
        is_ref=jnp.zeros(size, bool),
        score=jnp.zeros(size, dtype),
        cursor=jnp.zeros((), jnp.int32),
        drawn=jnp.zeros((), jnp.int32),
        batch=jnp.zeros((), jnp.int32),
        slot_key=key,
    )


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


def select(
    config: CemConfig, score: Array, log_w: Array, is_ref: Array, alpha: Array | float, tie_order: Array
) -> Selection:
    """Chooses the tasks of a closed batch that the next distribution is fitted to.

    Every score strictly under max(q_int, q_ref) is chosen; where ties at that threshold leave fewer
    than min_share of the batch, tied tasks are added in the order given.

    Args:
        config: shares and mode.
        score: (B,) returns; a NaN is left out.
        log_w: (B,) log-weights.
        is_ref: (B,) bool.
        alpha: risk level.
        tie_order: (B,) distinct numbers; among tied tasks the lowest come first.
    """
    valid = ~jnp.isnan(score)
    min_share, q_ref = config.min_share, jnp.asarray(-jnp.inf, score.dtype)
    if config.ref_mode == "train":
        level = risk.underlying_level(alpha, valid.sum())
        q_ref = risk.weighted_quantile(score, jnp.exp(log_w), level, valid)
    elif config.ref_mode == "train_ref":
        refs = valid & is_ref
        q_ref = jnp.where(
            refs.any(), risk.quantile(score, risk.underlying_level(alpha, refs.sum()), refs), q_ref
        )
        # the package behind this mode counts the share over the non-reference tasks
        min_share = min_share * (1 - config.num_ref / config.batch_size)
    q_int = risk.quantile(score, min_share, valid)
    threshold = jnp.maximum(q_int, q_ref)
    mask = valid & (score < threshold)
    missing = jnp.maximum(jnp.floor(min_share * config.batch_size - mask.sum()), 0)
    tied = valid & (score == threshold)
    rank_among_tied = jnp.argsort(jnp.argsort(jnp.where(tied, tie_order, jnp.inf)))
    return Selection(mask | (tied & (rank_among_tied < missing)), q_int, q_ref, valid)


def _close(
    config: CemConfig, proposal: Proposal, phi: Array, batch: _Entries, alpha: Array | float, key: Array
) -> tuple[Array, Metrics]:
    chosen = select(
        config, batch.score, batch.log_w, batch.is_ref, alpha, jax.random.uniform(key, batch.score.shape)
    )
    weights = jnp.where(chosen.mask, jnp.exp(batch.log_w), 0.0)
    fitted = proposal.fit(batch.u, weights)  # 0/0 where nothing was chosen, and not used then
    new_phi = jnp.where(weights.sum() > 0, config.soft * phi + (1 - config.soft) * fitted, phi)
    all_weights = jnp.where(chosen.valid, jnp.exp(batch.log_w), 0.0)
    metrics = {
        "q_int": chosen.q_int,
        "q_ref": chosen.q_ref,
        "selected_share": chosen.mask.mean(dtype=phi.dtype),
        "ess": all_weights.sum() ** 2 / jnp.maximum((all_weights**2).sum(), 1e-12),
        "diverged": (~chosen.valid).sum().astype(phi.dtype),
    }
    return new_phi, metrics


def _empty_metrics(state: CemState) -> Metrics:
    names = ("q_int", "q_ref", "selected_share", "ess", "diverged")
    return {name: jnp.full((), jnp.nan, state.phi.dtype) for name in names}


def _append(
    config: CemConfig, proposal: Proposal, state: CemState, new: _Entries, alpha: Array | float, key: Array
) -> tuple[CemState, Metrics]:
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
        lambda: _close(config, proposal, state.phi, full, alpha, key),
        lambda: (state.phi, _empty_metrics(state)),
    )

    def keep(x: Array) -> Array:
        leftover = jnp.concatenate([x[size:], jnp.zeros((size - n, *x.shape[1:]), x.dtype)])
        return jnp.where(closes, leftover, x[:size])

    open_batch = jax.tree.map(keep, room)
    shift = jnp.where(closes, size, 0)
    state = state._replace(
        phi=phi,
        u=open_batch.u,
        log_w=open_batch.log_w,
        is_ref=open_batch.is_ref,
        score=open_batch.score,
        cursor=state.cursor + n - shift,
        drawn=state.drawn - shift,
        batch=state.batch + closes,
    )
    return state, metrics


def update(
    config: CemConfig,
    proposal: Proposal,
    state: CemState,
    draw: tuple[Array, Array, Array],
    score: Array,
    alpha: Array | float,
    key: Array,
) -> tuple[CemState, Metrics]:
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
        (state, metrics of the last batch that closed: q_int, q_ref, selected_share, ess (effective
        sample size of the batch's weights), diverged; NaN where none closed).
    """
    n, size = score.shape[0], config.batch_size
    metrics = _empty_metrics(state)
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        new = _Entries(*(x[part] for x in draw), score=score[part])
        state, latest = _append(config, proposal, state, new, alpha, jax.random.fold_in(key, start))
        metrics = jax.tree.map(lambda a, b: jnp.where(jnp.isnan(b), a, b), metrics, latest)
    return state, metrics
