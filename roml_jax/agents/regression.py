"""Supervised meta-learning: problems with targets, and learners that adapt to a few examples of them.

A learner here is a ``MetaLearner``, as ``rollout`` makes one from episodes, so the training loop is the same.
A task's return is minus its loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from roml_jax import checks
from roml_jax.agents import common
from roml_jax.agents.base import MetaLearner, register
from roml_jax.networks import Network, default_dense
from roml_jax.registry import leaf
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, EnvSpec, Feedback, Metrics, Outcome, TaskWeights


class Regression(Protocol):
    """A problem whose targets are available."""

    @property
    def family(self) -> TaskFamily:
        """The tasks and their prior."""
        ...

    def examples(self, key: Array, task: Array, n: int) -> tuple[Array, Array]:
        """Inputs (n, X) and targets (n, Y) of a task (d,)."""
        ...


@dataclass(frozen=True)
class MamlRegressionConfig:
    """Options of MAML on examples: the network, the inner steps and the outer optimisation."""

    layers: tuple[int, ...] = (40, 40)
    """Hidden sizes of the ReLU network."""
    lr: float = leaf(1e-3)
    """Adam's learning rate for the outer steps."""
    inner_lr: float = leaf(0.01)
    """Learning rate of the inner gradient steps."""
    inner_steps: int = 1
    """Inner gradient steps on the support examples, in training."""
    first_order: bool = False
    """Treat the inner gradients as constants in the meta-gradient (first-order MAML)."""
    test_query: int = 32
    """Query examples per task in tests."""
    test_steps: tuple[int, ...] = (1, 4)
    """Numbers of inner steps after which a test computes a return, in ascending order."""

    def __post_init__(self) -> None:
        checks.at_least(self, "", 1, "layers", "inner_steps", "test_query")
        checks.at_least(self, "", 0, "test_steps")
        checks.positive(self, "", "lr", "inner_lr")
        if not self.test_steps or list(self.test_steps) != sorted(set(self.test_steps)):
            raise ValueError(
                f"test_steps must be one or more numbers in ascending order, got {list(self.test_steps)}"
            )


class Regressor(Network):
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


_ADAM = optax.scale_by_adam(eps=1e-8)


def _draw(
    problem: Regression, tasks: Array, key: Array, support: int, query: int, index: Array | None = None
) -> Examples:
    """Draws every task's examples with a key of its own, which its index decides; None for 0 to N - 1.

    The examples of a task do not depend on the number of tasks.
    """

    def one(index: Array, task: Array) -> Examples:
        support_key, query_key = jax.random.split(jax.random.fold_in(key, index))
        return Examples(
            problem.examples(support_key, task, support), problem.examples(query_key, task, query)
        )

    return jax.vmap(one)(jnp.arange(tasks.shape[0]) if index is None else index, tasks)


def _loss(network: Regressor, params: Any, examples: tuple[Array, Array]) -> Array:
    """Mean squared error on the examples (n, ...) of one task."""
    x, y = examples
    return jnp.square(network.apply(params, x) - y).mean()


def adapt(
    network: Regressor, params: Any, support: tuple[Array, Array], lr: Array, steps: int, first_order: bool
) -> Any:
    """Parameters after gradient steps on a task's support examples (n, ...)."""
    for _ in range(steps):
        gradient = jax.grad(lambda p: _loss(network, p, support))(params)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        params = jax.tree.map(lambda p, g: p - lr * g, params, gradient)
    return params


def losses_after(
    network: Regressor, params: Any, lr: Array, examples: Examples, steps: int, first_order: bool = False
) -> Array:
    """Query losses (N,) after inner steps, for examples of N tasks."""

    def one(examples: Examples) -> Array:
        adapted = adapt(network, params, examples.support, lr, steps, first_order)
        return _loss(network, adapted, examples.query)

    return jax.vmap(one)(examples)


@register("maml", problem="examples")
def maml(problem: Regression, spec: EnvSpec, config: MamlRegressionConfig) -> MetaLearner:
    """MAML for regression. Source: Finn et al. 2017.

    A task has H support and H query examples. Its score is minus its query loss after the inner steps. The
    meta-loss is the mean over all tasks; a task that the sampler filters out contributes 0.
    """
    task = jnp.zeros(len(problem.family.names))
    x, y = jax.eval_shape(lambda key: problem.examples(key, task, 1), jax.random.key(0))
    network = Regressor(config.layers, y.shape[-1])

    def init(key: Array) -> RegressionState:
        params = network.init(key, jnp.zeros(x.shape))
        return RegressionState(params, _ADAM.init(params), common.init_rates(config))

    def losses(params: Any, rates: Mapping[str, Array], examples: Examples) -> Array:
        steps, first_order = config.inner_steps, config.first_order
        return losses_after(network, params, rates["inner_lr"], examples, steps, first_order)

    def collect(
        state: RegressionState, tasks: Array, key: Array
    ) -> tuple[RegressionState, Examples, Feedback]:
        examples = _draw(problem, tasks, key, spec.horizon, spec.horizon)
        return state, examples, Feedback(-losses(state.params, state.rates, examples))

    def update(
        state: RegressionState, experience: Examples, weights: TaskWeights, key: Array, progress: Array
    ) -> tuple[RegressionState, Metrics]:
        del key, progress

        weight = weights.keep * weights.loss

        def meta_loss(params: Any) -> Array:
            return (weight * losses(params, state.rates, experience)).mean()

        loss, grads = jax.value_and_grad(meta_loss)(state.params)
        updates, opt_state = _ADAM.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: -state.rates["lr"] * u, updates))
        metrics = {"maml/meta_loss": loss, "maml/grad_norm": optax.global_norm(grads)}
        after = RegressionState(params, opt_state, state.rates)
        return common.if_weighed(weight, after, state), metrics

    def test(state: RegressionState, tasks: Array, key: Array, index: Array | None = None) -> Outcome:
        examples = _draw(problem, tasks, key, spec.horizon, config.test_query, index)
        after = [
            losses_after(network, state.params, state.rates["inner_lr"], examples, steps)
            for steps in config.test_steps
        ]
        returns = -jnp.stack(after, axis=1)
        return Outcome(returns, jnp.zeros(returns.shape, bool), {})

    return MetaLearner(
        init, collect, update, test, acting=lambda state: state._replace(opt_state=()),
        inner_steps=config.test_steps,
    )  # fmt: skip
