"""Builds a run's parts from its configuration: environment, learner, sampler, training and evaluation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import agents, envs, held_out, meta, registry, rollout, samplers
from roml_jax import config as configs
from roml_jax.config import Config
from roml_jax.errors import ConfigError, unknown
from roml_jax.types import Array, EnvSpec, Feedback, Outcome


class Frames(NamedTuple):
    """Environment steps of one seed, the scoring passes of its sampler included.

    Attributes:
        iteration: steps of an iteration's tasks.
        scoring: steps of a scoring pass; 0 for a sampler without one.
        every: iterations between two passes; the first pass is before the first iteration.
    """

    iteration: int
    scoring: int = 0
    every: int = 1

    def after(self, iterations: int) -> int:
        """Steps after a number of iterations."""
        return iterations * self.iteration + -(-iterations // self.every) * self.scoring

    def iterations(self, frames: float) -> int:
        """The greatest number of iterations that take at most this many steps."""
        periods, rest = divmod(int(frames), self.every * self.iteration + self.scoring)
        return periods * self.every + max(rest - self.scoring, 0) // self.iteration


class Placement(NamedTuple):
    """How a run's computation is split over devices.

    The default is a single device; ``run.sharding`` builds the placement for a mesh.

    Attributes:
        devices: number of devices.
        task_devices: number of devices that an iteration's tasks are divided among.
        seed_axis: mesh axis along which a vmap over seeds is sharded; None for one device.
        tasks: sharding constraint on pytrees with leaves (N, ...), N tasks.
        output: (a function of states, and of arguments that all seeds share, for any number of seeds; number
            of seeds) -> the function for all seeds, with its results replicated on every device.
        train: (the training for any number of seeds, number of seeds) -> the training of all seeds, with its
            state sharded by seed.
        mesh: the device mesh, used to restore a state onto it; None for one device.
    """

    devices: int = 1
    task_devices: int = 1
    seed_axis: str | None = None
    tasks: rollout.Constrain = rollout.anywhere
    output: Callable[[Callable[[int], Any], int], Callable[..., Any]] = lambda of, num_seeds: of(num_seeds)
    train: Callable[[Callable[[int], meta.Train], int], meta.Train] = lambda of, num_seeds: of(num_seeds)
    mesh: Any = None


ONE_DEVICE = Placement()


class Experiment(NamedTuple):
    """The parts of a run, as a run, a test or a benchmark uses them. Nothing is compiled yet.

    Attributes:
        env: the environment.
        agent: the agent that acts in it; None for a regression learner.
        learner: the meta-learner.
        sampler: the task sampler.
        train: the training functions.
        evaluate: learner state -> Outcome, leaves (M, K), or (R, M, K) with R > 1 seeds, on the M validation
            tasks, in one batch. A run tests in batches; an agent that acts at random in tests differs there.
        test: the same on the tasks of the final test.
        tested: (learner state, a batch of M held-out tasks) -> the same on those tasks.
        num_iterations: number of iterations of the whole run.
        frames: environment steps per seed.
        placement: the devices that the functions are built for.
    """

    env: envs.Env
    agent: agents.Agent | None
    learner: agents.MetaLearner
    sampler: samplers.TaskSampler
    train: meta.Train
    evaluate: Callable[[Any], Outcome]
    test: Callable[[Any], Outcome]
    tested: Callable[[Any, held_out.Batch], Outcome]
    num_iterations: int
    frames: Frames
    placement: Placement

    @property
    def frames_per_iteration(self) -> int:
        """Environment steps per seed and iteration, without scoring passes."""
        return self.frames.iteration


def _check_weights(sampler: samplers.TaskSampler, num_tasks: int) -> None:
    """Traces the sampler's weights, so that it can reject a number of tasks before anything is compiled."""

    def weights(key: Array) -> Any:
        state, draw = sampler.sample(sampler.init(key), key, num_tasks)
        zeros = jnp.zeros(num_tasks)
        return sampler.weights(state, draw, Feedback(zeros, zeros[:, None], zeros, zeros > 0), jnp.zeros(()))

    jax.eval_shape(weights, jax.random.key(0))


def _check_sweep(config: Config, learner: agents.MetaLearner, sampler: samplers.TaskSampler) -> None:
    """Rejects a sweep over an option that is not a leaf of the state, or over values that are not valid."""
    states = jax.eval_shape(lambda key: (learner.init(key), sampler.init(key)), jax.random.key(0))
    tunable = [name for state in states for name in registry.tunable(state)]
    for seed in config.plan:
        for name in seed.settings:
            if name not in tunable:
                raise ConfigError(f"cannot sweep: {unknown('option', name, tunable)}")
        configs.with_options(config, seed.settings)


def _check_needs(config: Config, learner: agents.MetaLearner, sampler: samplers.TaskSampler) -> None:
    """Rejects a sampler that needs what the learner does not report."""
    for need in sampler.needs:
        if need not in learner.reports:
            raise ConfigError(
                f"sampler={config.sampler} with these options needs the agent's {need}, which "
                f"agent={config.agent} does not report: use another agent or another option of the sampler"
            )


def _check_batch(sampler: samplers.TaskSampler, num_tasks: int, num_iterations: int) -> None:
    total = num_tasks * num_iterations
    if sampler.batch_size > total:
        raise ConfigError(
            f"sampler.batch_size={sampler.batch_size} exceeds the {total} tasks of the whole run "
            f"({num_iterations} iterations x {num_tasks}), so the sampler would never be updated: lower it, "
            "raise frames or use sampler=uniform"
        )


def _check_engine(env: envs.Env, task_devices: int) -> None:
    """Rejects MuJoCo's C engine, whose calls have a seed's whole batch, on a mesh that divides the tasks."""
    env, _ = envs.inside(env)
    if task_devices > 1 and isinstance(env, envs.TaskEnv) and env.physics.name == "mujoco":
        raise ConfigError(
            f"MuJoCo's C engine steps all tasks of a seed on one device, and the mesh divides them among "
            f"{task_devices}: use --physics mjx, a mesh of seeds alone, or --mesh none for one device"
        )


def make_learner(
    config: Config, env: envs.Env, placement: Placement = ONE_DEVICE
) -> tuple[agents.Agent | None, agents.MetaLearner]:
    """The agent and its meta-learner; (None, learner) for a regression learner, which has no agent."""
    spec = dataclasses.replace(config.protocol.agent_spec(env.spec), task_size=len(env.family.names))
    agent_or_learner = agents.make(config.agent, spec, config.num_tasks, config.agent_options, env)
    if isinstance(agent_or_learner, agents.MetaLearner):
        return None, agent_or_learner
    return agent_or_learner, rollout.make_learner(agent_or_learner, env, config.protocol, placement.tasks)


def _check_scoring(sampler: samplers.TaskSampler, learner: agents.MetaLearner, placement: Placement) -> None:
    """Traces the sampler's scoring pass; rejects one with wrong sizes or that does not fit a mesh."""
    scoring = sampler.scoring
    if scoring is None:
        return
    for name in ("candidates", "rollouts", "every"):
        if getattr(scoring, name) < 1:
            raise ConfigError(f"a scoring pass needs at least 1 of {name}, got {getattr(scoring, name)}")
    rollouts = scoring.candidates * scoring.rollouts
    if rollouts % placement.task_devices:
        raise ConfigError(
            f"the {scoring.candidates} x {scoring.rollouts} rollouts of a scoring pass do not divide into "
            f"{placement.task_devices} devices along the tasks: change them, or use --mesh none"
        )

    def score(key: Array) -> Any:
        state, draw = scoring.propose(sampler.init(key), key)
        if draw.task.shape[0] != scoring.candidates:
            raise ConfigError(
                f"the sampler proposes {draw.task.shape[0]} tasks for a scoring pass of {scoring.candidates}"
            )
        return meta.score(learner, scoring, learner.init(key), state, key)

    jax.eval_shape(score, jax.random.key(0))


def _make_frames(config: Config, spec: EnvSpec, sampler: samplers.TaskSampler) -> Frames:
    """The run's frames; rejects a run that is shorter than an iteration."""
    per_task, scoring = spec.episodes * spec.horizon, sampler.scoring
    frames, sizes = Frames(config.num_tasks * per_task), f"{spec.episodes} episodes x {spec.horizon} steps"
    also = ""
    if scoring is not None:
        steps = scoring.candidates * scoring.rollouts * per_task
        frames = Frames(frames.iteration, steps, scoring.every)
        also = (
            f" and a scoring pass of {steps} frames ({scoring.candidates} candidates x {scoring.rollouts} "
            f"rollouts x {sizes})"
        )
    if frames.iterations(config.frames) < 1:
        raise ConfigError(
            f"frames={config.frames:g} is less than one iteration of {frames.iteration} frames "
            f"({config.num_tasks} tasks x {sizes}){also}"
        )
    return frames


def make_env(config: Config) -> envs.Env:
    """Builds the environment that a configuration names.

    Raises:
        ConfigError: if the environment's options are invalid; one line.
    """
    try:
        return envs.from_options(config.env, config.env_options)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def batch_sizes(config: Config, devices: int = 1) -> dict[held_out.Purpose, int]:
    """Tasks per batch of a run's final test and, if it has any, of its evaluations.

    Args:
        config: the run's configuration.
        devices: number of devices that a batch is divided among.
    """
    options = config.eval
    sizes = held_out.sizes_for(options.tasks if options.validates else None, options.test_tasks, devices)
    return {"validation": sizes[0], "test": sizes[1]} if options.validates else {"test": sizes[1]}


def make(config: Config, env: envs.Env | None = None, placement: Placement = ONE_DEVICE) -> Experiment:
    """Builds the parts of a run.

    Args:
        config: the run's configuration.
        env: an environment object to use instead of the one that the configuration names.
        placement: the devices to build the functions for.

    Raises:
        ConfigError: if options are invalid or incompatible; one line.
    """
    num_seeds = len(config.plan)
    env = make_env(config) if env is None else env
    spec = config.protocol.agent_spec(env.spec)
    _check_engine(env, placement.task_devices)
    try:
        agent, learner = make_learner(config, env, placement)
        sampler = samplers.make(config.sampler, env.family, config.alpha, config.sampler_options)
        _check_needs(config, learner, sampler)
        _check_weights(sampler, config.num_tasks)
        _check_scoring(sampler, learner, placement)
        frames = _make_frames(config, spec, sampler)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    num_iterations = frames.iterations(config.frames)
    _check_batch(sampler, config.num_tasks, num_iterations)
    _check_sweep(config, learner, sampler)

    def for_seeds(one: Callable[..., Outcome], shared: int = 0) -> Callable[..., Outcome]:
        """A function of one seed's state and of ``shared`` more arguments, for all seeds."""
        axes = (0, *[None] * shared)
        return placement.output(
            lambda seeds: jax.vmap(one, axes, spmd_axis_name=placement.seed_axis) if seeds > 1 else one,
            num_seeds,
        )

    def on_held_out(tasks: int, purpose: held_out.Purpose) -> Callable[[Any], Outcome]:
        return for_seeds(held_out.make_evaluate(learner, env.family, tasks, config.eval.seed, purpose))

    def train_of(seeds: int) -> meta.Train:
        return meta.make_train(
            learner, sampler, num_tasks=config.num_tasks, num_iterations=num_iterations, num_seeds=seeds,
            chunk_length=min(config.chunk, num_iterations), seed_axis=placement.seed_axis,
        )  # fmt: skip

    return Experiment(
        env=env,
        agent=agent,
        learner=learner,
        sampler=sampler,
        train=placement.train(train_of, num_seeds),
        evaluate=on_held_out(config.eval.tasks, "validation"),
        test=on_held_out(config.eval.test_tasks, "test"),
        tested=for_seeds(functools.partial(held_out.on_batch, learner), shared=1),
        num_iterations=num_iterations,
        frames=frames,
        placement=placement,
    )
