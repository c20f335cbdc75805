"""Which parts of a run follow schedules over its length: what a new total of frames changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal, Var

from roml_jax import experiment
from roml_jax.agents import MetaLearner
from roml_jax.config import Config
from roml_jax.samplers import TaskSampler
from roml_jax.types import Feedback


def _is_used(jaxpr: Jaxpr, wanted: Var) -> bool:
    """Whether a result of a traced function depends on a variable; inner calls use all they get."""
    needed = {x for x in jaxpr.outvars if not isinstance(x, Literal)}
    for equation in reversed(jaxpr.eqns):
        if needed & {*equation.outvars}:
            needed |= {x for x in equation.invars if not isinstance(x, Literal)}
    return wanted in needed


def _depends(function: Callable[..., Any], *shapes: Any) -> bool:
    """Whether a function's results depend on its last argument, a scalar; nothing is computed."""
    jaxpr = jax.make_jaxpr(function)(*shapes).jaxpr
    return _is_used(jaxpr, jaxpr.invars[-1])


def followers(learner: MetaLearner, sampler: TaskSampler, num_tasks: int) -> tuple[bool, bool]:
    """Whether the learner's and the sampler's updates depend on the share of the run that is done."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, own = jax.eval_shape(learner.init, key), jax.eval_shape(sampler.init, key)
    own, draw = jax.eval_shape(lambda s, k: sampler.sample(s, k, num_tasks), own, key)

    def collect(state: Any, tasks: Any, key: Any) -> tuple[Any, Any, Feedback]:
        state, experience, feedback = learner.collect(state, tasks, key)
        return state, experience, Feedback.of(feedback)

    state, experience, feedback = jax.eval_shape(collect, state, draw.task, key)
    share = jax.eval_shape(lambda: jnp.zeros(()))
    weights = jax.eval_shape(sampler.weights, own, draw, feedback, share)
    learns = _depends(learner.update, state, experience, weights, key, share)
    samples = _depends(sampler.update, own, draw, feedback, key, share)
    return learns, samples or _depends(sampler.weights, own, draw, feedback, share)


def rebased(config: Config, parts: experiment.Experiment, done: int, before: float) -> str:
    """One line about a run that goes on to another total of frames.

    Args:
        config: with the new total.
        parts: the run's functions.
        done: number of iterations done.
        before: the old total of frames per seed.
    """
    learns, samples = followers(parts.learner, parts.sampler, config.num_tasks)
    names = [f"the annealing of agent {config.agent}"] if learns else []
    names += [f"the schedule of sampler {config.sampler}"] if samples else []
    total = parts.num_iterations
    was = min(done / max(parts.frames.iterations(before), 1), 1.0)
    share = f"{100 * done / total:.0f} % of the run done instead of {100 * was:.0f} %"
    what = (
        f"re-based on it, with {share}: {', '.join(names)}" if names else "nothing here anneals over the run"
    )
    return f"--frames is the total per seed, now {config.frames:,.0f}, before {before:,.0f}; {what}"
