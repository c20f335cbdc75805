"""DORAEMON: the widest task distribution on which half of the tasks succeed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.samplers import betas, box
from roml_jax.samplers.base import TaskSampler, register
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw

_LOW = 0.8  # least a and b
_ROOM = 10.0  # how far a and b may rise above where they start
_MARGIN = 1e-5  # how far inside the trust region the search for a feasible start stays
_TOLERANCE = 1e-3  # by how much a step may miss the required share of successes; for the KL, a tenth of that
# Of the search, where the trust region has radius 1 and the terms' slopes at its start are 1:
_PENALTY = 3.0  # of the augmented Lagrangian, whose curvature is then at most about 4 * 3 + 2
_LENGTH, _MOMENTUM = 1 / 16, 0.8  # of a gradient step
_STEEPEST, _FLATTEST = 2.0, 0.1  # slopes are clipped to the one; those below the other are not scaled to 1
_ROUND = 20  # gradient steps between two updates of the multipliers


@dataclass(frozen=True)
class DoraemonConfig:
    """Options of the doraemon sampler."""

    success: float | None = None
    """Return from which a task counts as a success, in the sum over its episodes; required. To find one,
    train with the sampler 'uniform', take the return per episode that half of its tasks reach, and multiply
    it by the number of episodes."""
    success_share: float = 0.5
    """Least share of successes under the task distribution."""
    batch_size: int = 200
    """Scored tasks in a window; the distribution moves once per window (published: once in 1e5 frames, which
    are 200 episodes of 500 steps)."""
    max_kl: float = 0.005
    """Largest KL divergence of the next distribution from the current one (published: 0.005 to 0.01)."""
    start: float = 100.0
    """Both parameters of every dimension's Beta distribution at the start: the larger, the narrower."""
    gradient_steps: int = 200
    """Gradient steps of the search for the next distribution."""

    def __post_init__(self) -> None:
        checks.finite(self, "sampler", "success")
        checks.share(self, "sampler", "success_share", zero=False, one=False)
        checks.at_least(self, "sampler", 1, "batch_size", "start", "gradient_steps")
        checks.positive(self, "sampler", "max_kl")


DEFAULTS = DoraemonConfig()


class DoraemonState(NamedTuple):
    """The distribution and the open window.

    Attributes:
        phi: (2 d,) parameters a of every dimension, then b.
        v: (B, d) tasks of the window, in the unit box.
        success: (B,) bool, whether they succeeded.
        cursor: () number of tasks in the window.
        reached: () bool, whether a window has had the required share of successes.
        updates: () number of moves of the distribution.
    """

    phi: Array
    v: Array
    success: Array
    cursor: Array
    reached: Array
    updates: Array


class Window(NamedTuple):
    """Scored tasks, drawn with parameters phi.

    Attributes:
        v: (m, d) in the unit box.
        success: (m,) bool.
        valid: (m,) bool, which of them count.
    """

    v: Array
    success: Array
    valid: Array


class Step(NamedTuple):
    """What a window makes of the distribution.

    Attributes:
        phi: (2 d,) the next parameters; those before where no step was taken.
        share: () share of successes in the window.
        next_share: () its estimate under the next parameters.
        kl: () KL(before | next).
        feasible: () bool, whether the window had the required share.
        moved: () bool, whether phi changed.
    """

    phi: Array
    share: Array
    next_share: Array
    kl: Array
    feasible: Array
    moved: Array


class _Search(NamedTuple):
    """A point (2 d,) of the search, its velocity, and the multipliers (2,) of the two constraints."""

    z: Array
    velocity: Array
    multipliers: Array


class _Problem(NamedTuple):
    """The step's objective and constraints as functions of z, (2 d,).

    phi + delta(z) is the next distribution; the trust region is about |z| <= 1. Every term is scaled so that
    its gradient over z is of order 1.

    Attributes:
        change: z -> delta (2 d,), within the parameters' bounds.
        outside: z -> () squared distance from these bounds.
        kl: delta -> () KL(phi | phi + delta).
        share: delta -> () estimated share of successes.
        width: delta -> () KL(phi + delta | prior).
    """

    change: Callable[[Array], Array]
    outside: Callable[[Array], Array]
    kl: Callable[[Array], Array]
    share: Callable[[Array], Array]
    width: Callable[[Array], Array]


def _problem(config: DoraemonConfig, phi: Array, window: Window) -> _Problem:
    low, high = jnp.full_like(phi, _LOW), jnp.full_like(phi, config.start + _ROOM)
    radius = jnp.sqrt(jnp.asarray(2 * config.max_kl, phi.dtype))
    statistics = betas.statistics(phi, window.v)
    succeeded, count = window.success & window.valid, jnp.maximum(window.valid.sum(), 1)

    def free(z: Array) -> Array:
        return phi + betas.whitened(phi, radius * z)

    def change(z: Array) -> Array:
        return jnp.clip(free(z), low, high) - phi

    def outside(z: Array) -> Array:
        moved = free(z)
        return jnp.square((moved - jnp.clip(moved, low, high)) / (radius * phi)).sum()

    def share(delta: Array) -> Array:
        log_ratio = statistics @ delta - betas.kl(phi, delta)
        return jnp.exp(jnp.where(succeeded, log_ratio, -jnp.inf)).sum() / count

    def width(delta: Array) -> Array:
        return betas.kl(phi + delta, 1 - phi - delta)

    return _Problem(change, outside, lambda delta: betas.kl(phi, delta), share, width)


def _search(
    config: DoraemonConfig, problem: _Problem, start: Array, steps: Array, for_success: Array
) -> Array:
    """Minimises the KL to the prior, or maximises the share of successes, in the trust region.

    An augmented Lagrangian and Nesterov's gradient steps. The number of steps is traced, so that seeds side
    by side take none while no window closes.

    Args:
        config: options.
        problem: objective and constraints.
        start: (2 d,) the first z.
        steps: () number of gradient steps; with 0, the result is ``start``.
        for_success: () bool, whether the share of successes is the objective, not a constraint.

    Returns:
        z (2 d,).
    """
    least = _FLATTEST * jnp.sqrt(jnp.asarray(2 * config.max_kl, start.dtype))
    radius = config.max_kl - jnp.where(for_success, _MARGIN, 0.0)

    def scale(term: Callable[[Array], Array]) -> Array:
        return jnp.maximum(jnp.linalg.norm(jax.grad(lambda z: term(problem.change(z)))(start)), least)

    width_scale, failures_scale = scale(problem.width), scale(problem.share)

    def lagrangian(z: Array, multipliers: Array) -> tuple[Array, Array]:
        delta = problem.change(z)
        few = (config.success_share - problem.share(delta)) / failures_scale
        excess = jnp.stack([problem.kl(delta) / radius - 1, jnp.where(for_success, -jnp.inf, few)])
        active = jnp.maximum(multipliers + _PENALTY * excess, 0)
        penalty = jnp.square(active).sum() / (2 * _PENALTY) + _PENALTY * problem.outside(z)
        return jnp.where(for_success, few, problem.width(delta) / width_scale) + penalty, active

    def step(i: Array, search: _Search) -> _Search:
        ahead = search.z + _MOMENTUM * search.velocity
        slope, active = jax.grad(lagrangian, has_aux=True)(ahead, search.multipliers)
        slope = slope / jnp.maximum(jnp.linalg.norm(slope) / _STEEPEST, 1)
        velocity = _MOMENTUM * search.velocity - _LENGTH * slope
        multipliers = jnp.where((i + 1) % _ROUND == 0, active, search.multipliers)
        return _Search(search.z + velocity, velocity, multipliers)

    first = _Search(start, jnp.zeros_like(start), jnp.zeros(2, start.dtype))
    return jax.lax.fori_loop(0, steps, step, first).z


@partial(jax.jit, static_argnames="config")
def next_distribution(
    config: DoraemonConfig, phi: Array, window: Window, reached: Array, closes: Array
) -> Step:
    """The step of a window.

    Minimise KL(phi' | prior) subject to KL(phi | phi') <= max_kl and an estimated share of successes under
    phi' of at least ``success_share``. If phi itself has too few, the share is maximised first, and where it
    stays too small that is the step. A search whose result violates a constraint is discarded. Source:
    DORAEMON (2024) and its published code.

    Args:
        config: options.
        phi: (2 d,) the parameters that the window was drawn with.
        window: scored tasks.
        reached: () bool, whether an earlier window had the required share: no step is taken before.
        closes: () bool, whether to take a step at all.
    """
    problem, zero = _problem(config, phi, window), jnp.zeros_like(phi)

    def share_at(z: Array) -> Array:
        return problem.share(problem.change(z))

    share = share_at(zero)
    feasible = share >= config.success_share
    acts = closes & (reached | feasible)

    def phase(z: Array, for_success: Array) -> tuple[Array, None]:
        before = share_at(z)
        runs = acts & (for_success != (before >= config.success_share))
        found = _search(config, problem, z, jnp.where(runs, config.gradient_steps, 0), for_success)
        near = problem.kl(problem.change(found)) <= config.max_kl + 0.1 * _TOLERANCE
        enough = share_at(found) >= jnp.where(for_success, before, config.success_share - _TOLERANCE)
        return jnp.where(runs & near & enough & jnp.isfinite(found).all(), found, z), None

    z, _ = jax.lax.scan(phase, zero, jnp.asarray([True, False]))
    delta = problem.change(z)
    moved = (delta != 0).any()
    return Step(phi + delta, share, problem.share(delta), problem.kl(delta), feasible, moved)


def _fill(state: DoraemonState, v: Array, success: Array, valid: Array, closes: Array) -> DoraemonState:
    """Appends the tasks with a return to the open window, or empties it."""
    size = state.success.shape[0]
    place = jnp.where(valid, state.cursor + jnp.cumsum(valid) - 1, size)
    return state._replace(
        v=state.v.at[place].set(v, mode="drop"),
        success=state.success.at[place].set(success, mode="drop"),
        cursor=jnp.where(closes, 0, state.cursor + valid.sum(dtype=jnp.int32)),
    )


def _update(
    config: DoraemonConfig, state: DoraemonState, v: Array, returns: Array, success: Array
) -> tuple[DoraemonState, Metrics]:
    """Adds scored tasks to the window, and moves the distribution if the window closes."""
    valid = ~jnp.isnan(returns)
    held = jnp.arange(config.batch_size) < state.cursor
    pairs = (state.v, v), (state.success, success), (held, valid)
    window = Window(*(jnp.concatenate(pair) for pair in pairs))
    closes = window.valid.sum() >= config.batch_size
    step = next_distribution(config, state.phi, window, state.reached, closes)
    state = _fill(state, v, success, valid, closes)._replace(
        phi=step.phi, reached=state.reached | (closes & step.feasible), updates=state.updates + step.moved
    )
    return state, {
        "sample_mean": risk.masked_mean(returns, valid),
        "success": risk.masked_mean(success.astype(returns.dtype), valid),
        "window_success": jnp.where(closes, step.share, jnp.nan),
        "next_success": jnp.where(closes, step.next_share, jnp.nan),
        "kl": jnp.where(closes, step.kl, jnp.nan),
        "kl_prior": betas.kl(step.phi, 1 - step.phi),
        "updates": state.updates.astype(returns.dtype),
    }


@register("doraemon")
def doraemon(family: TaskFamily, alpha: float, config: DoraemonConfig = DEFAULTS) -> TaskSampler:
    """The widest task distribution on which the required share of tasks succeeds.

    Independent Beta distributions, which start narrow at the middle of every dimension (of the prior's
    quantiles) and move toward the prior. The risk level is not used. A window is all tasks since the last
    step; an iteration of more tasks than ``batch_size`` is one window. Source: "Domain Randomization via
    Entropy Maximization" (ICLR 2024).

    Raises:
        ValueError: without ``success``, or for a family whose prior has no quantiles.
    """
    del alpha
    unit, dims = box.unit_box(family, "doraemon"), family.proposal.dims
    dtype = family.proposal.phi0.dtype
    level = box.threshold(
        "doraemon", "success", config.success, "the return from which a task counts as a success"
    )

    def init(key: Array) -> DoraemonState:
        del key
        zero, size = jnp.zeros((), jnp.int32), config.batch_size
        return DoraemonState(
            phi=jnp.full(2 * dims, config.start, dtype), v=jnp.full((size, dims), 0.5, dtype),
            success=jnp.zeros(size, bool), cursor=zero, reached=jnp.zeros((), bool), updates=zero,
        )  # fmt: skip

    def sample(state: DoraemonState, key: Array, n: int) -> tuple[DoraemonState, TaskDraw]:
        v = betas.sample(state.phi, key, n)
        u = unit.to_u(v)
        return state, TaskDraw(u, family.decode(u), -betas.log_prob(state.phi, v), jnp.zeros(n, bool))

    def update(
        state: DoraemonState,
        draw: TaskDraw,
        feedback: Feedback | Array,
        key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[DoraemonState, Metrics]:
        del key, progress
        feedback = Feedback.of(feedback)
        success = feedback.returns >= level
        if feedback.diverged is not None:  # its return is the iteration's worst, which may be a good one
            success &= ~feedback.diverged
        return _update(config, state, box.inside(unit.from_u(draw.u)), feedback.returns, success)

    def drawn(phi: Array, key: Array, n: int) -> Array:
        return family.decode(unit.to_u(betas.sample(phi, key, n)))

    return TaskSampler(
        init, sample, update, phi=lambda state: state.phi, batch_size=config.batch_size, drawn=drawn
    )
