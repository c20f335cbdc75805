"""A configuration made into functions: environment, learner, sampler, training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import agents, envs, evaluate, meta, rollout, samplers
from roml_jax.config import Config, ConfigError
from roml_jax.types import Array


class Experiment(NamedTuple):
    """Everything that a run, a test or a benchmark needs; nothing is compiled yet.

    Attributes:
        env: the environment.
        agent: the agent.
        learner: agent and environment under the protocol.
        sampler: chooses tasks.
        train: the run's functions.
        evaluate: learner state -> returns, (M, K) or (S, M, K) with several seeds, on few tasks.
        test: the same on many.
        num_iterations: of the whole run.
        frames_per_iteration: environment steps per seed and iteration.
    """

    env: envs.Env
    agent: agents.Agent
    learner: meta.MetaLearner
    sampler: samplers.TaskSampler
    train: meta.Train
    evaluate: Callable[[Any], Array]
    test: Callable[[Any], Array]
    num_iterations: int
    frames_per_iteration: int


def _check_weights(sampler: samplers.TaskSampler, num_tasks: int) -> None:
    """Lets a sampler refuse a number of tasks that it cannot filter, before anything is compiled."""

    def weights(key: Array) -> Any:
        return sampler.weights(sampler.init(key), jnp.zeros(num_tasks), jnp.zeros(()))

    jax.eval_shape(weights, jax.random.key(0))


def make(config: Config, env: envs.Env | None = None) -> Experiment:
    """Builds what a configuration names.

    Args:
        config: of the run.
        env: an environment of your own in place of the one that the configuration names.

    Raises:
        ConfigError: where options do not go together; one line.
    """
    if env is None:
        env = envs.from_options(config.env, config.env_options)
    spec = config.protocol.agent_spec(env.spec)
    frames = config.num_tasks * spec.episodes * spec.horizon
    if config.frames < frames:
        raise ConfigError(
            f"frames={config.frames:g} is less than one iteration of {frames} "
            f"({config.num_tasks} tasks x {spec.episodes} episodes x {spec.horizon} steps)"
        )
    num_iterations = int(config.frames // frames)
    try:
        agent = agents.make(config.agent, spec, config.num_tasks, config.agent_options)
        sampler = samplers.make(config.sampler, env.family, config.alpha, config.sampler_options)
        _check_weights(sampler, config.num_tasks)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    learner = rollout.make_learner(agent, env, config.protocol)
    num_seeds = len(config.seeds)

    def on_held_out(tasks: int, purpose: evaluate.Purpose) -> Callable[[Any], Array]:
        one = evaluate.make_evaluate(learner, env.family, tasks, config.eval.seed, purpose)
        return jax.vmap(one) if num_seeds > 1 else one

    return Experiment(
        env=env,
        agent=agent,
        learner=learner,
        sampler=sampler,
        train=meta.make_train(
            learner, sampler, num_tasks=config.num_tasks, num_iterations=num_iterations,
            num_seeds=num_seeds, chunk_length=min(config.chunk, num_iterations),
        ),
        evaluate=on_held_out(config.eval.tasks, "validation"),
        test=on_held_out(config.eval.test_tasks, "test"),
        num_iterations=num_iterations,
        frames_per_iteration=frames,
    )  # fmt: skip
