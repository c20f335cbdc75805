"""The task sampler interface and the registry of samplers. Samplers never depend on learners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from roml_jax import risk
from roml_jax.proposals import Proposal
from roml_jax.registry import NoOptions, Registry, options_class
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw, TaskWeights

Schedule = Callable[[Array | float], Array]
"""(share of the run done, in [0, 1]) -> risk level ()."""


class Init(Protocol):
    """Makes the initial state."""

    def __call__(self, key: Array) -> Any:
        """Returns S, a pytree."""


class Sample(Protocol):
    """Draws n tasks."""

    def __call__(self, state: Any, key: Array, n: int) -> tuple[Any, TaskDraw]:
        """Returns (S, draw of n tasks)."""


class Update(Protocol):
    """Updates the state from what a learner tells of drawn tasks."""

    def __call__(
        self, state: Any, draw: TaskDraw, feedback: Feedback | Array, key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[Any, Metrics]:  # fmt: skip
        """Returns (S, metrics).

        Args:
            state: S, as ``sample`` returned it.
            draw: as ``sample`` returned it.
            feedback: of n tasks, in the draw's order. Samplers of this package also take returns (n,) alone.
            key: randomness, e.g. for breaking ties.
            progress: () share of the run that is done, for schedules; by default 1, the end of a schedule.
        """


class Weights(Protocol):
    """Weights the tasks of an iteration in the policy's update."""

    def __call__(
        self, state: Any, draw: TaskDraw, feedback: Feedback | Array, progress: Array | float = 1.0
    ) -> TaskWeights:
        """Returns weights (n,); see ``TaskWeights``. Arguments are those of ``Update``."""


class Phi(Protocol):
    """The parameters of the current task distribution, for metrics and plots."""

    def __call__(self, state: Any) -> Array:
        """Returns parameters (p,)."""


class Drawn(Protocol):
    """Draws tasks from the distribution with given parameters, for figures."""

    def __call__(self, phi: Array, key: Array, n: int) -> Array:
        """Returns tasks (n, d) drawn with parameters phi (p,), without those of fixed reference draws."""


def returns_of(feedback: Feedback | Array) -> Array:
    """The returns (n,) in feedback, or returns that are given alone."""
    return Feedback.of(feedback).returns


def by_origin(draw: TaskDraw, returns: Array, alpha: Array | float) -> Metrics:
    """Mean and CVaR of the tasks from the prior, and the mean of the others; diverged tasks do not count."""
    valid = ~jnp.isnan(returns)
    return {
        "ref_mean": risk.masked_mean(returns, valid & draw.is_ref),
        "ref_cvar": risk.cvar(returns, alpha, valid & draw.is_ref),
        "sample_mean": risk.masked_mean(returns, valid & ~draw.is_ref),
    }


def all_count(
    state: Any, draw: TaskDraw, feedback: Feedback | Array, progress: Array | float = 1.0
) -> TaskWeights:
    """Weight 1 for every task; the ``weights`` of samplers that do not filter."""
    del state, draw, progress
    returns = returns_of(feedback)
    return TaskWeights(jnp.ones_like(returns), jnp.ones_like(returns))


def no_phi(state: Any) -> Array:
    """An empty array; the ``phi`` of samplers whose distribution has no parameters."""
    del state
    return jnp.zeros(0)


def drawn_from(family: TaskFamily, proposal: Proposal) -> Drawn:
    """The tasks of a proposal; the ``drawn`` of samplers whose phi is the proposal's."""
    return lambda phi, key, n: family.decode(proposal.sample(phi, key, n))


class Scoring(NamedTuple):
    """A scoring pass: rollouts on candidate tasks, from which the learner does not learn.

    Attributes:
        propose: (S, key) -> (S, TaskDraw of m candidates).
        scored: (S, draw, Feedback (m R,), key) -> S; each candidate's ``rollouts`` results stand together.
        candidates: m.
        rollouts: R, independent rollouts of each candidate.
        every: iterations between two passes; the first is before the first iteration.
    """

    propose: Callable[[Any, Array], tuple[Any, TaskDraw]]
    scored: Callable[[Any, TaskDraw, Feedback, Array], Any]
    candidates: int
    rollouts: int
    every: int


class TaskSampler(NamedTuple):
    """A rule for choosing training tasks, as pure functions of its state S.

    In a training loop of your own::

        sampler = samplers.cem(tasks.beta("load", 0.0, 7.0), alpha=0.05)
        state = sampler.init(key)
        state, draw = sampler.sample(state, key, 16)
        returns = evaluate(draw.task)  # (16,)
        state, metrics = sampler.update(state, draw, returns, key)

    A sampler with ``scoring`` has tasks of its own choice scored: every so many iterations, the learner acts
    on them and learns nothing from it. The frames of a scoring pass are frames of the run.

    Attributes:
        init: (key) -> S.
        sample: (S, key, n) -> (S, TaskDraw) of n tasks.
        update: (S, draw, Feedback (n,), key, progress) -> (S, metrics).
        weights: (S, draw, Feedback (n,), progress) -> TaskWeights (n,); all ones unless the sampler filters.
        phi: (S) -> (p,) parameters of the current task distribution.
        batch_size: number of scored tasks before the distribution first changes; 0 if it never changes.
        scoring: the scoring pass; None for samplers without one.
        needs: names of fields of ``Feedback`` that the sampler cannot do without; a learner that does not
            report them is rejected.
        drawn: (phi, key, n) -> (n, d) tasks of the distribution with parameters phi, for figures; None where
            phi is only a mean of u.
    """

    init: Init
    sample: Sample
    update: Update
    weights: Weights = all_count
    phi: Phi = no_phi
    batch_size: int = 0
    scoring: Scoring | None = None
    needs: tuple[str, ...] = ()
    drawn: Drawn | None = None


def constant(alpha: float) -> Schedule:
    """A constant risk level."""
    return lambda progress: jnp.full_like(jnp.asarray(progress), alpha)


def falling(alpha: float) -> Schedule:
    """Linear from 1 to alpha over the first 80 % of the run, then alpha (the reference's soft variants)."""
    return lambda progress: jnp.maximum(1 - (1 - alpha) * progress / 0.8, alpha)


class WithAlpha(NamedTuple):
    """A sampler's state with its risk level, ``rates["alpha"]`` (), so that it can differ between seeds."""

    rates: dict[str, Array]
    state: Any


def with_alpha(build: Callable[[Any], TaskSampler], alpha: float) -> TaskSampler:
    """A sampler whose risk level is a leaf of its state.

    Args:
        build: (alpha, a float or a traced number) -> TaskSampler.
        alpha: the initial value of the leaf.
    """

    def of(state: WithAlpha) -> TaskSampler:
        return build(state.rates["alpha"])

    def sample(state: WithAlpha, key: Array, n: int) -> tuple[WithAlpha, TaskDraw]:
        inner, draw = of(state).sample(state.state, key, n)
        return state._replace(state=inner), draw

    def update(
        state: WithAlpha, draw: TaskDraw, feedback: Feedback | Array, key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[WithAlpha, Metrics]:  # fmt: skip
        inner, metrics = of(state).update(state.state, draw, feedback, key, progress)
        return state._replace(state=inner), metrics

    def weights(
        state: WithAlpha, draw: TaskDraw, feedback: Feedback | Array, progress: Array | float = 1.0
    ) -> TaskWeights:
        return of(state).weights(state.state, draw, feedback, progress)

    def scoring_of(state: WithAlpha) -> Scoring:
        scoring = of(state).scoring
        assert scoring is not None
        return scoring

    def propose(state: WithAlpha, key: Array) -> tuple[WithAlpha, TaskDraw]:
        inner, draw = scoring_of(state).propose(state.state, key)
        return state._replace(state=inner), draw

    def scored(state: WithAlpha, draw: TaskDraw, feedback: Feedback, key: Array) -> WithAlpha:
        return state._replace(state=scoring_of(state).scored(state.state, draw, feedback, key))

    fixed = build(alpha)
    return TaskSampler(
        init=lambda key: WithAlpha({"alpha": jnp.asarray(alpha, float)}, fixed.init(key)),
        sample=sample,
        update=update,
        weights=weights,
        phi=lambda state: of(state).phi(state.state),
        batch_size=fixed.batch_size,
        scoring=fixed.scoring and fixed.scoring._replace(propose=propose, scored=scored),
        needs=fixed.needs,
        drawn=fixed.drawn,
    )


_registry: Registry[TaskSampler] = Registry("sampler")
register = _registry.register
names = _registry.names
get = _registry.get


def make(name: str, family: TaskFamily, alpha: float, config: Any = None) -> TaskSampler:
    """Builds a sampler by name; its risk level is a leaf of its state.

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
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1], got {alpha}")
    options = options_class(constructor)
    if options is NoOptions:
        return with_alpha(lambda level: constructor(family, level), alpha)
    chosen = options() if config is None else config
    return with_alpha(lambda level: constructor(family, level, chosen), alpha)


__all__ = [
    "Drawn",
    "Init",
    "Phi",
    "Sample",
    "Schedule",
    "Scoring",
    "TaskSampler",
    "Update",
    "Weights",
    "WithAlpha",
    "all_count",
    "by_origin",
    "constant",
    "drawn_from",
    "falling",
    "get",
    "make",
    "names",
    "no_phi",
    "register",
    "returns_of",
    "with_alpha",
]
