"""A configuration made into functions: environment, learner, sampler, training and evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from roml_jax import agents, envs, evaluate, meta, regression, rollout, samplers, sharding
from roml_jax import config as config_lib
from roml_jax.config import Config, ConfigError
from roml_jax.registry import unknown
from roml_jax.types import Array, EnvSpec


class Experiment(NamedTuple):
    """Everything that a run, a test or a benchmark needs; nothing is compiled yet.

    Attributes:
        env: the environment.
        agent: what acts; None where a problem has examples and nothing acts.
        learner: agent and environment under the protocol, or what learns from a problem's examples.
        sampler: chooses tasks.
        train: the run's functions.
        evaluate: learner state -> returns, (M, K) or (R, M, K) with several runs, on few tasks.
        test: the same on many.
        num_iterations: of the whole run.
        frames_per_iteration: environment steps per run and iteration.
        mesh: the devices that the functions are written for; None for one.
    """

    env: envs.Env
    agent: agents.Agent | None
    learner: meta.MetaLearner
    sampler: samplers.TaskSampler
    train: meta.Train
    evaluate: Callable[[Any], Array]
    test: Callable[[Any], Array]
    num_iterations: int
    frames_per_iteration: int
    mesh: Mesh | None


def _check_weights(sampler: samplers.TaskSampler, num_tasks: int) -> None:
    """Lets a sampler refuse a number of tasks that it cannot filter, before anything is compiled."""

    def weights(key: Array) -> Any:
        return sampler.weights(sampler.init(key), jnp.zeros(num_tasks), jnp.zeros(()))

    jax.eval_shape(weights, jax.random.key(0))


def _check_sweep(config: Config, learner: meta.MetaLearner, sampler: samplers.TaskSampler) -> None:
    """Refuses to sweep what is no leaf of the state, and values that the option itself would refuse."""
    tunable = (*learner.tunable, *(sampler.tunable or ("alpha",)))
    for run in config.runs:
        for name in run.settings:
            if name not in tunable:
                raise ConfigError(f"cannot sweep: {unknown('option', name, tunable)}")
        config_lib.with_options(config, run.settings)


def _check_batch(sampler: samplers.TaskSampler, num_tasks: int, num_iterations: int) -> None:
    total = num_tasks * num_iterations
    if sampler.batch_size > total:
        raise ConfigError(
            f"sampler.batch_size={sampler.batch_size} is more than the whole run's {total} tasks "
            f"({num_iterations} iterations x {num_tasks}), so they would never get harder: lower it, raise "
            "frames or take sampler=uniform"
        )


def _check_engine(env: envs.Env, mesh: Mesh | None) -> None:
    """Refuses to call one host for what several devices hold."""
    if mesh is not None and isinstance(env, envs.TaskEnv) and env.physics.name == "mujoco":
        raise ValueError(
            f"MuJoCo's C engine runs on one device and the mesh has {mesh.size}: "
            "--physics mjx, or --mesh none for one device"
        )


def _make_learner(
    config: Config, env: envs.Env, spec: EnvSpec, mesh: Mesh | None
) -> tuple[agents.Agent | None, meta.MetaLearner]:
    """What is made robust: an agent that acts, or a learner from examples where the problem has them."""
    constructor = regression.find(env, config.agent)
    if constructor is not None:
        return None, constructor(env, spec, config.agent_options)
    spec = dataclasses.replace(spec, task_size=len(env.family.names))
    agent = agents.make(config.agent, spec, config.num_tasks, config.agent_options)
    return agent, rollout.make_learner(agent, env, config.protocol, sharding.over_tasks(mesh))


def make(config: Config, env: envs.Env | None = None) -> Experiment:
    """Builds what a configuration names.

    Args:
        config: of the run.
        env: an environment of your own in place of the one that the configuration names.

    Raises:
        ConfigError: where options do not go together; one line.
    """
    num_runs = len(config.runs)
    if env is None:
        try:
            env = envs.from_options(config.env, config.env_options)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    spec = config.protocol.agent_spec(env.spec)
    frames = config.num_tasks * spec.episodes * spec.horizon
    if config.frames < frames:
        raise ConfigError(
            f"frames={config.frames:g} is less than one iteration of {frames} "
            f"({config.num_tasks} tasks x {spec.episodes} episodes x {spec.horizon} steps)"
        )
    num_iterations = int(config.frames // frames)
    try:
        mesh = sharding.make_mesh(config.mesh, num_runs, config.num_tasks)
        _check_engine(env, mesh)
        agent, learner = _make_learner(config, env, spec, mesh)
        sampler = samplers.make(config.sampler, env.family, config.alpha, config.sampler_options)
        if "alpha" in config.runs[0].settings:
            sampler = samplers.with_tunable_alpha(
                lambda alpha: samplers.make(config.sampler, env.family, alpha, config.sampler_options),
                config.alpha,
            )
        _check_weights(sampler, config.num_tasks)
        _check_batch(sampler, config.num_tasks, num_iterations)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _check_sweep(config, learner, sampler)

    def on_held_out(tasks: int, purpose: evaluate.Purpose) -> Callable[[Any], Array]:
        one = evaluate.make_evaluate(learner, env.family, tasks, config.eval.seed, purpose)
        batched = jax.vmap(one, spmd_axis_name=sharding.seed_axis(mesh)) if num_runs > 1 else one
        return sharding.place_output(batched, mesh)

    train = meta.make_train(
        learner, sampler, num_tasks=config.num_tasks, num_iterations=num_iterations, num_runs=num_runs,
        chunk_length=min(config.chunk, num_iterations), seed_axis=sharding.seed_axis(mesh),
    )  # fmt: skip
    return Experiment(
        env=env,
        agent=agent,
        learner=learner,
        sampler=sampler,
        train=sharding.place(train, mesh, num_runs),
        evaluate=on_held_out(config.eval.tasks, "validation"),
        test=on_held_out(config.eval.test_tasks, "test"),
        num_iterations=num_iterations,
        frames_per_iteration=frames,
        mesh=mesh,
    )
