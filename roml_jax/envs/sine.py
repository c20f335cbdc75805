"""Sine regression: few-shot regression of waves whose amplitude, phase and frequency are the task.

It is an environment (predict y at x; the reward is minus the squared error), so every agent can train on it.
It is also a problem with examples, so supervised meta-learners can train on it too
(``roml_jax.agents.regression``). Source: Finn et al. 2017, with RoML's frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from roml_jax import checks, tasks
from roml_jax.envs.base import EnvState
from roml_jax.types import Array, Continuous, EnvSpec

_DENSITY_BOUND = 1e-3  # the reference's bound of the Beta families for this problem


@dataclass(frozen=True)
class Sine:
    """Predict amplitude * sin(frequency * x + phase) at x uniform on [0, 2 pi]: reward -(a - y)^2."""

    support: int = 10
    """Support examples that a learner adapts to, which is the number of steps per episode."""

    def __post_init__(self) -> None:
        checks.at_least(self, "env", 1, "support")

    @property
    def spec(self) -> EnvSpec:
        """Observation x, action a prediction of y; two episodes: one to adapt, one after adaptation."""
        return EnvSpec("sine", {"x": slice(0, 1)}, Continuous(1, -5.0, 5.0), self.support, episodes=2)

    @property
    def family(self) -> tasks.TaskFamily:
        """Amplitude, phase and frequency; independent and uniform under the prior."""
        parts = {"amplitude": (0.1, 5.0), "phase": (0.0, 2 * jnp.pi), "frequency": (0.3, 3.0)}
        return tasks.product(
            {name: tasks.beta(name, *bounds, bound=_DENSITY_BOUND) for name, bounds in parts.items()}
        )

    def target(self, task: Array, x: Array) -> Array:
        """Targets y (...) of a task (3,) at x (...)."""
        return task[0] * jnp.sin(task[2] * x + task[1])

    def examples(self, key: Array, task: Array, n: int) -> tuple[Array, Array]:
        """Inputs x (n, 1) and targets y (n, 1) of a task (3,)."""
        x = jax.random.uniform(key, (n, 1), task.dtype, 0.0, 2 * jnp.pi)
        return x, self.target(task, x)

    def reset(self, key: Array, task: Array) -> EnvState:
        """Draws the first x."""
        key, x_key = jax.random.split(key)
        x, _ = self.examples(x_key, task, 1)
        return EnvState.start(x[0], key, task, ())

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Rewards minus the squared error of the prediction and draws the next x."""
        key, x_key = jax.random.split(state.key)
        error = jnp.asarray(action).reshape(()) - self.target(state.task, state.obs[0])
        x, _ = self.examples(x_key, state.task, 1)
        return state._replace(obs=x[0], reward=-jnp.square(error), key=key)
