"""An environment's own resets and steps, many at once, from given states and model fields."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.envs.base import simulation
from roml_jax.envs.door import programs
from roml_jax.envs.door.subject import Subject, Variant

STEPS = 2  # control steps of an episode


class Ran(NamedTuple):
    """Episodes: leaves (n, T + 1, ...), the reset first.

    Attributes:
        obs: observations, followed by the parts that only a critic sees.
        reward: 0 after a reset.
        done: ended early.
        diverged: blown up.
        state: (qpos, qvel) and, if the engine has them, (act, qacc_warmstart), by name.
    """

    obs: np.ndarray
    reward: np.ndarray
    done: np.ndarray
    diverged: np.ndarray
    state: Mapping[str, np.ndarray]


class EngineError(ValueError):
    """The engine failed at run time; the message is the engine's last line."""


class Program:
    """Episodes of an environment, compiled once."""

    def __init__(self, env: Any, subject: Subject, *, quick: bool) -> None:
        """Compiles nothing yet; ``quick`` is for steps that are cheap inside the program."""
        self._env, self._subject, self._quick, self._compiled = env, subject, quick, None

    def _episode(
        self, seed: Any, qpos: Any, qvel: Any, task: Any, leaves: Any, actions: Any
    ) -> tuple[Any, ...]:
        env = self._env
        if self._subject.model is not None:
            env = dataclasses.replace(env, apply_task=lambda _: leaves)
        if hasattr(env, "start"):
            env = dataclasses.replace(env, start=lambda _: (qpos, qvel))
        first = env.reset(jax.random.key(seed), task)

        def shown(state: Any) -> tuple[Any, ...]:
            return self._seen(state), state.reward, state.done, state.diverged, _physics(state.physics)

        def move(state: Any, action: Any) -> tuple[Any, Any]:
            if getattr(env, "actuation", None) is None and not getattr(env, "carry", None):
                state = env.step(state, action)
            else:  # the simulation itself, without what turns actions into controls and what pushes
                state = env.step(state, jnp.zeros(env.spec.action.size), ctrl=action)
            return state, shown(state)

        later = jax.lax.scan(move, first, actions)[1]
        return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), shown(first), later)

    def _seen(self, state: Any) -> Any:
        """What the actor and the critic see: (D + P,)."""
        if not self._env.spec.privileged_slices:
            return state.obs
        return jnp.concatenate([state.obs, state.privileged], axis=-1)

    def _episodes(self, v: int, s: int) -> Callable[..., tuple[Any, ...]]:
        """The (v s,) episodes: at once on the C engine; elsewhere variant by variant, to save memory."""
        together = jax.vmap(self._episode)
        if self._quick:
            return together

        def by_variant(*args: Any) -> tuple[Any, ...]:
            apart = jax.tree.map(lambda x: x.reshape(v, s, *x.shape[1:]), args)
            out = jax.lax.map(lambda some: together(*some), apart)
            return jax.tree.map(lambda x: x.reshape(v * s, *x.shape[2:]), out)

        return by_variant

    def __call__(
        self, tried: Sequence[Variant], qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray
    ) -> Ran:
        """Runs every variant from every state; rows are (variant, state), the states fastest.

        Args:
            tried: V variants, of the same fields each time.
            qpos: (S, nq).
            qvel: (S, nv).
            actions: (S, T, nu).

        Raises:
            EngineError: if the engine fails.
        """
        v, s = len(tried), len(qpos)
        tasks = np.stack([one.task for one in tried])
        leaves = {name: np.stack([one.leaves[name] for one in tried]) for name in tried[0].leaves}

        def tile(x: np.ndarray) -> np.ndarray:
            numbers = x.astype(np.int32 if x.dtype.kind == "i" else np.float32)
            return np.tile(numbers, (v, *[1] * (x.ndim - 1)))

        def repeat(x: np.ndarray) -> np.ndarray:
            return np.repeat(np.float32(x), s, axis=0)

        args = (
            tile(np.arange(s)),
            tile(qpos),
            tile(qvel),
            repeat(tasks),
            {name: repeat(leaf) for name, leaf in leaves.items()},
            tile(actions),
        )
        try:
            if self._compiled is None:
                self._compiled = programs.compiled(self._episodes(v, s), quick=self._quick)
            return Ran(*jax.tree.map(np.asarray, self._compiled(*args)))
        except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
            raise EngineError(_last_line(error)) from None


def _physics(state: Any) -> dict[str, Any]:
    """Positions and velocities of an engine's state, or of another library's."""
    state = simulation(state)
    names = ("qpos", "qvel", "act", "qacc_warmstart")
    return {name: getattr(state, name) for name in names if hasattr(state, name)}


def _last_line(error: Exception) -> str:
    """The last line of a traceback that reached Python through the compiled program."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line and not line.startswith(("File ", "INTERNAL"))]
    line = (named or lines)[-1].removeprefix("INTERNAL: ")
    return re.sub(r"SimulationError: MuJoCo raised in .*?; simulation \d+: ", "MuJoCo says: ", line)
