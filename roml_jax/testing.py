"""Checks for environments, samplers and agents of your own: what the package's own are tested with.

    from roml_jax import testing
    testing.check_env(MyEnv())
    testing.check_sampler(my_sampler(family, 0.05), family)
    testing.check_agent(my_agent(spec, 8, MyConfig()), env)

Each raises AssertionError with one line that says what is wrong.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import agents, registry, rollout, samplers
from roml_jax.agents import base as agents_base
from roml_jax.envs import door
from roml_jax.envs.base import Env, EnvState
from roml_jax.samplers import base as samplers_base
from roml_jax.samplers.base import Scoring, TaskSampler
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Discrete, EnvSpec, Feedback, TaskDraw, TaskWeights

SIGNATURES: dict[type, dict[str, type]] = {
    TaskSampler: {
        "init": samplers_base.Init, "sample": samplers_base.Sample, "update": samplers_base.Update,
        "weights": samplers_base.Weights, "phi": samplers_base.Phi, "drawn": samplers_base.Drawn,
    },
    agents.MetaLearner: {
        "init": agents_base.Init, "collect": agents_base.Collect, "update": agents_base.Update,
        "test": agents_base.Test, "acting": agents_base.Acting,
    },
    agents.Agent: {
        "init": agents_base.Init, "begin": agents_base.Begin, "act": agents_base.Act,
        "observe": agents_base.Observe, "adapt": agents_base.Adapt, "update": agents_base.Learn,
        "acting": agents_base.Acting, "inform": agents_base.Inform, "value_score": agents_base.ValueScore,
        "prepare": agents_base.Prepare,
    },
}  # fmt: skip
REQUIRED: dict[str, Any] = {"autodr": {"success": -0.5, "failure": -0.75}, "doraemon": {"success": -0.5}}
"""Options without which a sampler cannot be made, for checks of all names; for returns between -1 and 0."""

_KEEP = "must keep the structure, shapes and types of the sampler's state"


def make_sampler(name: str, family: TaskFamily, alpha: float, **options: Any) -> TaskSampler:
    """A registered sampler by name, with its options in ``REQUIRED`` and others."""
    kind = registry.options_class(samplers.get(name))
    return samplers.make(name, family, alpha, kind(**REQUIRED.get(name, {}) | options))


def check_signatures(component: Any) -> None:
    """Every function of a sampler, agent or learner takes the arguments of its protocol, in its order."""
    for field, protocol in SIGNATURES[type(component)].items():
        if (function := getattr(component, field)) is None:
            continue
        wanted = [name for name in inspect.signature(protocol.__call__).parameters if name != "self"]
        given = list(inspect.signature(function).parameters)
        assert given == wanted, f"{field} takes ({', '.join(given)}), expected ({', '.join(wanted)})"


class CompiledEnv:
    """An environment, its functions compiled for n tasks, and how often they were traced.

    Attributes:
        env: the environment.
        n: tasks of a batch.
        drawn: (4096, d) tasks from the prior.
        traces: how often reset and step were traced, together.
    """

    def __init__(self, env: Env, n: int) -> None:
        """Compiles nothing yet."""
        self.env, self.n, self.traces = env, n, 0
        sample = jax.jit(env.family.sample_prior, static_argnums=1)
        self.drawn = np.asarray(sample(jax.random.key(0), 4096))
        self._reset = jax.jit(jax.vmap(self._counted(env.reset)))
        self._step = jax.jit(jax.vmap(self._counted(env.step)))

    def _counted(self, function: Callable[..., EnvState]) -> Callable[..., EnvState]:
        def counted(*args: Any) -> EnvState:
            self.traces += 1
            return function(*args)

        return counted

    def actions(self, length: int, seed: int = 1) -> Array:
        """Random actions, (length, n) or (length, n, A)."""
        space, key = self.env.spec.action, jax.random.key(seed)
        if isinstance(space, Discrete):
            return jax.random.randint(key, (length, self.n), 0, space.n)
        return jax.random.normal(key, (length, self.n, space.size))

    def run(self, tasks: Array | np.ndarray, length: int, seed: int = 0) -> list[EnvState]:
        """The states of an episode of random actions on tasks (n, d), the first included."""
        keys = jax.random.split(jax.random.key(seed), self.n)
        states = [self._reset(keys, jnp.asarray(tasks))]
        for action in np.asarray(self.actions(length, seed)):  # to slice a JAX array is a program
            states.append(self._step(states[-1], action))
        return states

    def corners(self) -> Array:
        """(n, d) tasks at corners of the range; the farthest task drawn stands for an infinite end."""
        ends = [
            (low if math.isfinite(low) else far.min(), high if math.isfinite(high) else far.max())
            for (low, high), far in zip(self.env.family.ranges, self.drawn.T, strict=True)
        ]
        d = len(ends)
        which = np.random.default_rng(0).integers(0, 2, (self.n, d))
        count = min(self.n, 2**d) if d < 20 else 0
        which[:count] = (np.arange(count)[:, None] >> np.arange(d)[::-1]) & 1
        return jnp.asarray(np.take_along_axis(np.array(ends).T, which, axis=0), jnp.float32)


def _kinds(tree: Any) -> Any:
    """The structure, and shape and type of every leaf. As values, a NamedTuple and a tuple are equal."""
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def check_sizes(compiled: CompiledEnv) -> None:
    """Shapes and types of states are those of the specification."""
    env, n = compiled.env, compiled.n
    spec, family = env.spec, env.family
    assert isinstance(spec, EnvSpec), f"spec must be an EnvSpec, got {type(spec).__name__}"
    assert spec.horizon >= 1, f"spec.horizon must be at least 1, got {spec.horizon}"
    assert spec.episodes >= 1, f"spec.episodes must be at least 1, got {spec.episodes}"
    ends = [0, *(part.stop for part in spec.obs_slices.values())]
    starts = [part.start for part in spec.obs_slices.values()]
    assert starts == ends[:-1], "spec.obs_slices must cover the observation, one part after the other"
    ends = [0, *(part.stop for part in spec.privileged_slices.values())]
    starts = [part.start for part in spec.privileged_slices.values()]
    assert starts == ends[:-1], "spec.privileged_slices must cover the privileged parts, one after the other"
    d = len(family.names)
    decoded = family.decode(jnp.full((3, family.proposal.dims), 0.5)).shape
    assert decoded == (3, d), f"family.decode must give (n, {d}), got {decoded}"
    first, after = compiled.run(compiled.drawn[:n], 1)
    floats, bools = jnp.zeros(()).dtype, jnp.dtype(bool)
    expected = {
        "obs": ((n, spec.obs_size), floats), "reward": ((n,), floats), "task": ((n, d), floats),
        "done": ((n,), bools), "valid": ((n,), bools), "diverged": ((n,), bools),
    }  # fmt: skip
    if spec.privileged_slices:
        expected["privileged"] = ((n, spec.privileged_size), floats)
    for state in (first, after):
        known = (state.privileged is None) == (not spec.privileged_slices)
        assert known, "privileged must be None, or an array if spec.privileged_slices has parts"
        for name, (shape, dtype) in expected.items():
            leaf = getattr(state, name)
            assert leaf.shape == shape, f"{name} must be of shape {shape}, got {leaf.shape}"
            assert leaf.dtype == dtype, f"{name} must be of type {dtype}, got {leaf.dtype}"
    assert _kinds(first) == _kinds(after), "step must keep the shapes and types of the state that reset gives"
    assert not np.asarray(first.reward).any(), "reset must give a reward of 0"


def check_family(compiled: CompiledEnv) -> None:
    """Tasks of the prior lie in their ranges; an infinite range has its prior described."""
    family, drawn = compiled.env.family, compiled.drawn
    assert len(set(family.names)) == len(family.names), f"task dimensions need distinct names: {family.names}"
    assert len(family.ranges) == len(family.names), "a family needs a range for each task dimension"
    assert np.isfinite(drawn).all(), "the prior draws tasks that are not finite"
    for i, (name, (low, high)) in enumerate(zip(family.names, family.ranges, strict=True)):
        assert low < high, f"the range of {name} is empty: [{low}, {high}]"
        inside = (drawn[:, i] >= low - 1e-5).all() and (drawn[:, i] <= high + 1e-5).all()
        assert inside, f"the prior draws {name} outside of [{low}, {high}]"
        described = (math.isfinite(low) and math.isfinite(high)) or family.priors[i]
        assert described, f"the range of {name} is infinite and its prior is not described"


def check_pure(compiled: CompiledEnv) -> None:
    """One program serves all tasks; the same keys and actions give the same states."""
    n = compiled.n
    one, other = compiled.drawn[:n], compiled.drawn[n : 2 * n]
    first, _, again = compiled.run(one, 4), compiled.run(other, 4), compiled.run(one, 4)
    different = compiled.run(one, 4, seed=5)
    assert compiled.traces == 2, f"reset and step were traced {compiled.traces} times, not once each"
    for a, b in zip(first, again, strict=True):
        same = jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), _numbers(a), _numbers(b))
        assert all(jax.tree.leaves(same)), "the same key and actions gave another episode"
    changes = any(
        (np.asarray(x) != np.asarray(y)).any()
        for a, b in zip(first, different, strict=True)
        for x, y in ((a.obs, b.obs), (a.reward, b.reward))
    )
    assert changes, "other actions and another key changed neither observations nor rewards"


def check_whole_tasks(compiled: CompiledEnv, episodes: int | None = None) -> None:
    """Whole episodes at the corners of the range stay finite; an episode that ended stays ended."""
    spec, corners = compiled.env.spec, compiled.corners()
    for episode in range(episodes or spec.episodes):
        states = compiled.run(corners, spec.horizon, seed=episode)
        for state in states:
            assert np.isfinite(np.asarray(state.obs)).all(), "an observation is not finite"
            if state.privileged is not None:
                assert np.isfinite(np.asarray(state.privileged)).all(), "a privileged part is not finite"
            assert np.isfinite(np.asarray(state.reward)).all(), "a reward is not finite"
            assert not state.diverged.any(), "a task at a corner of the range diverged"
            if state.terms:
                total = sum(np.asarray(term, float) for term in state.terms.values())
                told = "the terms must sum to the reward"
                np.testing.assert_allclose(state.reward, total, rtol=1e-4, atol=1e-4, err_msg=told)
        ended = np.array([state.done for state in states])
        assert (np.diff(ended.astype(int), axis=0) >= 0).all(), "an episode went on after it had ended"
        valid = np.array([state.valid for state in states])
        assert (valid[1:] == ~ended[:-1]).all(), "steps must be valid up to and with the one that ends"


def check_tasks(env: Env) -> None:
    """Every edit of the environment's tasks changes something, and what is edited is what is simulated.

    An engine that takes minutes to compile is not tried: ``python -m roml_jax.envs NAME --check`` does.
    """
    errors = door.check(env, engine=door.is_on_c(env)).of("error")
    assert not errors, errors[0]


def check_env(env: Env, num_tasks: int = 16) -> None:
    """An environment keeps to what the loop expects of it.

    Args:
        env: unbatched.
        num_tasks: of a batch.

    Raises:
        AssertionError: one line.
    """
    compiled = CompiledEnv(env, num_tasks)
    for check in (check_sizes, check_family, check_pure, check_whole_tasks):
        check(compiled)
    check_tasks(env)


def _feedback(draw: TaskDraw) -> Feedback:
    """Returns that fall with u, from two episodes and a critic that expected half of them."""
    returns = -draw.u[:, 0]
    halves = jnp.stack([returns / 2] * 2, axis=1)
    return Feedback(returns, halves, draw.u[:, 0] / 2, jnp.zeros(returns.shape, bool))


def check_sampler(sampler: TaskSampler, family: TaskFamily, num_tasks: int = 32) -> None:
    """A sampler keeps to what the loop expects of it; its states can be vmapped over seeds.

    Args:
        sampler: of the family's tasks.
        family: of the tasks.
        num_tasks: of a draw.

    Raises:
        AssertionError: one line.
    """
    check_signatures(sampler)
    n, d = num_tasks, len(family.names)
    shapes = {"u": (n, family.proposal.dims), "task": (n, d), "log_w": (n,), "is_ref": (n,)}

    @jax.jit  # one program; shapes and types are known, and checked, before it runs
    def iteration(*keys: Array) -> tuple[TaskDraw, Array, Array]:
        state = jax.jit(sampler.init)(keys[0])
        after, draw = jax.jit(sampler.sample, static_argnums=2)(state, keys[1], n)
        for name, shape in shapes.items():
            assert getattr(draw, name).shape == shape, f"draw.{name} must be of shape {shape}"
        assert draw.is_ref.dtype == bool, "draw.is_ref must be bool"
        feedback, progress = _feedback(draw), jnp.asarray(0.5)
        weights = jax.jit(sampler.weights)(after, draw, feedback, progress)
        assert {weight.shape for weight in weights} == {(n,)}, "weights must be of shape (n,)"
        updated, metrics = jax.jit(sampler.update)(after, draw, feedback, keys[2], progress)
        assert _kinds(state) == _kinds(updated), f"sample and update {_KEEP}"
        assert all(value.shape == () for value in metrics.values()), "metrics must be scalars"
        assert sampler.phi(updated).ndim == 1, "phi must be of shape (p,)"
        return draw, family.decode(draw.u), weights.keep.sum()

    draw, task, kept = jax.device_get(iteration(*map(jax.random.key, range(3))))
    np.testing.assert_allclose(draw.task, task, err_msg="draw.task must be decode(draw.u)")
    assert not draw.log_w[draw.is_ref].any(), "draws from the prior (is_ref) must have log_w 0"
    if not kept > 0:
        _check_keeps(sampler, n)
    if sampler.scoring is not None:
        _check_scoring(sampler, sampler.scoring, family)
    _check_seeds(sampler, n)


def _check_keeps(sampler: TaskSampler, n: int) -> None:
    """A sampler that only scores its first tasks has the learner learn from others soon."""

    def step(state: Any, key: Array) -> tuple[Any, Array]:
        state, draw = sampler.sample(state, key, n)
        feedback, progress = _feedback(draw), jnp.asarray(0.5)
        keep = sampler.weights(state, draw, feedback, progress).keep
        return sampler.update(state, draw, feedback, key, progress)[0], keep.sum()

    kept = jax.jit(lambda key, keys: jax.lax.scan(step, sampler.init(key), jax.random.split(keys, 100))[1])
    enough = kept(jax.random.key(6), jax.random.key(7)).sum() > 0
    assert enough, "weights.keep must leave a task to learn from within 100 iterations"


def _check_scoring(sampler: TaskSampler, scoring: Scoring, family: TaskFamily) -> None:
    """A scoring pass has the number of candidates that it says, and keeps the state's structure."""
    m, d = scoring.candidates, family.proposal.dims

    @jax.jit
    def scored(*keys: Array) -> tuple[Array, Array, Any]:
        state = jax.jit(sampler.init)(keys[0])
        after, draw = jax.jit(scoring.propose)(state, keys[1])
        assert draw.u.shape == (m, d), f"propose must draw {m} candidates, as the pass says"
        repeated = jax.tree.map(lambda x: jnp.repeat(x, scoring.rollouts, axis=0), draw)
        after = jax.jit(scoring.scored)(after, draw, _feedback(repeated), keys[2])
        assert _kinds(state) == _kinds(after), f"propose and scored {_KEEP}"
        return draw.task, family.decode(draw.u), after

    task, decoded, _ = scored(jax.random.key(0), jax.random.key(4), jax.random.key(5))
    np.testing.assert_allclose(task, decoded, rtol=1e-6, err_msg="draw.task must be decode(draw.u)")


def _check_seeds(sampler: TaskSampler, n: int) -> None:
    """Three seeds side by side, eight iterations each, whose returns fall with u."""

    def advance(key: Array) -> Array:
        def step(state: Any, key: Array) -> tuple[Any, None]:
            state, draw = sampler.sample(state, key, n)
            return sampler.update(state, draw, _feedback(draw), key, jnp.asarray(0.5))[0], None

        return sampler.phi(jax.lax.scan(step, sampler.init(key), jax.random.split(key, 8))[0])

    seeds = jax.jit(lambda key: jax.vmap(advance, axis_size=3)(jax.random.split(key, 3)))
    phi = seeds(jax.random.key(3))
    assert np.isfinite(np.asarray(phi)).all(), "phi must stay finite"


def check_learner(learner: agents.MetaLearner, tasks: Array) -> None:
    """A meta-learner learns from tasks, is decided by its key, and tests with what ``acting`` leaves.

    Args:
        learner: any.
        tasks: (N, d), of an iteration.

    Raises:
        AssertionError: one line.
    """
    check_signatures(learner)
    n = tasks.shape[0]
    ones = TaskWeights(jnp.ones(n), jnp.ones(n))
    functions = (learner.init, learner.collect, learner.update, learner.test)
    init, collect, update, test = (f if isinstance(f, jax.stages.Wrapped) else jax.jit(f) for f in functions)

    def learned() -> tuple[Any, Any, dict[str, Array]]:
        first = state = init(jax.random.key(0))
        for i in range(2):
            state, experience, feedback = collect(state, tasks, jax.random.key(2 * i + 1))
            shape = Feedback.of(feedback).returns.shape
            assert shape == (n,), f"collect must give returns of shape ({n},), got {shape}"
            for name in learner.reports:
                assert getattr(feedback, name) is not None, f"collect reports no {name}, as it says it does"
            state, metrics = update(state, experience, ones, jax.random.key(2 * i + 2), jnp.asarray(0.5 * i))
        return first, state, metrics

    (first, state, metrics), (_, again, _) = learned(), learned()
    assert _kinds(first) == _kinds(state), "collect and update must keep the state's shapes and types"
    same = jax.tree.map(lambda a, b: a is b or bool((a == b).all()), *map(_numbers, (state, again)))
    assert all(jax.tree.leaves(same)), "the same key gave another result"
    losses = [name for name in metrics if name.endswith("loss")]
    assert losses, "update must report at least one metric whose name ends in 'loss'"
    assert all(np.isfinite(metrics[name]) for name in losses), "a loss is not finite"
    acting = learner.acting
    pairs = zip(*(jax.tree.leaves(_numbers(acting(s))) for s in (first, state)), strict=True)
    assert any((a != b).any() for a, b in pairs), "two iterations changed nothing of what acts"
    key = jax.random.key(9)
    whole, part = test(state, tasks, key).returns, test(acting(state), tasks, key).returns
    assert np.isfinite(whole).all(), "a test return is not finite"
    assert np.array_equal(whole, part), "test must need no more of the state than acting leaves"


def _numbers(tree: Any) -> Any:
    """Random keys as the numbers they hold."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def check_agent(
    agent: agents.Agent, env: Env, protocol: rollout.EpisodeProtocol | None = None, num_tasks: int = 8
) -> None:
    """An agent keeps to what the loop expects of it; two iterations on an environment.

    Args:
        agent: made for ``num_tasks`` tasks of the environment, as ``protocol.agent_spec`` shows it.
        env: unbatched.
        protocol: episodes and steps; the environment's own if None.
        num_tasks: N.

    Raises:
        AssertionError: one line.
    """
    check_signatures(agent)
    learner = rollout.make_learner(agent, env, protocol or rollout.EpisodeProtocol())
    check_learner(learner, env.family.sample_prior(jax.random.key(7), num_tasks))
