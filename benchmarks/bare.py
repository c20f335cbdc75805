"""Loops that only step an environment, or only its engine, for the throughput benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mujoco.batch
import numpy as np

from roml_jax.envs.physics import mujoco_c, untimed
from roml_jax.envs.task_env import TaskEnv
from roml_jax.types import Discrete


def random_actions(space: Any, key: jax.Array, n: int) -> jax.Array:
    """Uniformly random actions, (n, ...)."""
    if isinstance(space, Discrete):
        return jax.random.randint(key, (n,), 0, space.n)
    return jax.random.uniform(key, (n, space.size), minval=space.low, maxval=space.high)


def physics_loop(env: TaskEnv, state: Any, keys: jax.Array) -> Callable[[], Any]:
    """The bare physics: a function that runs one control step per key with random controls.

    It calls only the engine's batched step; each task has its own model. Warp is stepped through the
    package's physics interface.
    """
    loops = {"mjx": _mjx_loop, "mujoco": _c_loop, "warp": _interface_loop}
    return loops[env.physics.name](env, state, keys)


def _interface_loop(env: TaskEnv, state: Any, keys: jax.Array) -> Callable[[], Any]:
    n = state.reward.shape[0]

    @jax.jit
    def roll(state: Any) -> Any:
        def step(physics: Any, key: jax.Array) -> tuple[Any, None]:
            ctrl = random_actions(env.spec.action, key, n)
            return jax.vmap(env.physics.step)(physics, ctrl, state.model), None

        return jax.lax.scan(step, state.physics, keys)[0].qpos

    return lambda: jax.block_until_ready(roll(state))


def _mjx_loop(env: TaskEnv, state: Any, keys: jax.Array) -> Callable[[], Any]:
    from roml_jax.quiet import mjx

    physics, n = env.physics, state.reward.shape[0]
    model, blank = mjx.put_model(physics.model, impl="jax"), mjx.make_data(physics.model, impl="jax")

    def one(data: Any, leaves: Any, ctrl: jax.Array) -> Any:
        return mjx.step(model.tree_replace(dict(leaves)), data.replace(ctrl=ctrl))

    @jax.jit
    def roll(state: Any) -> Any:
        data = jax.vmap(lambda p: blank.replace(qpos=p.qpos, qvel=p.qvel))(state.physics)

        def step(data: Any, key: jax.Array) -> tuple[Any, None]:
            ctrl = random_actions(env.spec.action, key, n)
            substep = lambda d, _: (jax.vmap(one)(d, state.model, ctrl), None)  # noqa: E731
            return jax.lax.scan(substep, data, None, length=physics.frame_skip)[0], None

        return jax.lax.scan(step, data, keys)[0].qpos

    return lambda: jax.block_until_ready(roll(state))


def _c_loop(env: TaskEnv, state: Any, keys: jax.Array) -> Callable[[], Any]:
    physics, n = env.physics, state.reward.shape[0]
    batch = mujoco.batch.Batch(physics.model, n)
    leaves = {name: np.asarray(leaf) for name, leaf in state.model.items()}
    if leaves:
        rows = np.arange(n, dtype=np.int32)
        mujoco_c.write_tasks(batch, physics.model, leaves, rows, "stale")
    qpos, qvel, ctrl = batch.bind("qpos"), batch.bind("qvel"), batch.bind("ctrl")
    draw = jax.jit(jax.vmap(lambda key: random_actions(env.spec.action, key, n)))
    controls = np.asarray(draw(keys), float)

    def run() -> None:
        qpos[...], qvel[...] = np.asarray(state.physics.qpos), np.asarray(state.physics.qvel)
        with untimed.untimed():
            for now in controls:
                ctrl[...] = now
                batch.step(nstep=physics.frame_skip)

    return run


def env_loop(env: Any, state: Any, keys: jax.Array) -> Callable[[], Any]:
    """A function that runs one environment step per key with random actions, in a compiled loop."""
    n = state.reward.shape[0]

    @jax.jit
    def roll(state: Any) -> Any:
        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            state = jax.vmap(env.step)(state, random_actions(env.spec.action, key, n))
            return state, state.reward

        return jax.lax.scan(step, state, keys)

    return lambda: jax.block_until_ready(roll(state))


def start(env: Any, tasks: jax.Array) -> Any:
    """A batch of environments right after a reset."""
    keys = jax.random.split(jax.random.key(1), tasks.shape[0])
    return jax.tree.map(jnp.asarray, jax.jit(jax.vmap(env.reset))(keys, tasks))
