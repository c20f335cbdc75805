"""Task samplers: which tasks a meta-learner trains on. They know tasks, never learners."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import cem as cem_lib
from roml_jax import checks, proposals, risk
from roml_jax.registry import NoOptions, Registry, options_class
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Metrics, TaskDraw, TaskWeights


class TaskSampler(NamedTuple):
    """A way to choose training tasks.

    Attributes:
        init: (key) -> S.
        sample: (S, key, n) -> (S, TaskDraw) of n tasks.
        update: (S, draw, returns (n,), key, progress) -> (S, metrics); returns in the draw's order,
            progress in [0, 1] the share of the run done before this iteration.
        weights: (S, returns (n,), progress) -> TaskWeights (n,), ones except for samplers that
            filter tasks after the fact.
        phi: (S) -> (p,) the parameters of the current task distribution, for people to look at.
        batch_size: scored tasks that the first change of the distribution waits for; 0 where it never
            changes.
        tunable: options whose values are leaves of S.
        tune: (S, values by option name) -> S.
    """

    init: Callable[[Array], Any]
    sample: Callable[[Any, Array, int], tuple[Any, TaskDraw]]
    update: Callable[[Any, TaskDraw, Array, Array, Array], tuple[Any, Metrics]]
    weights: Callable[[Any, Array, Array], TaskWeights]
    phi: Callable[[Any], Array]
    batch_size: int = 0
    tunable: tuple[str, ...] = ()
    tune: Callable[[Any, Mapping[str, Array]], Any] | None = None


Schedule = Callable[[Array], Array]


def _constant(alpha: float) -> Schedule:
    return lambda progress: jnp.full_like(progress, alpha)


def _falling(alpha: float) -> Schedule:
    """From 1 down to alpha, reached at four fifths of the run (the reference's soft variants)."""
    return lambda progress: jnp.maximum(1 - (1 - alpha) * progress / 0.8, alpha)


def _all_count(state: Any, returns: Array, progress: Array) -> TaskWeights:
    del state, progress
    return TaskWeights(jnp.ones_like(returns), jnp.ones_like(returns))


def uniform(family: TaskFamily, alpha: float) -> TaskSampler:
    """Tasks from the prior: the meta-learner as it was published."""
    proposal = family.proposal

    def sample(state: tuple[()], key: Array, n: int) -> tuple[tuple[()], TaskDraw]:
        u = proposal.sample(proposal.phi0, key, n)
        return state, TaskDraw(u, family.decode(u), jnp.zeros(n, u.dtype), jnp.ones(n, bool))

    def update(
        state: tuple[()], draw: TaskDraw, returns: Array, key: Array, progress: Array
    ) -> tuple[tuple[()], Metrics]:
        del draw, key, progress
        known = ~jnp.isnan(returns)
        return state, {
            "ref_mean": risk.masked_mean(returns, known),
            "ref_cvar": risk.cvar(returns, alpha, known),
        }

    return TaskSampler(lambda key: (), sample, update, _all_count, lambda state: proposal.phi0)


def _cross_entropy(
    family: TaskFamily, proposal: proposals.Proposal, schedule: Schedule, config: cem_lib.CemConfig
) -> TaskSampler:
    if config.ref_mode == "valid" and config.threshold is None and not config.optimise:
        raise ValueError(
            "sampler.ref_mode=valid needs scores from outside (cem.set_reference), which a training run does "
            "not have; take train or train_ref"
        )

    def init(key: Array) -> cem_lib.CemState:
        return cem_lib.init(config, proposal, key)

    def sample(state: cem_lib.CemState, key: Array, n: int) -> tuple[cem_lib.CemState, TaskDraw]:
        state, u, log_w, is_ref = cem_lib.sample(config, proposal, state, key, n)
        return state, TaskDraw(u, family.decode(u), log_w, is_ref)

    def update(
        state: cem_lib.CemState, draw: TaskDraw, returns: Array, key: Array, progress: Array
    ) -> tuple[cem_lib.CemState, Metrics]:
        drawn, alpha = (draw.u, draw.log_w, draw.is_ref), schedule(jnp.asarray(progress, returns.dtype))
        state, metrics = cem_lib.update(config, proposal, state, drawn, returns, alpha, key)
        return state, metrics._asdict() | {"updates": state.batch.astype(returns.dtype), "alpha": alpha}

    return TaskSampler(init, sample, update, _all_count, lambda state: state.phi, config.batch_size)


def cem(family: TaskFamily, alpha: float, config: cem_lib.CemConfig) -> TaskSampler:
    """RoML: the cross-entropy method moves the task distribution toward the lowest returns."""
    return _cross_entropy(family, family.proposal, _constant(alpha), config)


def cem_soft(family: TaskFamily, alpha: float, config: cem_lib.CemConfig) -> TaskSampler:
    """As ``cem``, with a risk level that falls from 1 to alpha over the first four fifths of the run."""
    return _cross_entropy(family, family.proposal, _falling(alpha), config)


def oracle(family: TaskFamily, alpha: float, config: cem_lib.CemConfig) -> TaskSampler:
    """Moves to the top alpha of the range, known to be hardest; references stay.

    Raises:
        ValueError: for a family of more than one dimension, a prior that is not uniform in u, or tasks
            that are not known to be hardest at the top.
    """
    if not (family.proposal.uniform_prior and family.proposal.dims == 1):
        raise ValueError(
            "sampler=oracle needs one task dimension whose prior is uniform (or log-uniform) on a range, "
            f"not {', '.join(family.names)}; take sampler=cem"
        )
    if family.hardest != "top":
        raise ValueError(
            "sampler=oracle needs tasks that are known to be hardest at the top of their range, which is not "
            f"said of {family.names[0]}; take sampler=cem"
        )
    return _cross_entropy(family, proposals.top_of_unit_interval(alpha), _constant(alpha), config)


@dataclass(frozen=True)
class NaiveConfig:
    """The naive alternative to the cross-entropy method."""

    pool: int = 100
    """Tasks drawn from the prior once and kept."""
    batch_size: int = 128
    """Scored tasks between two choices of the hardest."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 1, "pool", "batch_size")


class NaiveState(NamedTuple):
    """The pool and what is known of it.

    Attributes:
        u: (P, d) the pool.
        score: (P,) each task's latest return, NaN before its first.
        hard: (P,) bool, the tasks now drawn from.
        drawn: how many of the pool's first walk have been handed out.
        scored: scores since the last choice.
    """

    u: Array
    score: Array
    hard: Array
    drawn: Array
    scored: Array


def naive(family: TaskFamily, alpha: float, config: NaiveConfig) -> TaskSampler:
    """A fixed pool of prior tasks, of which the worst alpha by their latest returns are trained on.

    The pool is walked once in order; then tasks come uniformly, with replacement, from the worst. (The
    reference finds the worst but goes on drawing from the whole pool; here the choice has its effect.)
    """
    proposal = family.proposal
    num_hard = max(1, math.ceil(alpha * config.pool * (1 - 1e-6)))

    def init(key: Array) -> NaiveState:
        u = proposal.sample(proposal.phi0, key, config.pool)
        nothing = jnp.zeros((), jnp.int32)
        unknown = jnp.full(config.pool, jnp.nan, u.dtype)
        return NaiveState(u, unknown, jnp.ones(config.pool, bool), nothing, nothing)

    def sample(state: NaiveState, key: Array, n: int) -> tuple[NaiveState, TaskDraw]:
        walk = state.drawn + jnp.arange(n)
        random = jax.random.categorical(key, jnp.where(state.hard, 0.0, -jnp.inf), shape=(n,))
        u = state.u[jnp.where(walk < config.pool, walk, random)]
        drawn = jnp.minimum(state.drawn + n, config.pool)
        return state._replace(drawn=drawn), TaskDraw(
            u, family.decode(u), jnp.zeros(n, u.dtype), jnp.zeros(n, bool)
        )

    def update(
        state: NaiveState, draw: TaskDraw, returns: Array, key: Array, progress: Array
    ) -> tuple[NaiveState, Metrics]:
        del key, progress
        index = jnp.abs(draw.u[:, None] - state.u[None]).sum(axis=-1).argmin(axis=1)
        # a task met several times gets its mean; a diverged one keeps what it had
        counted = ~jnp.isnan(returns)
        met = jax.ops.segment_sum(counted.astype(returns.dtype), index, config.pool)
        total = jax.ops.segment_sum(jnp.where(counted, returns, 0), index, config.pool)
        score = jnp.where(met > 0, total / met, state.score)
        scored = state.scored + returns.shape[0]
        closes = scored >= config.batch_size
        known = ~jnp.isnan(score)
        rank = jnp.argsort(jnp.argsort(jnp.where(known, score, jnp.inf)))
        hard = jnp.where(closes & known.any(), known & (rank < num_hard), state.hard)
        metrics = {
            "ref_mean": risk.masked_mean(score, known),
            "ref_cvar": risk.cvar(score, alpha, known),
            "sample_mean": risk.masked_mean(returns, counted),
            "selected_share": hard.mean(dtype=score.dtype),
        }
        return NaiveState(state.u, score, hard, state.drawn, jnp.where(closes, 0, scored)), metrics

    def phi(state: NaiveState) -> Array:
        return (state.u * state.hard[:, None]).sum(axis=0) / state.hard.sum()

    return TaskSampler(init, sample, update, _all_count, phi, config.batch_size)


@dataclass(frozen=True)
class TailConfig:
    """CVaR-ML: tasks from the prior, of which only the worst teach the policy."""

    level: Literal["advantage", "loss"] = "advantage"
    """Where the others are left out: 'advantage', before advantages are normalised, so that they still
    enter with a constant (the reference); 'loss', altogether."""
    tasks_per_group: int = 1
    """Tasks whose returns are summed and filtered together; the reference filters by process, which
    meets two humanoid tasks per iteration."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 1, "tasks_per_group")
        checks.one_of(self, "sampler", "level", ("advantage", "loss"))


def _tail(family: TaskFamily, schedule: Schedule, alpha: float, config: TailConfig) -> TaskSampler:
    def weights(state: tuple[()], returns: Array, progress: Array) -> TaskWeights:
        del state
        if returns.shape[0] % config.tasks_per_group:
            raise ValueError(
                f"{returns.shape[0]} tasks per iteration do not divide into "
                f"sampler.tasks_per_group={config.tasks_per_group}"
            )
        by_group = risk.finite(returns).reshape(-1, config.tasks_per_group).sum(axis=1)
        level = schedule(jnp.asarray(progress, returns.dtype))
        known = ~jnp.isnan(by_group)
        kept = known & (by_group <= risk.quantile(by_group, level, known))
        keep = jnp.repeat(kept.astype(returns.dtype), config.tasks_per_group)
        return TaskWeights(keep, keep if config.level == "loss" else jnp.ones_like(keep))

    return uniform(family, alpha)._replace(weights=weights)


def tail(family: TaskFamily, alpha: float, config: TailConfig) -> TaskSampler:
    """CVaR-ML: of each iteration's prior tasks, only those up to the alpha-quantile teach the policy."""
    return _tail(family, _constant(alpha), alpha, config)


def tail_soft(family: TaskFamily, alpha: float, config: TailConfig) -> TaskSampler:
    """As ``tail``, with a risk level that falls from 1 to alpha over the first four fifths of the run."""
    return _tail(family, _falling(alpha), alpha, config)


_registry: Registry[TaskSampler] = Registry("sampler")
register = _registry.register
names = _registry.names
get = _registry.get


def make(name: str, family: TaskFamily, alpha: float, config: Any = None) -> TaskSampler:
    """Builds a sampler by name.

    Args:
        name: a registered name.
        family: the environment's tasks.
        alpha: risk level in (0, 1].
        config: that sampler's options; its defaults if None.

    Raises:
        UnknownNameError: for a name that is not registered.
        ValueError: for alpha outside (0, 1].
    """
    constructor = get(name)
    if not isinstance(alpha, jax.core.Tracer) and not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1], got {alpha}")
    options = options_class(constructor)
    if options is NoOptions:
        return constructor(family, alpha)
    return constructor(family, alpha, options() if config is None else config)


class Tuned(NamedTuple):
    """A sampler's state with its risk level, () float."""

    alpha: Array
    state: Any


def with_tunable_alpha(build: Callable[[Any], TaskSampler], alpha: float) -> TaskSampler:
    """A sampler whose risk level is a leaf of its state, so that runs that differ in it can share a program.

    Args:
        build: (alpha, a float or a traced number) -> TaskSampler.
        alpha: where it starts.
    """

    def sample(s: Tuned, key: Array, n: int) -> tuple[Tuned, TaskDraw]:
        state, draw = build(s.alpha).sample(s.state, key, n)
        return s._replace(state=state), draw

    def update(
        s: Tuned, draw: TaskDraw, returns: Array, key: Array, progress: Array
    ) -> tuple[Tuned, Metrics]:
        state, metrics = build(s.alpha).update(s.state, draw, returns, key, progress)
        return s._replace(state=state), metrics

    return TaskSampler(
        init=lambda key: Tuned(jnp.asarray(alpha), build(alpha).init(key)),
        sample=sample,
        update=update,
        weights=lambda s, returns, progress: build(s.alpha).weights(s.state, returns, progress),
        phi=lambda s: build(s.alpha).phi(s.state),
        tunable=("alpha",),
        tune=lambda s, values: s._replace(**values),
        batch_size=build(alpha).batch_size,
    )


register("uniform", uniform)
register("cem", cem)
register("cem_soft", cem_soft)
register("oracle", oracle)
register("naive", naive)
register("tail", tail)
register("tail_soft", tail_soft)
