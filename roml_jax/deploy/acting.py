"""An agent as pure functions of one step, for use on a robot.

The functions act as ``rollout.run_episodes`` does with a simulated environment.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.agents.base import Agent
from roml_jax.rollout import EpisodeProtocol, env_action, flagged
from roml_jax.types import Array, Continuous, EnvSpec, Transition


class Memory(NamedTuple):
    """The state of a policy between two steps; leaves (n, ...) for n robots.

    Attributes:
        belief: the agent's belief about the task; each robot is a batch of one.
        obs: (n, 1, D) after ``act``: the observation of the latest action; after ``observe``: the latest
            observation. Includes the protocol's end-of-episode flag.
        action: (n, 1, A) the policy's latest output, before the action map.
        extras: the agent's extra outputs for the latest action; empty if the agent does not adapt between
            episodes.
        step: (n,) number of steps in the current episode.
        episode: (n,) number of finished episodes.
        ended: (n,) bool, whether an episode has ended since the last action.
        key: (n, 2) random key data, for agents that explore.
        seen: (transitions, extras) of the current episode, leaves (n, H, 1, ...). Steps after the current
            one are marked invalid. Empty if the agent does not adapt between episodes.
    """

    belief: Any
    obs: Array
    action: Array
    extras: Any
    step: Array
    episode: Array
    ended: Array
    key: Array
    seen: Any


class Functions(NamedTuple):
    """A policy as pure functions of its parameters, for n robots at once.

    Attributes:
        begin: (parameters, seeds (n,)) -> Memory, before the first episode of a task.
        act: (parameters, Memory, obs (n, D)) -> (action (n, A), or (n,) integers; Memory).
        observe: (parameters, Memory, reward (n,), obs (n, D), end (n,), valid (n,)) -> Memory after a
            step. ``end`` (bool): the episode ended before its H steps. ``valid`` (bool): False for a robot
            that waits for the others of its batch.
    """

    begin: Callable[[Any, Array], Memory]
    act: Callable[[Any, Memory, Array], tuple[Array, Memory]]
    observe: Callable[[Any, Memory, Array, Array, Array, Array], Memory]


class _Actor(NamedTuple):
    """An agent and its protocol.

    ``spec`` is the environment's spec as the agent sees it. With ``clamp``, actions stay within its limits.
    Without ``greedy``, every action is sampled.
    """

    agent: Agent
    protocol: EpisodeProtocol
    spec: EnvSpec
    clamp: bool
    greedy: bool

    @property
    def adapts(self) -> bool:
        return self.agent.adapt is not None


def _choose(
    actor: _Actor, parameters: Any, belief: Any, obs: Array, key: Array, episode: Array
) -> tuple[Array, Any]:
    exploring = actor.agent.exploring
    greedy = episode >= exploring if exploring else jnp.ones((), bool)
    if not actor.greedy:
        greedy = jnp.zeros((), bool)
    action, extras = actor.agent.act(parameters, belief, obs, key, greedy)
    return action, extras if actor.adapts else ()


def _begin(actor: _Actor, parameters: Any, seed: Array) -> Memory:
    key, after = jax.random.split(jax.random.key(seed))
    belief = actor.agent.begin(parameters, key, 1)
    zero, ended = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    obs = jnp.zeros((1, actor.spec.obs_size))
    chosen = jax.eval_shape(functools.partial(_choose, actor), parameters, belief, obs, key, zero)
    action, extras = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), chosen)
    seen = ()
    if actor.adapts:
        transition = Transition(obs, action, jnp.zeros(1), obs, jnp.zeros(1, bool))
        seen = jax.tree.map(lambda x: jnp.stack([x] * actor.spec.horizon), (transition, extras))
    return Memory(belief, obs, action, extras, zero, zero, ended, jax.random.key_data(after), seen)


def _act(actor: _Actor, parameters: Any, memory: Memory, obs: Array) -> tuple[Array, Memory]:
    now = flagged(actor.protocol, obs[None], jnp.zeros((), bool))
    if actor.protocol.boundary == "terminal":
        now = jnp.where(memory.ended, memory.obs, now)
    key, after = jax.random.split(jax.random.wrap_key_data(memory.key))
    action, extras = _choose(actor, parameters, memory.belief, now, key, memory.episode)
    memory = memory._replace(
        obs=now, action=action, extras=extras, ended=jnp.zeros((), bool), key=jax.random.key_data(after)
    )
    executed, limits = env_action(actor.spec, action)[0], actor.spec.action
    if actor.clamp and isinstance(limits, Continuous):
        executed = jnp.clip(executed, *limits.bounds)
    return executed, memory


def _observe(
    actor: _Actor, parameters: Any, memory: Memory, reward: Array, obs: Array, end: Array, valid: Array
) -> Memory:
    in_time = memory.step + 1 >= actor.spec.horizon
    next_obs = flagged(actor.protocol, obs[None], in_time)
    step = Transition(memory.obs, memory.action, reward[None], next_obs, valid[None])
    seen = memory.seen
    if actor.adapts:
        seen = jax.tree.map(lambda all, one: all.at[memory.step].set(one), seen, (step, memory.extras))
    # after an early end, training continues with the last observation and sets the flag at the horizon
    ended = in_time | end
    return memory._replace(
        belief=actor.agent.observe(parameters, memory.belief, step),
        obs=flagged(actor.protocol, obs[None], ended),
        step=jnp.where(ended, 0, memory.step + 1),
        episode=memory.episode + ended,
        ended=ended,
        seen=seen,
    )


def _adapt(actor: _Actor, parameters: Any, memory: Memory) -> Memory:
    """Adapts the robots whose episode has ended; the memory of the others is unchanged."""
    assert actor.agent.adapt is not None
    key, after = jax.random.split(jax.random.wrap_key_data(memory.key))
    adapted = memory._replace(
        belief=actor.agent.adapt(parameters, memory.belief, memory.seen, key),
        key=jax.random.key_data(after),
        seen=jax.tree.map(jnp.zeros_like, memory.seen),
    )
    return jax.tree.map(lambda new, old: jnp.where(memory.ended, new, old), adapted, memory)


class Compiled(NamedTuple):
    """As ``Functions``, compiled with the parameters as constants, so that a call passes the memory alone."""

    begin: Callable[[np.ndarray], Memory]
    act: Callable[[Memory, np.ndarray], tuple[Array, Memory]]
    observe: Callable[[Memory, np.ndarray, np.ndarray, np.ndarray, np.ndarray], Memory]


def compiled(functions: Functions, parameters: Any) -> Compiled:
    """The functions compiled for one policy's parameters."""
    return Compiled(*(jax.jit(functools.partial(function, parameters)) for function in functions))


def make_functions(
    agent: Agent, protocol: EpisodeProtocol, env_spec: EnvSpec, clamp: bool = False, greedy: bool = True
) -> Functions:
    """Builds the functions of an agent that acts as in evaluations.

    Actions are greedy, except in the first episodes of an agent that explores in them. Each robot is a batch
    of one, because the robots of one batch may be in different episodes.

    Args:
        agent: the agent.
        protocol: the multi-episode protocol of training.
        env_spec: the environment's spec.
        clamp: whether continuous actions are clamped to the limits in the spec. The agent itself remembers
            its own output, as in training.
        greedy: whether actions are greedy; False for actions sampled as in training.
    """
    actor = _Actor(agent, protocol, protocol.agent_spec(env_spec), clamp, greedy)
    begin = jax.vmap(functools.partial(_begin, actor), (None, 0))
    act = jax.vmap(functools.partial(_act, actor), (None, 0, 0))
    step = jax.vmap(functools.partial(_observe, actor), (None, *(0,) * 5))
    adapt = jax.vmap(functools.partial(_adapt, actor), (None, 0))

    def observe(
        parameters: Any, memory: Memory, reward: Array, obs: Array, end: Array, valid: Array
    ) -> Memory:
        after = step(parameters, memory, reward, obs, end, valid)
        if not actor.adapts:
            return after
        return jax.lax.cond(after.ended.any(), adapt, lambda _, memory: memory, parameters, after)

    return Functions(begin, act, observe)


def skipping(functions: Functions) -> Functions:
    """The same functions, which skip the steps of robots whose observation or reward is not finite.

    For such a robot ``act`` returns the action NaN (discrete: -1) and the memory as it was but for its
    action, NaN, and ``observe`` counts the step but learns nothing from it; nor from the step after such an
    ``act``, which was not the policy's. The other robots act and learn as always.
    """

    def per_robot(bad: Array, of_bad: Any, of_others: Any) -> Any:
        def choose(x: Array, y: Array) -> Array:
            return jnp.where(bad.reshape(-1, *(1,) * (y.ndim - 1)), x, y)

        return jax.tree.map(choose, of_bad, of_others)

    def act(parameters: Any, memory: Memory, obs: Array) -> tuple[Array, Memory]:
        bad = ~jnp.isfinite(obs).all(axis=-1)
        action, after = functions.act(parameters, memory, jnp.where(bad[:, None], 0.0, obs))
        missing = jnp.nan if jnp.issubdtype(action.dtype, jnp.floating) else -1
        skipped = memory._replace(action=jnp.full_like(memory.action, jnp.nan))
        return per_robot(bad, jnp.full_like(action, missing), action), per_robot(bad, skipped, after)

    def observe(
        parameters: Any, memory: Memory, reward: Array, obs: Array, end: Array, valid: Array
    ) -> Memory:
        acted = jnp.isfinite(memory.action).all(axis=(1, 2))
        unseen = ~jnp.isfinite(obs).all(axis=-1)
        bad = unseen | ~jnp.isfinite(reward) | ~acted
        latest = memory.obs[:, 0, : obs.shape[1]]
        memory = memory._replace(action=jnp.where(acted[:, None, None], memory.action, 0.0))
        return functions.observe(
            parameters, memory, jnp.where(bad, 0.0, reward), per_robot(unseen, latest, obs), end, valid & ~bad
        )

    return Functions(functions.begin, act, observe)
