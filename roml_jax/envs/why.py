"""Why every task of an environment diverges, or why a learner does: a few steps outside of training."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.envs.base import Env, EnvState
from roml_jax.envs.task_env import TaskEnv
from roml_jax.envs.wrappers import inside
from roml_jax.types import Continuous

LARGE = 1e4
"""A reward above this is told: its squared return soon exceeds what a loss may be (``guard.EXPLODED``)."""


def why(env: Env, steps: int = 5) -> str | None:
    """Runs a task in the middle of the range with random actions and looks for what is not finite.

    Args:
        env: the environment.
        steps: number of steps.

    Returns:
        One phrase that names the reward term or the part of the observation, or the size of the rewards; None
        if nothing is found.
    """
    if not hasattr(env, "step"):  # regression has no simulation
        return None
    task = env.family.decode(jnp.full((1, env.family.proposal.dims), 0.5))[0]
    state, random = jax.jit(env.reset)(jax.random.key(0), task), np.random.default_rng(0)
    if state.diverged:
        return f"the first observation is not finite{_parts(env, state)}"
    step, largest = jax.jit(env.step), 0.0
    for k in range(1, steps + 1):
        action = random.uniform(-1, 1, env.spec.action.size).astype(np.float32)
        acted = jnp.asarray(action if isinstance(env.spec.action, Continuous) else 0)
        after = step(state, acted)
        if after.diverged:
            return f"{_named(env, state, acted)} in step {k}"
        largest, state = max(largest, abs(float(after.reward))), after
    return f"rewards reach {largest:.3g} in one step: scale them down" if largest > LARGE else None


def _parts(env: Env, state: object) -> str:
    env, state = inside(env, state)
    if not isinstance(env, TaskEnv):
        return ""
    view = env._view(state.physics, state.task, state.model, state.carry)
    bad = [name for name, part in env._parts(view).items() if not jnp.isfinite(part).all()]
    return f" (part {bad[0]!r})" if bad else ""


def _named(env: Env, state: object, action: jax.Array) -> str:
    """What is not finite after an action: the reward's term, the observation's part or the simulation."""
    env, state = inside(env, state)
    if not isinstance(env, TaskEnv):
        return "the observation, the reward or the simulation is not finite"

    @jax.jit
    def look(state: EnvState, action: jax.Array) -> tuple[dict, dict]:
        motion = env._move(state, action, None)[0]
        return env._terms(motion), env._parts(motion.after)

    terms, parts = look(state, action)
    for name, term in terms.items():
        if not math.isfinite(float(term)):
            return f"the reward's term {name!r} is {float(term)}"
    for name, part in parts.items():
        if not jnp.isfinite(part).all():
            return f"the observation's part {name!r} is not finite"
    return "the simulation blows up (a position or velocity beyond 1e4)"
