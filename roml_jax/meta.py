"""RoML's Algorithm 1: the training loop over tasks, a sampler and a learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import guard, registry
from roml_jax.agents.base import MetaLearner
from roml_jax.samplers.base import Scoring, TaskSampler
from roml_jax.types import Array, Feedback, Metrics, Table


class MetaState(NamedTuple):
    """The complete training state of one or several seeds between two iterations.

    Attributes:
        learner: L, the learner's state.
        sampler: the sampler's state.
        key: for all later randomness.
        stopped: () number of iterations done when the seed diverged; -1 if it has not. A diverged seed
            keeps its state from before that iteration.
        iteration: () number of iterations done, the same for all seeds.
    """

    learner: Any
    sampler: Any
    key: Array
    stopped: Array
    iteration: Array


class Train(NamedTuple):
    """The training of S seeds, as pure functions that are not yet compiled.

    Attributes:
        init: (keys (S,), settings by option name (S,)) -> MetaState. Its leaves are (S, ...), except the
            iteration; one seed has no seed axis.
        chunk: (MetaState, n ()) -> (MetaState, metrics (chunk_length, S)). Runs the next n iterations, n
            at most ``chunk_length``; metrics rows from n on are NaN.
        chunk_length: number of rows of the metrics.
    """

    init: Callable[..., MetaState]
    chunk: Callable[[MetaState, Array], tuple[MetaState, Table]]
    chunk_length: int


def make_iteration(
    learner: MetaLearner, sampler: TaskSampler, num_tasks: int, num_iterations: int
) -> Callable[[MetaState], tuple[MetaState, Metrics]]:
    """One meta-iteration: draws tasks, collects experience, updates the learner, updates the sampler.

    Args:
        learner: the meta-learner.
        sampler: the task sampler.
        num_tasks: N, tasks per iteration.
        num_iterations: length of the training, for the progress that schedules use.
    """

    def iteration(state: MetaState) -> tuple[MetaState, Metrics]:
        if sampler.scoring is not None:
            state = _score_if_due(learner, sampler.scoring, state)
        key, draw_key, collect_key, learn_key, sampler_key = jax.random.split(state.key, 5)
        progress = state.iteration / num_iterations
        sampler_state, draw = sampler.sample(state.sampler, draw_key, num_tasks)
        learner_state, experience, feedback = learner.collect(state.learner, draw.task, collect_key)
        feedback = Feedback.of(feedback)
        weights = sampler.weights(sampler_state, draw, feedback, progress)
        learner_state, learned = learner.update(learner_state, experience, weights, learn_key, progress)
        sampler_state, sampled = sampler.update(sampler_state, draw, feedback, sampler_key, progress)
        returns = feedback.returns
        metrics = {"train/return": returns.mean(), "train/return_min": returns.min(), **learned}
        metrics |= {f"sampler/{name}": value for name, value in sampled.items()}
        metrics |= {f"sampler/phi_{i}": value for i, value in enumerate(sampler.phi(sampler_state))}
        return MetaState(learner_state, sampler_state, key, state.stopped, state.iteration + 1), metrics

    return iteration


def score(learner: MetaLearner, scoring: Scoring, learner_state: Any, state: Any, key: Array) -> Any:
    """A scoring pass: the sampler's state after rollouts on the tasks that it proposes.

    Args:
        learner: the meta-learner, which learns nothing from the pass.
        scoring: the sampler's.
        learner_state: L.
        state: the sampler's.
        key: randomness.
    """
    propose_key, collect_key, score_key = jax.random.split(key, 3)
    state, draw = scoring.propose(state, propose_key)
    tasks = jnp.repeat(draw.task, scoring.rollouts, axis=0)
    _, _, feedback = learner.collect(learner_state, tasks, collect_key)
    return scoring.scored(state, draw, Feedback.of(feedback), score_key)


def _score_if_due(learner: MetaLearner, scoring: Scoring, state: MetaState) -> MetaState:
    """Runs the scoring pass in the iterations that have one."""

    def run(sampler_state: Any) -> tuple[Any, Array]:
        key, score_key = jax.random.split(state.key)
        return score(learner, scoring, state.learner, sampler_state, score_key), key

    # the iteration is the same for all seeds, so that under vmap only one branch runs
    due = state.iteration % scoring.every == 0
    sampler_state, key = jax.lax.cond(due, run, lambda kept: (kept, state.key), state.sampler)
    return state._replace(sampler=sampler_state, key=key)


def _strongly_typed(x: Any) -> Array:
    """A leaf whose type is its own: Python's floats would make the second chunk a program of its own."""
    x = jnp.asarray(x)
    return x.astype(x.dtype)


def make_train(
    learner: MetaLearner,
    sampler: TaskSampler,
    *,
    num_tasks: int,
    num_iterations: int,
    num_seeds: int = 1,
    chunk_length: int = 10,
    seed_axis: str | None = None,
) -> Train:
    """The training of one or several seeds, as pure functions to be jitted.

    The number of iterations of a chunk is an argument, so that the last, shorter chunk needs no second
    compilation. All seeds share one program: the iteration is vmapped over their states, except for the
    iteration counter, which is the same for all. On several devices, ``seed_axis`` is the mesh axis that
    seeds are sharded over.
    """
    iteration = make_iteration(learner, sampler, num_tasks, num_iterations)
    # jitted here so that jax.eval_shape and the loop's body share one trace
    iteration = jax.jit(guard.guarded(iteration, learner.storage))
    axes = MetaState._make((0, 0, 0, 0, None))  # iteration: the same for all seeds
    if num_seeds > 1:
        iteration = jax.jit(
            jax.vmap(iteration, in_axes=(axes,), out_axes=(axes, 0), spmd_axis_name=seed_axis)
        )

    def init_one(seed: tuple[Array, Mapping[str, Array]]) -> MetaState:
        key, settings = seed
        key, learner_key, sampler_key = jax.random.split(key, 3)
        states = [learner.init(learner_key), sampler.init(sampler_key)]
        for i, state in enumerate(states):
            its_settings = {k: value for k, value in settings.items() if k in registry.tunable(state)}
            states[i] = registry.tune(state, its_settings) if its_settings else state
        state = MetaState(*states, key, jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32))
        return jax.tree.map(_strongly_typed, state)

    def init(keys: Array, settings: Mapping[str, Array] | None = None) -> MetaState:
        per_seed = (keys, dict(settings or {}))
        if num_seeds == 1:
            return init_one(jax.tree.map(lambda x: x[0], per_seed))
        # Not vmapped: concurrent batched QR decompositions (orthogonal initialisers) deadlock on XLA's CPU
        # thread pool (jaxlib 0.10).
        state = jax.lax.map(init_one, per_seed)
        return state._replace(iteration=jnp.zeros((), jnp.int32))

    def chunk(state: MetaState, n: Array) -> tuple[MetaState, Table]:
        _, shapes = jax.eval_shape(iteration, state)
        rows = jax.tree.map(lambda m: jnp.full((chunk_length, *m.shape), jnp.nan, m.dtype), shapes)

        def body(i: Array, carry: tuple[MetaState, Table]) -> tuple[MetaState, Table]:
            state, metrics = iteration(carry[0])
            return state, jax.tree.map(lambda row, m: row.at[i].set(m), carry[1], metrics)

        state, rows = jax.lax.fori_loop(0, jnp.minimum(n, chunk_length), body, (state, rows))
        return state, jax.tree.map(lambda row: row.reshape(chunk_length, num_seeds, -1), rows)

    # jitted for the same reason
    return Train(jax.jit(init), chunk, chunk_length)
