"""Returns of one policy on several engines: the same tasks, the same initial states, greedy actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from roml_jax import console as output
from roml_jax import envs, held_out, rollout
from roml_jax.envs import physics
from roml_jax.errors import ConfigError
from roml_jax.evaluate.intervals import decimals
from roml_jax.run.saved import Saved
from roml_jax.sim2sim import plain

PLAIN = "plain"
ENGINES = ("mujoco", "mjx")
"""The engines of this package that are compared with plain MuJoCo."""


def on_engine(env: Any, engine: str) -> Any:
    """An environment on another engine, or in plain MuJoCo; all else is its own.

    Args:
        env: a ``TaskEnv``, or an environment around one, in its field ``env``.
        engine: "plain" or an engine's name.

    Raises:
        ConfigError: for an environment that is not on a MuJoCo model, or an engine that refuses it; one line.
    """
    if not isinstance(env, envs.TaskEnv):
        if dataclasses.is_dataclass(env) and "env" in {field.name for field in dataclasses.fields(env)}:
            return dataclasses.replace(env, env=on_engine(env.env, engine))
        raise ConfigError("sim2sim needs an environment on a MuJoCo model: TaskEnv, or a registered robot")
    task = jax.ShapeDtypeStruct((len(env.family.names),), jnp.result_type(float))
    readings = tuple(jax.eval_shape(env.reset, jax.random.key(0), task).physics.readings)
    now = env.physics
    try:
        if engine == PLAIN:
            return dataclasses.replace(env, physics=plain.make(now, readings))
        other = physics.make(
            cast(physics.EngineName, engine), now.model, now.frame_skip, readings, now.derived, now.contacts
        )
        return dataclasses.replace(env, physics=other)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"{engine}: {error}") from None


def _env_of(saved: Saved, engine: str) -> Any:
    """The run's environment on an engine, with the solver limits that a training on that engine has."""
    config, env = saved.config, saved.parts.env
    if hasattr(config.env_options, "physics") and isinstance(env, envs.TaskEnv):
        # plain MuJoCo is the reference, so its solver has the C engine's limits, which it converges within
        options = dataclasses.replace(config.env_options, physics="mujoco" if engine == PLAIN else engine)
        try:
            env = envs.from_options(config.env, options)
        except ValueError as error:
            raise ConfigError(f"{engine}: {error}") from None
        if engine != PLAIN:
            return env
    return on_engine(env, engine)


class Compared(NamedTuple):
    """Returns of a policy. Axes: M tasks, K episodes.

    Attributes:
        names: of the task's dimensions.
        tasks: (M, d).
        returns: (M, K) by engine; "plain" is plain MuJoCo.
    """

    names: tuple[str, ...]
    tasks: np.ndarray
    returns: Mapping[str, np.ndarray]

    def difference(self, engine: str) -> float:
        """The difference of an engine's mean return to plain MuJoCo's, as a share of the mean size."""
        ours, theirs = self.returns[engine], self.returns[PLAIN]
        gap, size = abs(ours.mean() - theirs.mean()), np.abs(theirs).mean()
        return float(gap / size) if size else float("inf" if gap else 0.0)


def collect(saved: Saved, engines: Sequence[str], n: int, seed: int, place: int) -> Compared:
    """Runs the policy of one seed on engines and in plain MuJoCo.

    Args:
        saved: the run.
        engines: names of engines.
        n: number of tasks, from the prior.
        seed: random seed of the tasks and of the initial states.
        place: position of the seed in ``config.plan``.

    Raises:
        ConfigError: if the run has no such environment or policy; one line.
    """
    parts, protocol = saved.parts, saved.config.protocol
    if parts.agent is None:
        raise ConfigError("sim2sim needs a policy that acts; a regression learner has none")
    tasks, key = held_out.draw(parts.env.family, n, seed, "test")
    returns = {}
    for engine in (*engines, PLAIN):
        learner = rollout.make_learner(parts.agent, _env_of(saved, engine), protocol)
        outcome = jax.jit(learner.test)(saved.one(place), tasks, key)
        returns[engine] = np.asarray(outcome.returns, float)
    return Compared(parts.env.family.names, np.asarray(tasks), returns)


def show(console: Console, compared: Compared, tolerance: float) -> bool:
    """Prints the returns and their differences; returns whether every engine is within the tolerance."""
    theirs = compared.returns[PLAIN].mean(axis=1)
    digits = decimals(theirs)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    heads = ("engine", "mean return", "difference", "of the mean", "task: median", "largest", "verdict")
    for head in heads:
        left = head in ("engine", "verdict")
        table.add_column(head, justify="left" if left else "right", no_wrap=head == "verdict")
    every = True
    for engine, returns in compared.returns.items():
        if engine == PLAIN:
            table.add_row("plain MuJoCo", f"{theirs.mean():.{digits}f}", "", "", "", "", "")
            continue
        gaps = returns.mean(axis=1) - theirs
        share = compared.difference(engine)
        within = share <= tolerance
        every &= within
        table.add_row(
            engine, f"{returns.mean():.{digits}f}", f"{gaps.mean():+.{digits}f}", f"{share:.3%}",
            f"{np.median(np.abs(gaps)):.{digits}f}", f"{np.abs(gaps).max():.{digits}f}",
            "agrees" if within else f"differs by more than {100 * tolerance:.2g} %",
        )  # fmt: skip
    output.show_table(console, table)
    return bool(every)
