"""Learners from examples under the same loop: MAML's arithmetic, and sine regression by every sampler."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import config, experiment, samplers, testing
from roml_jax.agents import regression
from roml_jax.envs.sine import Sine
from roml_jax.types import TaskWeights

OPTIMISED = True

RNG = np.random.default_rng(0)


def _examples(n, support=10, query=12):
    problem = Sine()
    tasks = jax.jit(problem.family.sample_prior, static_argnums=1)(jax.random.key(0), n)
    draw = jax.jit(lambda tasks, key: regression._draw(problem, tasks, key, support, query))
    return tasks, draw(tasks, jax.random.key(1))


def test_examples_lie_on_the_tasks_waves():
    tasks, examples = _examples(5)
    x, y = (np.asarray(a)[..., 0] for a in examples.query)
    amplitude, phase, frequency = np.asarray(tasks).T[..., None]
    np.testing.assert_allclose(y, amplitude * np.sin(frequency * x + phase), rtol=1e-4, atol=1e-4)
    assert x.min() >= 0
    assert x.max() <= 2 * np.pi
    _, fewer = _examples(3)
    np.testing.assert_array_equal(fewer.support[0], np.asarray(examples.support[0])[:3])


def _learner(**options):
    problem = Sine()
    made = regression.MamlRegressionConfig(layers=(3,), inner_lr=0.1, **options)
    learner = regression.maml(problem, problem.spec, made)
    learner = learner._replace(
        init=jax.jit(learner.init), collect=jax.jit(learner.collect), update=jax.jit(learner.update)
    )
    return learner, regression.Regressor((3,), 1)


def _numpy_loss(params, x, y):
    p = params["params"]
    hidden = np.maximum(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"], 0)
    return np.square(hidden @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"] - y).mean()


def test_inner_step_and_meta_gradient_against_finite_differences(x64):
    """The loss after one inner step, both the step and its derivative by differences in numpy."""
    learner, network = _learner()
    _, examples = _examples(1)
    params = learner.init(jax.random.key(2)).params
    leaves, tree = jax.tree.flatten(params)
    sizes = np.cumsum([x.size for x in leaves])[:-1]

    def unflat(v):
        parts = [a.reshape(x.shape) for a, x in zip(np.split(v, sizes), leaves, strict=True)]
        return jax.tree.unflatten(tree, parts)

    support, query = (tuple(np.asarray(a)[0] for a in part) for part in examples)

    def slope(f, v, step=1e-6):
        return np.array([(f(v + step * e) - f(v - step * e)) / (2 * step) for e in np.eye(v.size)])

    start = np.concatenate([np.asarray(x).ravel() for x in leaves])

    def after(v):
        return _numpy_loss(unflat(v - 0.1 * slope(lambda u: _numpy_loss(unflat(u), *support), v)), *query)

    @functools.partial(jax.jit, static_argnums=1)
    def ours(p, first_order):
        return regression.losses_after(network, p, 0.1, examples, 1, first_order)[0]

    assert float(ours(params, False)) == pytest.approx(after(start), rel=1e-6)

    def flat(tree):
        return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(tree)])

    gradient = jax.jit(jax.grad(ours), static_argnums=1)
    exact = flat(gradient(params, False))
    np.testing.assert_allclose(exact, slope(after, start, 1e-4), rtol=1e-3, atol=1e-4)
    assert abs(flat(gradient(params, True)) - exact).max() > 1e-2


def test_a_task_that_is_filtered_out_adds_nothing_and_still_counts_in_the_mean():
    learner, _ = _learner()
    state = learner.init(jax.random.key(0))
    state, examples, feedback = learner.collect(state, _examples(4)[0], jax.random.key(1))
    weights = TaskWeights(np.array([0, 1, 0, 0], np.float32), np.ones(4, np.float32))
    after, metrics = learner.update(state, examples, weights, jax.random.key(2), 0.0)
    loss = -float(np.asarray(feedback.returns)[1])
    assert float(metrics["maml/meta_loss"]) == pytest.approx(loss / 4, rel=1e-5)
    nothing = TaskWeights(np.zeros(4, np.float32), np.ones(4, np.float32))
    still, _ = learner.update(
        after, examples, nothing, jax.random.key(2), 0.0
    )  # nor does Adam's running mean
    chex.assert_trees_all_equal(still, after)


# of the kinds of uniform, cem, sfl and tail; all of them meet an agent in test_agent_contract.py
NIGHTLY = {"accel", "autodr", "cem_soft", "cem_weighted", "doraemon", "gdrm", "mpts", "naive", "pdts", "plr"}
NIGHTLY |= {"tail_soft"}
OPTIONS = {
    "cem": {"sampler.batch_size": 40},
    "cem_soft": {"sampler.batch_size": 40},
    "cem_weighted": {"sampler.batch_size": 40},
    "plr": {"sampler.buffer": 40, "sampler.score": "negative_return"},
    "accel": {"sampler.buffer": 40, "sampler.score": "negative_return"},
    "sfl": {"sampler.candidates": 20, "sampler.rollouts": 2, "sampler.top": 10, "frames": 42 * 400},
}


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in NIGHTLY else [])
        for name in samplers.names()
        if name != "oracle" and not name.startswith(("test_", "easy"))
    ],
)
def test_sine_regression_by_every_sampler(sampler):
    """The loop is the same: 40 iterations of 20 tasks with 10 + 10 examples."""
    required = {f"sampler.{option}": value for option, value in testing.REQUIRED.get(sampler, {}).items()}
    options = {"frames": 40 * 400, "chunk": 40, "eval.tasks": 50} | required | OPTIONS.get(sampler, {})
    parts = experiment.make(config.make("sine", sampler, "maml", **options))
    assert parts.frames_per_iteration == 400
    state = jax.jit(parts.train.init)(jnp.stack([jax.random.key(0)]))
    evaluate = jax.jit(parts.evaluate)
    before = np.asarray(evaluate(state.learner).returns)
    state, metrics = jax.jit(parts.train.chunk)(state, jnp.int32(40))
    after = np.asarray(evaluate(state.learner).returns)
    assert after.shape == (50, 2)  # after one step and after four
    assert after.mean() > before.mean()
    assert int(state.stopped) == -1
    if sampler == "cem":
        assert float(metrics["sampler/phi_0"][-1, 0]) > 0.55  # large amplitudes are hard


def test_sine_is_an_environment_for_agents_that_act():
    parts = experiment.make(config.make("sine", "uniform", "rl2"))
    shapes = jax.eval_shape(parts.train.init, jnp.stack([jax.random.key(0)]))
    assert jax.eval_shape(parts.evaluate, shapes.learner).returns.shape == (100, 2)


def test_wrong_options_are_one_line():
    with pytest.raises(config.ConfigError, match="numbers in ascending order"):
        config.make("sine", "uniform", "maml", test_steps=[4, 1])
    with pytest.raises(config.ConfigError, match="unknown option --ppo"):
        config.make("sine", "uniform", "maml", **{"ppo.lr": 1e-3})
