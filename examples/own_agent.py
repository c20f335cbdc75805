"""An agent of your own: evolution strategies, which work with any sampler like every other agent.

Each task of an iteration gets its own perturbation of the mean parameters. The mean moves toward
perturbations with higher returns. Run these from the root of the repository; each takes seconds:

    python -m roml_jax.train --import examples.own_agent --agent evolution --env probe_risk --sampler cem
    python -m roml_jax.train --import examples.own_agent --agent evolution --env probe_risk --sampler uniform
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from roml_jax import agents
from roml_jax.types import Array, Discrete, EnvSpec, Metrics, Rollout, TaskWeights


@dataclass(frozen=True)
class EvolutionConfig:
    """Options, on the command line by these names."""

    lr: float = 0.1
    """Length of a step of the mean."""
    noise: float = 0.3
    """Deviation of the parameters around it."""
    hidden: int = 16
    """Size of the network's hidden layer."""


class State(NamedTuple):
    """All that learning changes: the mean, and the key of the next perturbations."""

    params: Any
    key: Array


def make(spec: EnvSpec, num_tasks: int, config: EvolutionConfig) -> agents.Agent:
    """An agent is functions batched over N tasks; ``roml_jax.agents.Agent`` says which and of what."""
    discrete = isinstance(spec.action, Discrete)
    network = nn.Sequential(
        [nn.Dense(config.hidden), nn.tanh, nn.Dense(spec.action.n if discrete else spec.action.size)]
    )

    def init(key: Array) -> State:
        return State(network.init(key, jnp.zeros(spec.obs_size)), jax.random.key_data(key))

    def begin(state: State, key: Array, n: int) -> Any:
        """The belief (N, ...) is the task's perturbation: ``update`` draws the same again."""
        leaves, tree = jax.tree.flatten(state.params)
        keys = jax.random.split(jax.random.wrap_key_data(state.key), len(leaves))
        drawn = [jax.random.normal(k, (n, *leaf.shape)) for k, leaf in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, drawn)

    def act(state: State, belief: Any, obs: Array, key: Array, greedy: Array) -> tuple[Array, tuple[()]]:
        """An action (N, A) is floats, an index where it is discrete; a test is met with the mean itself."""
        scale = jnp.where(greedy, 0.0, config.noise)
        params = jax.tree.map(lambda p, e: p + scale * e, state.params, belief)
        out: Any = jax.vmap(network.apply)(params, obs)
        return (out.argmax(axis=-1, keepdims=True).astype(obs.dtype) if discrete else out), ()

    def update(
        state: State, rollout: Rollout, weights: TaskWeights, key: Array, progress: Array
    ) -> tuple[State, Metrics]:
        """``weights`` is the sampler's word on what each task teaches; a loss's name ends in "loss"."""
        returns, count = rollout.outcome.returns.sum(axis=-1), weights.keep * weights.loss
        mean = (count * returns).sum() / jnp.maximum(count.sum(), 1)
        gain = count * (returns - mean) / (returns.std() + 1e-5)
        follow = lambda p, e: p + config.lr * jnp.tensordot(gain, e, axes=1) / num_tasks  # noqa: E731
        params = jax.tree.map(follow, state.params, begin(state, key, num_tasks))
        return State(params, jax.random.key_data(key)), {"evolution/loss": -mean}

    return agents.Agent(
        init=init, begin=begin, act=act, observe=lambda state, belief, step: belief, adapt=None, update=update
    )


agents.register("evolution", make)
