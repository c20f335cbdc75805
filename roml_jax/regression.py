"""Supervised meta-learning: problems that tell the targets, and learners that adapt to a few of them.

The loop does not know the difference: a ``MetaLearner`` here is made of examples where ``rollout`` makes one
of episodes. A task's return is minus its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from roml_jax import checks
from roml_jax.agents import on_policy
from roml_jax.agents.ppo import weighted_mean
from roml_jax.meta import MetaLearner
from roml_jax.networks import default_dense
from roml_jax.registry import Registry
from roml_jax.types import Array, Metrics, TaskWeights


@runtime_checkable
class Regression(Protocol):
    """A problem whose targets can be asked for."""

    def examples(self, key: Array, task: Array, n: int) -> tuple[Array, Array]:
        """n examples of a task (d,): inputs (n, X) and targets (n, Y)."""
        ...


@dataclass(frozen=True)
class MamlRegressionConfig:
    """MAML on examples: the network, the inner steps and the outer optimisation."""

    layers: tuple[int, ...] = (40, 40)
    """Hidden sizes, ReLU."""
    lr: float = 1e-3
    """Adam's learning rate, of the outer steps."""
    inner_lr: float = 0.01
    """Length of an inner step."""
    inner_steps: int = 1
    """Gradient steps on the support examples, in training."""
    first_order: bool = False
    """Take the inner gradients for constants in the meta-gradient."""
    support: int = 10
    """Examples that an inner step sees."""
    query: int = 10
    """Examples that the adapted network is judged by, in training."""
    test_query: int = 32
    """Examples that it is judged by in tests."""
    test_steps: tuple[int, ...] = (1, 4)
    """After how many inner steps tests look, in ascending order: a return each."""

    def __post_init__(self) -> None:
        checks.at_least(self, "", 1, "layers", "inner_steps", "support", "query", "test_query")
        checks.at_least(self, "", 0, "test_steps")
        checks.positive(self, "", "lr", "inner_lr")
        if not self.test_steps or list(self.test_steps) != sorted(set(self.test_steps)):
            raise ValueError(f"test_steps must ascend and be at least one, got {list(self.test_steps)}")


class Regressor(nn.Module):
    """A ReLU network with PyTorch's default initialisation."""

    layers: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Predictions (..., Y) for inputs (..., X)."""
        for size in self.layers:
            x = nn.relu(default_dense(size, x.shape[-1])(x))
        return default_dense(self.outputs, x.shape[-1])(x)


class RegressionState(NamedTuple):
    """Everything that learning changes."""

    params: Any
    opt_state: Any
    rates: Mapping[str, Array]


class Examples(NamedTuple):
    """Support and query examples of N tasks, (N, n, X) and (N, n, Y)."""

    support: tuple[Array, Array]
    query: tuple[Array, Array]


TUNABLE = ("lr", "inner_lr")
_ADAM = optax.scale_by_adam(eps=1e-8)


def _draw(problem: Regression, tasks: Array, key: Array, support: int, query: int) -> Examples:
    """Every task's examples have keys of their own, so that few tasks are the first of many."""

    def one(index: Array, task: Array) -> Examples:
        support_key, query_key = jax.random.split(jax.random.fold_in(key, index))
        return Examples(
            problem.examples(support_key, task, support), problem.examples(query_key, task, query)
        )

    return jax.vmap(one)(jnp.arange(tasks.shape[0]), tasks)


def _loss(network: Regressor, params: Any, examples: tuple[Array, Array]) -> Array:
    """Mean squared error on the examples (n, ...) of one task."""
    x, y = examples
    return jnp.square(network.apply(params, x) - y).mean()


def adapt(
    network: Regressor, params: Any, support: tuple[Array, Array], lr: Array, steps: int, first_order: bool = False
) -> Any:
    """Parameters after gradient steps on a task's support examples (n, ...)."""
    for _ in range(steps):
        gradient = jax.grad(lambda p: _loss(network, p, support))(params)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        params = jax.tree.map(lambda p, g: p - lr * g, params, gradient)
    return params


def maml(problem: Regression, num_tasks: int, config: MamlRegressionConfig) -> MetaLearner:
    """MAML for regression. Source: Finn et al. 2017.

    A task's score is minus its query loss after the inner steps; the meta-loss is the mean over the tasks,
    by the sampler's weights: those that are filtered out count nothing (spec.md D: their sum is divided by all).
    """
    del num_tasks
    shapes = jax.eval_shape(lambda: problem.examples(jax.random.key(0), jnp.zeros(problem.family_size), 1))
    return _maml(problem, config, shapes)


def losses_after(
    network: Regressor, params: Any, lr: Array, examples: Examples, steps: int, first_order: bool = False
) -> Array:
    """Query losses (N,) after inner steps, for examples of N tasks."""

    def one(examples: Examples) -> Array:
        adapted = adapt(network, params, examples.support, lr, steps, first_order)
        return _loss(network, adapted, examples.query)

    return jax.vmap(one)(examples)
