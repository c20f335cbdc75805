"""The public API: the ten lines that a user types."""

import dataclasses
import inspect
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import TINY

import roml_jax as roml
from roml_jax import __main__ as commands
from roml_jax import config, testing, train
from roml_jax.agents import base as agents_base
from roml_jax.config import command_line, values
from roml_jax.run import loop, provenance
from roml_jax.samplers import base as samplers_base

OPTIONS = command_line.options(TINY, config.make("probe_memory", "cem"))
OPTIONS = {name: value for name, value in OPTIONS.items() if name != "env"} | {"sampler.batch_size": 16}
CART = roml.envs.make("probe_memory")  # stands for an environment of one's own: an object, not a name


@pytest.fixture(scope="module")
def result():
    chunks = []
    trained = roml.train(
        CART, sampler="cem", alpha=0.05, seeds=range(2), quiet=True, on_chunk=lambda *row: chunks.append(row),
        **OPTIONS,
    )  # fmt: skip
    return trained, chunks


def test_a_loop_of_ones_own():
    """(a) The cross-entropy method in four lines: loads above 6.65 are the hardest twentieth."""
    cem = roml.samplers.cem(roml.tasks.beta("load", 0.0, 7.0), alpha=0.05)
    key = jax.random.key(0)
    state = cem.init(key)
    sample, update = jax.jit(cem.sample, static_argnums=2), jax.jit(cem.update)
    for i in range(60):
        state, draw = sample(state, jax.random.fold_in(key, i), 16)
        state, info = update(state, draw, -draw.task[:, 0], key)
    _, draw = sample(state, key, 2000)
    assert float(np.median(np.asarray(draw.task)[~np.asarray(draw.is_ref)])) > 6
    assert {"q_ref", "updates"} <= info.keys()


def test_an_environment_of_ones_own_is_trained_and_its_run_opened(result, tmp_path):
    """(b) and (d)."""
    trained, chunks = result
    assert [done for done, _ in chunks][-1] == 15
    assert all(len(rows) == 2 for _, rows in chunks)  # a row per seed
    folder = trained.save(tmp_path / "cart")
    (session,) = provenance.read(folder)
    call = (
        f"roml_jax.train({type(CART).__name__}, sampler='cem', agent='multitask', seeds=[0, 1], alpha=0.05, "
    )
    assert session["command"].startswith(call)
    with pytest.raises(roml.ConfigError, match="exists; nothing is overwritten"):
        trained.save(folder)
    run = roml.open(folder, which="best_cvar", env=CART)
    tasks = run.tasks(5)
    returns = run.returns(tasks)
    assert returns.shape == (2, 5, CART.spec.episodes)
    assert np.isfinite(returns).all()
    assert (tmp_path / "policy.zip") == run.policy(seed=1).export(tmp_path / "policy.zip")
    assert "probe_memory-object x cem x multitask, 2 seed(s)" in repr(run)
    final = [row for row in run.metrics if "test/cvar" in row]
    last = roml.open(folder, env=CART).summary()
    assert [row["test/cvar"] for row in final] == pytest.approx([one["cvar"] for one in last], rel=1e-5)


def test_a_sampler_of_ones_own_has_defaults_for_weights_and_phi():
    """(c) Tasks from the lower half of the range first; ``weights`` and ``phi`` are left out."""

    @roml.samplers.register("easy_first")
    def easy_first(family, alpha):
        del alpha

        def sample(state, key, n):
            u = family.proposal.sample(family.proposal.phi0, key, n) * jnp.where(state < 10, 0.5, 1.0)
            return state, roml.types.TaskDraw(u, family.decode(u), jnp.zeros(n), jnp.zeros(n, bool))

        def update(state, draw, feedback, key, progress=1.0):
            del draw, feedback, key, progress
            return state + 1, {}

        return roml.samplers.TaskSampler(lambda key: jnp.zeros((), jnp.int32), sample, update)

    family = roml.tasks.beta("load", 0.0, 7.0)
    testing.check_sampler(easy_first(family, 0.05), family)
    sampler = roml.samplers.make("easy_first", family, 0.05)
    testing.check_sampler(sampler, family)
    _, draw = sampler.sample(sampler.init(jax.random.key(0)), jax.random.key(1), 500)
    assert float(draw.task.max()) < 3.5


def test_a_run_without_a_folder_that_was_stopped_can_be_resumed(capfd):
    """Its temporary folder stays, since the message names it."""

    def stop(*_):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(loop.StoppedError, match="resume with: python -m") as caught:
        roml.train("probe_memory", quiet=True, on_chunk=stop, **OPTIONS)
    folder = Path(str(caught.value).split()[-1])
    try:
        assert train.main(["--resume", str(folder)]) == 0
    finally:
        shutil.rmtree(folder.parent)


MODULE = """
import dataclasses
import roml_jax as roml

class Own(type(roml.envs.make("probe_memory"))):
    @property
    def spec(self):
        return dataclasses.replace(super().spec, name="own_memory")

roml.envs.register("own_memory", lambda: Own())
"""


def test_a_run_on_an_object_is_resumed_with_the_module_that_registers_it(tmp_path, monkeypatch, capfd):
    """As the message says; the module is then the run's, for all commands."""
    (tmp_path / "own_memory_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    class Own(type(CART)):
        @property
        def spec(self):
            return dataclasses.replace(super().spec, name="own_memory")

    def stop(*_):
        os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "a run"
    with pytest.raises(loop.StoppedError) as caught:
        roml.train(Own(), quiet=True, on_chunk=stop, out=folder, **OPTIONS)
    command = shlex.split(str(caught.value).split("resume with: ")[1])
    assert command[:6] == ["python", "-m", "roml_jax.train", "--resume", str(folder), "--import"]
    assert str(caught.value).endswith("--import MODULE, where MODULE registers the environment 'own_memory'")
    assert train.main([*command[3:6], "own_memory_module"]) == 0
    assert "resumes from iteration 1" in capfd.readouterr().out
    assert roml.open(folder).config.imports == ("own_memory_module",)
    (tmp_path / "another_module.py").write_text(MODULE.replace("own_memory", "another_memory"))
    assert train.main(["--resume", str(folder), "--import", "another_module"]) == 0  # complete
    made = config.parse(["--resume", str(folder), "--import", "another_module"])
    assert made.imports == ("own_memory_module", "another_module")
    assert "own_memory_module" in (folder / "imports.json").read_text()


def test_a_run_that_never_began_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(roml.ConfigError):
        roml.train("probe_memory", alpha=7.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: roml.train("cheetah_mas", frames=1), "did you mean 'cheetah_mass'"),
        (lambda: roml.train(CART, sampler="cme"), "did you mean 'cem'"),
        (lambda: roml.train(CART, **{"ppo.l": 1}), "did you mean --ppo.lr"),
        (lambda: roml.open("nowhere"), "nowhere is not a run's folder"),
        (lambda: roml.tasks.nothing, "has no attribute 'nothing'"),
    ],
)
def test_wrong_input_is_one_line(call, said):
    with pytest.raises((roml.ConfigError, AttributeError), match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_tasks_of_another_shape_are_one_line(result):
    with pytest.raises(roml.ConfigError, match=r"tasks must be of shape \(M, 1\)"):
        result[0].returns(np.zeros((3, 2)))


def test_the_key_has_one_place_in_every_protocol():
    """After the arrays, before numbers, flags, progress and what may be left out; first without a state."""
    after_the_key = {"n", "greedy", "progress", "index"}
    for module in (samplers_base, agents_base):
        for name, protocol in vars(module).items():
            if not (isinstance(protocol, type) and getattr(protocol, "_is_protocol", False)):
                continue
            names = [one for one in inspect.signature(protocol.__call__).parameters if one != "self"]
            if "key" in names:
                assert set(names[names.index("key") + 1 :]) <= after_the_key, name
            assert not {"state"} & set(names[1:]), name


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_one_entry_point_and_a_help(name, capsys):
    with pytest.raises(SystemExit) as left:
        commands.main([name, "--help"])
    assert left.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_the_entry_point_lists_its_commands_and_names_the_nearest(capsys):
    assert commands.main([]) == 0
    assert all(name in capsys.readouterr().out for name in ("train",))
    assert commands.main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err
    assert commands.main(["khazad_dum"]) == 2
    assert "is an environment, not a command: roml-jax train --env khazad_dum" in capsys.readouterr().err
    listed = subprocess.run([sys.executable, "-m", "roml_jax"], capture_output=True, text=True, check=True)
    assert all(name in listed.stdout for name in commands.COMMANDS)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("3e-4", float, 3e-4), ("3", int, 3), (3.0, int, 3), ("none", int | None, None),
        (None, int | None, None),
        (["64", "32"], tuple[int, ...], (64, 32)), (8, tuple[int, ...], (8,)), ("true", bool, True),
        ([64, 32], tuple[int, int], (64, 32)), ("a", str, "a"),
    ],
)  # fmt: skip
def test_values_are_converted_to_the_types_of_their_options(value, kind, expected):
    assert values.convert(value, kind, "x") == expected


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("fast", float, "--ppo.lr must be a number, got 'fast'"),
        ("1.5", int, "--ppo.lr must be a whole number, got '1.5'"),
        (True, int, "--ppo.lr must be a whole number, got True"),
        (["a"], tuple[int, ...], "--ppo.lr must be a list with each entry a whole number, got a"),
        ([1, 2, 3], tuple[int, int], "--ppo.lr must be 2 values, got 1 2 3"),
        ("maybe", bool, "--ppo.lr must be true or false, got 'maybe'"),
    ],
)
def test_values_of_another_type_are_one_line(value, kind, said):
    with pytest.raises(config.ConfigError) as caught:
        values.convert(value, kind, "ppo.lr")
    assert str(caught.value) == said


def test_an_object_made_of_a_registered_environment_does_not_open_as_that_one(tmp_path, capsys):
    """Its name alone would build the environment without the wrapper, and returns of another robot."""
    noisy = roml.envs.noise(roml.envs.make("probe_risk"), std=0.5)
    folder = tmp_path / "run"
    roml.train(noisy, out=folder, **OPTIONS)
    assert "kept as probe_risk-object, since 'probe_risk' is the package's own" in capsys.readouterr().out
    for read in (lambda: roml.open(folder), lambda: config.parse(["--resume", str(folder)])):
        with pytest.raises(roml.ConfigError, match="object made of 'probe_risk'") as said:
            read()
        assert "env=" in str(said.value)
        assert "\n" not in str(said.value)
    assert roml.open(folder, env=noisy).config.env == "probe_risk-object"
    roml.envs.register("probe_risk-object", lambda: noisy)
    assert roml.open(folder).env is noisy
