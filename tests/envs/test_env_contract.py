"""What every registered environment must keep to; a new one is tested by being registered."""

import functools
import io
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from roml_jax import config, envs, experiment, tasks, testing
from roml_jax.envs import __main__ as listing
from roml_jax.envs import base
from roml_jax.envs.options import MujocoOptions
from roml_jax.registry import options_class
from roml_jax.types import Continuous, EnvSpec

OPTIMISED = True

NAMES = envs.names()
SIMULATED = [name for name in NAMES if issubclass(options_class(envs.get(name)), MujocoOptions)]
TASKS = 64


@functools.cache
def compiled(name, engine="mujoco", n=None):
    large = name.startswith(("ant", "humanoid"))
    options = {"physics": engine} if name in SIMULATED else {}
    return testing.CompiledEnv(envs.make(name, **options), n or (TASKS // 4 if large else TASKS))


@pytest.fixture(params=NAMES)
def made(request):
    return compiled(request.param)


@pytest.mark.parametrize("check", ["check_sizes", "check_family", "check_pure"])
def test_it_passes_the_check_that_users_run(made, check):
    getattr(testing, check)(made)


@pytest.mark.parametrize("name", NAMES)
def test_what_its_tasks_edit_is_what_is_simulated(name):
    testing.check_tasks(envs.make(name, **({"physics": "mujoco"} if name in SIMULATED else {})))


# one environment of each robot; the others' whole tasks run nightly
WHOLE = [name for name in NAMES if name not in SIMULATED or name.endswith(("_mass", "_dynamics"))]


@pytest.mark.parametrize("name", WHOLE)
def test_whole_tasks_at_the_corners_stay_finite(name):
    testing.check_whole_tasks(compiled(name))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mujoco", "mjx"])
@pytest.mark.parametrize("name", SIMULATED)
def test_whole_tasks_at_the_corners_stay_finite_for_many(name, engine):
    testing.check_whole_tasks(compiled(name, engine, TASKS))


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


OPTIONS = {"agent": "multitask", "num_tasks": 8, "frames": 128, "chunk": 1, "sampler.batch_size": 8}


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
        (None, "failed: ModuleNotFoundError: No module named 'wrong_module'"),
        ("1 / 0", "wrong_module.py:1: ZeroDivisionError: division by zero"),
        ("x = 1", "the module registers nothing; it must call, for example, roml_jax"),
        (
            MODULE.format(name="khazad_dum"),
            "wrong_module.py:5: env 'khazad_dum' is already registered",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(text, line, modules, monkeypatch):
    monkeypatch.delitem(sys.modules, "wrong_module", raising=False)
    if text is not None:
        (modules / "wrong_module.py").write_text(text)
    with pytest.raises(config.ConfigError) as error:
        config.parse(["--import", "wrong_module", "--env", "khazad_dum"])
    assert str(error.value).startswith("--import wrong_module")
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert listing.main(["--import", "wrong_module"]) == 2
