"""Variants of RoML that take something from its rivals; samplers of this benchmark alone.

Each keeps the cross-entropy method and changes one thing. A variant that is better than ``cem``, with an
interval that excludes zero, becomes a sampler of the package. The others are rows of a table in
docs/samplers.md. ``cem_weighted``, which was one of them, is in the package since.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import cem as method
from roml_jax import proposals, risk, samplers
from roml_jax.cem import CemConfig, CemState
from roml_jax.proposals import Proposal
from roml_jax.samplers import cross_entropy, risk_network
from roml_jax.samplers.base import TaskSampler, constant, drawn_from, returns_of
from roml_jax.samplers.risk_network import RiskNetworkConfig, RiskState
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw

DEFAULTS = CemConfig()
_CANDIDATES = 8  # per stratum
_STEP, _MOST = 0.1, 0.8  # of the prior's share
_PRIOR_DRAWS = 1024  # predictions whose quantile stands for the prior's


def stratified(proposal: Proposal) -> Proposal:
    """The same distributions; draws of one call lie apart along a random direction.

    Eight candidates per draw are sorted along the direction, and each eight neighbours give one draw. Every
    candidate is as likely as any other, so a draw's distribution is the proposal's, and weights stay right.
    """

    def sample(phi: Array, key: Array, n: int) -> Array:
        draw_key, direction_key, which_key = jax.random.split(key, 3)
        u = proposal.sample(phi, draw_key, _CANDIDATES * n)
        direction = jax.random.normal(direction_key, (u.shape[1],), u.dtype)
        spread = u.std(axis=0)
        order = jnp.argsort((u / jnp.where(spread > 0, spread, 1.0)[None]) @ direction)
        which = jax.random.randint(which_key, (n,), 0, _CANDIDATES)
        return u[order.reshape(n, _CANDIDATES)[jnp.arange(n), which]]

    clipped = proposal.unclipped is not None
    return proposal._replace(
        sample=sample, unclipped=(lambda: stratified(proposals.exact(proposal))) if clipped else None
    )


def cem_stratified(family: TaskFamily, alpha: float, config: CemConfig = DEFAULTS) -> TaskSampler:
    """As ``cem``; the tasks of an iteration lie apart, as those of ``pdts``, without a bias."""
    return cross_entropy.cross_entropy(family, stratified(family.proposal), constant(alpha), config)


class MixtureState(NamedTuple):
    """State of ``cem_mixture``.

    Attributes:
        cem: of the cross-entropy method.
        share: () the prior's share among the tasks that are not references.
    """

    cem: CemState
    share: Array


def next_share(share: Array, tail_level: Array, alpha: Array | float, num_ref: int) -> Array:
    """The prior's share after a batch: larger where its tasks were harder than the target, else smaller.

    Args:
        share: () before.
        tail_level: () of the batch, at least 1 / num_ref; NaN, if no batch closed, keeps the share.
        alpha: the target.
        num_ref: reference tasks in a batch. They cannot tell levels apart below 1.5 / num_ref.
    """
    harder = tail_level <= jnp.maximum(alpha, 1.5 / max(num_ref, 1))
    moved = jnp.clip(share + jnp.where(harder, _STEP, -_STEP), 0.0, _MOST)
    return jnp.where(jnp.isnan(tail_level), share, moved)


def cem_mixture(family: TaskFamily, alpha: float, config: CemConfig = DEFAULTS) -> TaskSampler:
    """As ``cem``, from a mixture with the prior whose share follows the tail level; weights are bounded."""
    proposal = family.proposal

    def init(key: Array) -> MixtureState:
        state = method.init(config, proposal, key)
        return MixtureState(state, jnp.zeros((), state.phi.dtype))

    def sample(state: MixtureState, key: Array, n: int) -> tuple[MixtureState, TaskDraw]:
        mixture = proposals.with_prior(proposal, state.share)
        after, draw = method.sample(config, mixture, state.cem, key, n)
        return state._replace(cem=after), draw._replace(task=family.decode(draw.u))

    def update(
        state: MixtureState, draw: TaskDraw, feedback: Feedback | Array, key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[MixtureState, Metrics]:  # fmt: skip
        del progress
        after, metrics = method.update(config, proposal, state.cem, draw, returns_of(feedback), key, alpha)
        share = next_share(state.share, metrics.tail_level, alpha, config.num_ref)
        return MixtureState(after, share), metrics._asdict() | {"share": share}

    return TaskSampler(
        init, sample, update, phi=lambda state: state.cem.phi, batch_size=config.batch_size,
        drawn=drawn_from(family, proposal),
    )  # fmt: skip


class ControlState(NamedTuple):
    """State of ``cem_control``.

    Attributes:
        cem: of the cross-entropy method.
        network: of the risk network.
    """

    cem: CemState
    network: RiskState


def controlled_quantile(
    predicted: Array, score: Array, weights: Array, of_prior: Array, alpha: Array | float
) -> Array:
    """The prior's alpha-quantile of scores, with predictions as control variates.

    The quantile of many predictions, plus how far the scores' quantile lies from the predictions' on the
    tasks that were run. What the prediction explains does not depend on which few tasks were drawn.

    Args:
        predicted: (n,) of the tasks that were run.
        score: (n,) their scores; NaN does not count.
        weights: (n,) their weights.
        of_prior: (m,) predictions of prior tasks.
        alpha: level.

    Returns:
        (); -inf without a score.
    """
    valid = ~jnp.isnan(score)
    level = risk.underlying_level(alpha, valid.sum())
    apart = risk.weighted_quantile(risk.finite(jnp.where(valid, score, 0.0)), weights, level, valid)
    apart -= risk.weighted_quantile(predicted, weights, level, valid)
    quantile = risk.quantile(of_prior, risk.underlying_level(alpha, of_prior.shape[0]))
    return jnp.where(valid.any(), quantile + apart, -jnp.inf)


def _moments(score: Array, valid: Array) -> tuple[Array, Array]:
    """Mean and std of the scores that count, for predictions in units of the return."""
    finite = risk.finite(jnp.where(valid, score, 0.0))
    mean = jnp.where(valid, finite, 0.0).sum() / jnp.maximum(valid.sum(), 1)
    square = jnp.where(valid, jnp.square(finite - mean), 0.0).sum() / jnp.maximum(valid.sum(), 1)
    return mean, jnp.sqrt(square)


def cem_control(family: TaskFamily, alpha: float, config: CemConfig = DEFAULTS) -> TaskSampler:
    """As ``cem``; the threshold has a risk network's predictions on many prior tasks as control variates.

    Raises:
        ValueError: for tasks without a unit box.
    """
    proposal = family.proposal
    if proposal.box is None:
        raise ValueError(f"sampler=cem_control needs numbers as tasks, not {', '.join(family.names)}")
    box, dtype = proposal.box, proposal.phi0.dtype
    outside = dataclasses.replace(config, ref_mode="valid")
    network = risk_network.make(RiskNetworkConfig(), proposal.dims, dtype)

    def init(key: Array) -> ControlState:
        cem_key, network_key = jax.random.split(key)
        return ControlState(method.init(outside, proposal, cem_key), network.init(network_key))

    def sample(state: ControlState, key: Array, n: int) -> tuple[ControlState, TaskDraw]:
        after, draw = method.sample(outside, proposal, state.cem, key, n)
        return state._replace(cem=after), draw._replace(task=family.decode(draw.u))

    def update(
        state: ControlState, draw: TaskDraw, feedback: Feedback | Array, key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[ControlState, Metrics]:  # fmt: skip
        del progress
        returns = returns_of(feedback)
        fit_key, prior_key, cem_key = jax.random.split(key, 3)
        valid = ~jnp.isnan(returns)
        losses = -risk.standardised(returns, valid)
        fitted, error = network.update(state.network, box.from_u(draw.u), losses, valid, fit_key)
        mean, std = _moments(returns, valid)

        def predict(u: Array) -> Array:
            latent = fitted.posterior.mean[None]
            return mean - std * risk_network.decode(fitted.params, box.from_u(u), latent)[0]

        held = state.cem  # its open batch, and what is new: the batch that closes, if one does
        open_score = jnp.where(jnp.arange(config.batch_size) < held.cursor, held.score, jnp.nan)
        u, log_w, score = map(
            jnp.concatenate, ([held.u, draw.u], [held.log_w, draw.log_w], [open_score, returns])
        )
        many = proposal.sample(proposal.phi0, prior_key, _PRIOR_DRAWS)
        threshold = controlled_quantile(
            predict(u), score, method.weights_of(outside, log_w), predict(many), alpha
        )
        told = held._replace(outside=threshold.astype(dtype))
        after, metrics = method.update(outside, proposal, told, draw, returns, cem_key, alpha)
        named = metrics._asdict() | {"network_error": error}
        return ControlState(after, fitted), named

    return TaskSampler(
        init, sample, update, phi=lambda state: state.cem.phi, batch_size=config.batch_size,
        drawn=drawn_from(family, proposal),
    )  # fmt: skip


def register() -> None:
    """Registers the variants under their functions' names, unless they are registered."""
    for variant in (cem_stratified, cem_mixture, cem_control):
        if variant.__name__ not in samplers.names():
            samplers.register(variant.__name__)(variant)
