"""The state that a run starts from: a new one, that of its last checkpoint, or another run's learner."""

from __future__ import annotations

import concurrent.futures
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import agents, envs, experiment, meta, quickly, samplers, users_code
from roml_jax._version import __version__
from roml_jax.config import Config, check_same, seed_plan
from roml_jax.errors import ConfigError
from roml_jax.run import best as best_learners
from roml_jax.run import checkpoint, init_from, schedules, sharding
from roml_jax.run import folder as run_folder


def _begun(
    pool: concurrent.futures.Executor, function: Callable[..., Any], *args: Any
) -> concurrent.futures.Future[Callable[..., Any]]:
    """Traces a program that runs once, and begins to compile it.

    On a CPU its kernels compile faster and are slower; they have the same bits.
    """
    jitted = jax.jit(function, compiler_options=quickly.on_a_cpu(quickly.SAME_BITS))
    return pool.submit(jitted.lower(*args).compile)


class Plan(NamedTuple):
    """The part of a run's configuration that determines its state.

    Attributes:
        config: the configuration.
        options: every option by dotted name, as saved in checkpoints.
        validates: whether the run is evaluated during training.
    """

    config: Config
    options: dict[str, Any]
    validates: bool

    @property
    def seeds(self) -> tuple[seed_plan.Seed, ...]:
        """The seeds of the program."""
        return self.config.plan


class State(NamedTuple):
    """The state of a run between two chunks.

    Attributes:
        meta: the MetaState of all seeds.
        best: the best learners so far; None if the run is not evaluated during training.
        done: number of iterations done.
        seconds: training time so far, in seconds.
        evaluated: number of iterations done at the last evaluation.
    """

    meta: meta.MetaState
    best: best_learners.Best | None
    done: int
    seconds: float
    evaluated: int = 0


def shapes_of(parts: experiment.Experiment, plan: Plan) -> meta.MetaState:
    """The shapes of a run's MetaState; nothing is computed."""
    return jax.eval_shape(parts.train.init, *seed_plan.leaves(plan.seeds))


def how_to_resume(config: Config, folder: Path) -> str:
    """The command that resumes a run, for messages."""
    command = f"resume with: python -m roml_jax.train --resume {shlex.quote(str(folder))}"

    def is_found(kind: Any, name: str) -> bool:
        """Whether the command finds a component: not one that a script or a session has registered."""
        if name not in kind.names():
            return False
        made = kind.get(name)
        return users_code.is_ours(made) or (made.__module__ != "__main__" and bool(config.imports))

    missing = [
        f"the {what} {name!r}"
        for kind, name, what in (
            (envs, config.env, "environment"), (samplers, config.sampler, "sampler"),
            (agents, config.agent, "agent"),
        )
        if not is_found(kind, name)
    ]  # fmt: skip
    return command + (f" --import MODULE, where MODULE registers {', '.join(missing)}" if missing else "")


def check_total(config: Config) -> None:
    """Checks the total of frames of a run that is resumed, before anything is built for that total.

    Raises:
        ConfigError: if the total is less than what is done; one line.
    """
    path = checkpoint.latest(config.resume / run_folder.CHECKPOINT) if config.resume else None
    try:
        done = 0 if path is None else checkpoint.about(path).get("frames", 0)
    except checkpoint.CheckpointError:
        return  # ``restored`` says what is wrong with it
    if config.frames < done:
        raise ConfigError(
            f"--frames {config.frames:,.0f} is less than the {done:,} frames per seed that are done; it is "
            "the total, including what is done"
        )


def is_complete(plan: Plan, parts: experiment.Experiment, folder: Path) -> bool:
    """Whether a run was trained to its end and tested, and is not asked to go on to another total."""
    path = checkpoint.latest(folder / run_folder.CHECKPOINT)
    if path is None or not run_folder.is_complete(folder, len(plan.seeds), int(path.name)):
        return False
    if int(path.name) == parts.num_iterations:
        return True
    try:  # it ended before: every seed diverged, or the total was another one
        return checkpoint.about(path)["config"].get("frames") == plan.config.frames
    except checkpoint.CheckpointError:
        return False


def inherited(parts: experiment.Experiment, plan: Plan, shapes: meta.MetaState) -> init_from.Inherited | None:
    """What a run takes over from the run that ``init_from`` names; None if it has a checkpoint of its own.

    Raises:
        ConfigError: see ``init_from.load``.
    """
    config = plan.config
    if config.init_from is None:
        return None
    if config.resume and checkpoint.latest(config.resume / run_folder.CHECKPOINT):
        return None
    return init_from.load(config.init_from, config, parts, shapes)


def restored(
    parts: experiment.Experiment, plan: Plan, shapes: meta.MetaState, folder: Path
) -> tuple[State | None, list[str]]:
    """Reads the state of a run's last checkpoint.

    Args:
        parts: the run's functions.
        plan: the run's plan.
        shapes: shapes of the run's MetaState.
        folder: the run's ``checkpoint`` folder.

    Returns:
        The state, or None if there is no checkpoint; and lines for the user.

    Raises:
        ConfigError: if the checkpoint is damaged, or has another configuration or version; one line.
    """
    path, num_seeds, mesh = checkpoint.latest(folder), len(plan.seeds), parts.placement.mesh
    if path is None:
        return None, ["resumes from the start: there is no checkpoint"]
    try:
        about = checkpoint.about(path)
        checkpoint.check_version(path, about, __version__)
        check_same(about["config"], plan.options, str(path))
        lines = _total(parts, plan, about)
        state = checkpoint.restore(path, "state", sharding.placed_shapes(mesh, shapes, num_seeds))
        best = None
        if plan.validates:
            start = best_learners.start(parts.learner.acting(shapes.learner), num_seeds)
            snapshots = sharding.placed_seeds(mesh, start, num_seeds)._asdict()
            best = best_learners.Best(
                **{name: checkpoint.restore(path, f"best_{name}", like) for name, like in snapshots.items()}
            )
    except checkpoint.CheckpointError as error:
        raise ConfigError(str(error)) from None
    same = (about["jax"], about["backend"]) == (jax.__version__, jax.default_backend())
    note = "" if same else f" (saved by jax {about['jax']} on {about['backend']}: not bit-identical)"
    lines = [f"resumes from iteration {about['iteration']}{note}", *lines]
    done = about["iteration"]
    return State(state, best, done, about["seconds"], about.get("evaluated", done)), lines


def _total(parts: experiment.Experiment, plan: Plan, about: Mapping[str, Any]) -> list[str]:
    """A line if the run's total of frames has changed since its checkpoint."""
    done, before, frames = about["iteration"], about["config"]["frames"], plan.config.frames
    return [schedules.rebased(plan.config, parts, done, before)] if frames != before else []


def started(
    parts: experiment.Experiment, plan: Plan, shapes: meta.MetaState, pool: concurrent.futures.Executor,
    taken: init_from.Inherited | None = None,
) -> Callable[[], State]:  # fmt: skip
    """Traces the programs that make a new run's state, and begins to compile them.

    Args:
        parts: the run's functions.
        plan: the run's plan.
        shapes: of the run's MetaState, with their shardings.
        pool: runs the compiler.
        taken: what the run takes over from another run's learner.

    Returns:
        A function that makes the state, as soon as the programs are compiled.
    """
    leaves, num_seeds = seed_plan.leaves(plan.seeds), len(plan.seeds)

    def snapshots(acting: Any) -> best_learners.Best:
        # copy: the next chunk overwrites the state's buffers
        copied = best_learners.start(jax.tree.map(jnp.copy, acting), num_seeds)
        return sharding.place_seeds(parts.placement.mesh, copied, num_seeds)

    init = _begun(pool, parts.train.init, *leaves)
    best = _begun(pool, snapshots, parts.learner.acting(shapes.learner)) if plan.validates else None

    def make() -> State:
        state = init.result()(*leaves)
        if taken is not None:
            state = state._replace(learner=init_from.into(taken, state.learner))
        first = best.result()(parts.learner.acting(state.learner)) if best else None
        return State(state, first, 0, 0.0)

    return make


class Prepared(NamedTuple):
    """How a run's state is made.

    Attributes:
        restored: the state of a run that is resumed; None for one that starts.
        begin: (pool that runs the compiler, shapes of the MetaState with their shardings) -> a function that
            makes the state; see ``started``.
        lines: for the user.
    """

    restored: State | None
    begin: Callable[[concurrent.futures.Executor, meta.MetaState], Callable[[], State]]
    lines: list[str]


def prepared(
    parts: experiment.Experiment, plan: Plan, shapes: meta.MetaState, taken: init_from.Inherited | None,
    folder: Path,
) -> Prepared:  # fmt: skip
    """How the run's state is made; the arguments are those of the functions above."""
    lines = [taken.line] if taken else []
    if plan.config.resume:
        state, more = restored(parts, plan, shapes, folder)
        if state is not None:
            return Prepared(state, lambda pool, placed: lambda: state, more)
        lines = [*more, *lines]
    return Prepared(None, lambda pool, placed: started(parts, plan, placed, pool, taken), lines)
