"""What every registered environment must keep to; a new one is tested by being registered."""

import functools
import io
import itertools
import math
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from roml_jax import config, envs, experiment, tasks
from roml_jax.envs import __main__ as listing
from roml_jax.envs import base
from roml_jax.envs.options import MujocoOptions
from roml_jax.registry import options_class
from roml_jax.types import Continuous, Discrete, EnvSpec

OPTIMISED = True

NAMES = envs.names()
SIMULATED = [name for name in NAMES if issubclass(options_class(envs.get(name)), MujocoOptions)]
TASKS = 64


def corners(family, drawn, n):
    """n tasks (n, d) at corners of the range, all of them or some; the farthest drawn stand for infinity."""
    ends = [
        (low if math.isfinite(low) else far.min(), high if math.isfinite(high) else far.max())
        for (low, high), far in zip(family.ranges, drawn.T, strict=True)
    ]
    which = np.random.default_rng(0).integers(0, 2, (n, len(ends)))
    every = np.array(list(itertools.islice(itertools.product((0, 1), repeat=len(ends)), n)))
    which[: len(every)] = every
    return jnp.asarray(np.take_along_axis(np.array(ends).T, which, axis=0), jnp.float32)


class Compiled:
    """An environment, its functions compiled for a batch of tasks, and how often they were traced."""

    def __init__(self, name, engine, n):
        options = options_class(envs.get(name))
        self.env = envs.make(name, **({"physics": engine} if issubclass(options, MujocoOptions) else {}))
        self.n, self.traces = n, 0
        # compiled, since every dimension's sampler by itself takes a second to run for the first time
        self.drawn = np.asarray(
            jax.jit(self.env.family.sample_prior, static_argnums=1)(jax.random.key(0), 4096)
        )
        self._reset, self._step = jax.jit(jax.vmap(self._traced_reset)), jax.jit(jax.vmap(self._traced_step))

    def _traced_reset(self, key, task):
        self.traces += 1
        return self.env.reset(key, task)

    def _traced_step(self, state, action):
        self.traces += 1
        return self.env.step(state, action)

    def reset(self, tasks, seed=0):
        return self._reset(jax.random.split(jax.random.key(seed), self.n), tasks)

    def actions(self, length, seed=1):
        """Random actions, (length, n) or (length, n, A)."""
        space, key = self.env.spec.action, jax.random.key(seed)
        if isinstance(space, Discrete):
            return jax.random.randint(key, (length, self.n), 0, space.n)
        return jax.random.normal(key, (length, self.n, space.size))

    def run(self, tasks, length, seed=0):
        """An episode's states, the first included."""
        states = [self.reset(tasks, seed)]
        for action in self.actions(length, seed):
            states.append(self._step(states[-1], action))
        return states


@functools.cache
def compiled(name, engine="mujoco", n=None):
    large = name.startswith(("ant", "humanoid"))
    return Compiled(name, engine, n or (TASKS // 4 if large else TASKS))


@pytest.fixture(params=NAMES)
def made(request):
    return compiled(request.param)


def whole_tasks(made):
    """K episodes of H steps on tasks at the corners of the range."""
    for episode in range(made.env.spec.episodes):
        states = made.run(corners(made.env.family, made.drawn, made.n), made.env.spec.horizon, seed=episode)
        yield states


def test_sizes_and_types_are_the_specifications(made):
    spec, family = made.env.spec, made.env.family
    assert isinstance(spec, EnvSpec)
    assert spec.horizon >= 1
    assert spec.episodes >= 1
    ends = [0, *(part.stop for part in spec.obs_slices.values())]
    assert [part.start for part in spec.obs_slices.values()] == ends[:-1]  # they cover the observation
    assert ends[-1] == spec.obs_size
    d = len(family.names)
    assert len(family.ranges) == d
    assert family.decode(jnp.full((3, family.proposal.dims), 0.5)).shape == (3, d)
    first, after = made.run(made.drawn[: made.n], 1)
    for state in (first, after):
        assert state.obs.shape == (made.n, spec.obs_size)
        assert state.task.shape == (made.n, d)
        for name in ("reward", "done", "valid", "diverged"):
            assert getattr(state, name).shape == (made.n,), name
        assert {x.dtype for x in (state.obs, state.reward, state.task)} == {jnp.dtype("float32")}
        assert {x.dtype for x in (state.done, state.valid, state.diverged)} == {jnp.dtype(bool)}
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((state.terms, state.model)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    assert not np.asarray(first.reward).any()


def test_tasks_have_finite_or_stated_ranges(made):
    family = made.env.family
    assert len(set(family.names)) == len(family.names)
    assert np.isfinite(made.drawn).all()
    for i, (low, high) in enumerate(family.ranges):
        assert low < high
        assert (made.drawn[:, i] >= low - 1e-5).all()
        assert (made.drawn[:, i] <= high + 1e-5).all()
        assert (math.isfinite(low) and math.isfinite(high)) or family.priors[i]


def test_one_program_for_all_tasks_and_one_result_for_a_key(made):
    one, other = made.drawn[: made.n], made.drawn[made.n : 2 * made.n]
    first, _, again = made.run(one, 4), made.run(other, 4), made.run(one, 4)
    different = made.run(one, 4, seed=5)
    assert made.traces == 2  # the reset's and the step's
    for a, b in zip(first, again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a._replace(key=()), b._replace(key=()))
    # another key and other actions are another episode
    assert any(
        (np.asarray(x) != np.asarray(y)).any()
        for a, b in zip(first, different, strict=True)
        for x, y in ((a.obs, b.obs), (a.reward, b.reward))
    )


def check_whole_tasks(made):
    for states in whole_tasks(made):
        for state in states:
            assert np.isfinite(np.asarray(state.obs)).all()
            assert np.isfinite(np.asarray(state.reward)).all()
            assert not state.diverged.any()
            if state.terms:
                total = sum(np.asarray(term, float) for term in state.terms.values())
                np.testing.assert_allclose(state.reward, total, rtol=1e-4, atol=1e-4)
        ended = np.array([state.done for state in states])
        assert (np.diff(ended.astype(int), axis=0) >= 0).all()  # an end is an end
        valid = np.array([state.valid for state in states])
        np.testing.assert_array_equal(valid[1:], ~ended[:-1])  # the step that ends counts, later ones do not


def test_whole_tasks_at_the_corners_stay_finite(made):
    check_whole_tasks(made)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mujoco", "mjx"])
@pytest.mark.parametrize("name", SIMULATED)
def test_whole_tasks_at_the_corners_stay_finite_for_many(name, engine):
    check_whole_tasks(compiled(name, engine, TASKS))


@pytest.mark.parametrize("name", NAMES)
def test_presets_parse(name):
    parsed = config.parse(["--env", name])
    assert parsed.env == name
    assert type(parsed.env_options) is options_class(envs.get(name))


@dataclass(frozen=True)
class Toy:
    """Guess the number."""

    size: int = 3
    """How many equal numbers are observed."""

    @property
    def spec(self):
        return EnvSpec("toy", {"zeros": slice(0, self.size)}, Continuous(1), horizon=4, episodes=2)

    @property
    def family(self):
        return tasks.beta("number", -2.0, 2.0)

    def reset(self, key, task):
        return base.EnvState.start(jnp.zeros(self.size), key, task, ())

    def step(self, state, action):
        return state._replace(reward=-jnp.abs(action[0] - state.task[0]))


@pytest.fixture
def toy():
    envs.register("toy", Toy)
    yield "toy"
    base._registry._constructors.pop("toy")


OPTIONS = {"num_tasks": 8, "frames": 128, "learning_starts": 0, "chunk": 1, "vae.buffer_trajectories": 8,
           "vae.batch_trajectories": 2, "vae.tbptt": None, "vae.latents": None,
           "sampler.batch_size": 8}  # fmt: skip


def test_an_environment_of_ones_own_is_listed_and_trained(toy, capsys):
    stream = io.StringIO()
    listing.listing(Console(file=stream, width=200), envs.names())
    (line,) = [line for line in stream.getvalue().splitlines() if line.strip().startswith("toy ")]
    assert "continuous, 1" in line
    assert "number in [-2, 2]: uniform" in line
    assert "Guess the number." in line
    made = config.make(toy, **OPTIONS, **{"env.size": 5})
    parts = experiment.make(made)
    assert parts.env.spec.obs_size == 5
    state = jax.jit(parts.train.init)(jnp.stack([jax.random.key(0)]))
    state, metrics = jax.jit(parts.train.chunk)(state, jnp.int32(1))
    assert int(state.iteration) == 1
    assert -4 * 2 * 8 < float(metrics["train/return"][0, 0]) < 0


def test_an_object_of_ones_own_takes_the_place_of_a_name():
    made = config.make("probe_memory", **OPTIONS)
    parts = experiment.make(made, env=Toy(size=7))
    assert parts.env == Toy(size=7)
    assert parts.frames_per_iteration == 8 * 2 * 4
    shapes = jax.eval_shape(parts.train.init, jnp.stack([jax.random.key(0)]))
    test = jax.eval_shape(parts.test, shapes.learner)
    assert test.returns.shape == (made.eval.test_tasks, 2)


MODULE = """
from roml_jax import envs
class Other:
    pass
envs.register("{name}", Other)
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder that modules are imported from; what they register is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(base._registry._constructors)
    yield tmp_path
    base._registry._constructors.clear()
    base._registry._constructors.update(before)


@pytest.mark.parametrize("flag", ["--import", "--imports"])
def test_the_command_line_imports_modules_of_ones_own(flag, modules):
    name = f"named{len(flag)}"
    (modules / f"{name}_module.py").write_text(MODULE.format(name=name))
    parsed = config.parse([flag, f"{name}_module", "--env", name])
    assert parsed.env == name
    assert parsed.imports == (f"{name}_module",)
    assert config.to_mapping(parsed)["imports"] == [f"{name}_module"]
    assert config.parse([f"{flag}={name}_module", "--env", name]).imports == parsed.imports  # twice is fine
    saved = modules / "config.yaml"
    saved.write_text(f"env: {name}\nimports: [{name}_module]\n")
    assert config.parse(["--config", str(saved)]).imports == parsed.imports
    assert config.make(name, imports=[f"{name}_module"]).env == name


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "--import wrong_module failed: ModuleNotFoundError: No module named 'wrong_module'"),
        ("1 / 0", "--import wrong_module failed: ZeroDivisionError: division by zero"),
        ("x = 1", "--import wrong_module registers nothing; roml_jax.envs.register(NAME, maker) does"),
        (
            MODULE.format(name="khazad_dum"),
            "--import wrong_module failed: ValueError: env 'khazad_dum' is reg",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(text, line, modules, monkeypatch):
    monkeypatch.delitem(sys.modules, "wrong_module", raising=False)
    if text is not None:
        (modules / "wrong_module.py").write_text(text)
    with pytest.raises(config.ConfigError) as error:
        config.parse(["--import", "wrong_module", "--env", "khazad_dum"])
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    assert listing.main(["--import", "wrong_module"]) == 2
