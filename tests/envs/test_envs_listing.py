"""``python -m roml_jax.envs``: everything registered is listed, from the environments themselves."""

import dataclasses
import io
import re
import subprocess
import sys
from dataclasses import dataclass

import jax.numpy as jnp
import pytest
from rich.console import Console

from roml_jax import config, envs, tasks
from roml_jax.envs import __main__ as listing
from roml_jax.registry import options_class


def printed(capsys, *argv):
    assert listing.main(list(argv)) == 0
    return capsys.readouterr().out


def table():
    """The listing on a wide terminal: a row for each environment."""
    stream = io.StringIO()
    listing.listing(Console(file=stream, width=10_000), envs.names())
    return stream.getvalue()


def row_of(text, name):
    """The cells of an environment's first line; columns are three spaces apart at least."""
    (line,) = [line for line in text.splitlines() if re.match(rf" ?{name} ", line)]
    return re.split(r" {3,}", line.strip())


def test_every_environment_has_a_row():
    text = table()
    for name in envs.names():
        made = config.make(name)
        env = envs.from_options(name, made.env_options)
        spec = made.protocol.agent_spec(env.spec)
        cells = row_of(text, name)
        assert cells[1] == str(env.spec.obs_size)
        assert cells[3] == f"{spec.episodes} x {spec.horizon}"
        assert cells[5] == f"{made.alpha:g}"
        assert "not described" not in cells[4]


def test_rows_are_the_papers():
    text = table()
    assert row_of(text, "khazad_dum")[1:6] == [
        "99", "discrete, 4", "4 x 32", "noise in [0, inf): exponential, mean 0.1", "0.01",
    ]  # fmt: skip
    assert row_of(text, "cheetah_mass")[1:6] == [
        "20", "continuous, 6", "2 x 200", "mass in [0.5, 2]: 2^U(-1, 1)", "0.05",
    ]  # fmt: skip
    assert row_of(text, "khazad_dum")[6].startswith("The grid world of RoML.")


@pytest.mark.parametrize("name", envs.names())
def test_one_environment_in_detail(name, capsys):
    text = printed(capsys, name)
    made = config.make(name)
    env = envs.from_options(name, made.env_options)
    words = {re.split(r" {2,}", line.strip())[0] for line in text.splitlines()}
    assert name in words
    assert set(env.spec.obs_slices) <= words
    assert set(env.family.names) <= words
    kind = options_class(envs.get(name))
    assert ("no options" in text) == (not dataclasses.fields(kind))
    for field in dataclasses.fields(kind):
        flag = "--env." + field.name.replace("_", "-")
        assert flag in words
        (line,) = [line for line in text.splitlines() if line.strip().startswith(flag + " ")]
        cells = re.split(r" {2,}", line.strip())
        assert cells[1] == str(getattr(made.env_options, field.name))
        assert len(cells) == 3, f"{flag} has no help"


def test_options_have_their_help(capsys):
    text = printed(capsys, "khazad_dum")
    assert re.search(r"--env\.mean-noise +0\.1 +Mean of the noise under its prior", text)
    assert "8  ###########" in text  # the docstring's picture as it stands
    assert re.search(r"cells +0:99 +99", text)


def test_piped_output_is_whole_and_plain():
    run = subprocess.run([sys.executable, "-m", "roml_jax.envs"], capture_output=True, text=True, check=True)
    assert "…" not in run.stdout
    assert "\x1b" not in run.stdout
    assert run.stderr == ""
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert "khazad_dum" in run.stdout.splitlines()


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_wraps_and_cuts_nothing(width):
    stream = io.StringIO()
    listing.listing(Console(file=stream, width=width), envs.names())
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = {word.strip(",;") for word in text.split()}
    for name in envs.names():
        assert name in words
        family = envs.make(name).family
        assert set(family.names) <= words
    assert {"discrete", "continuous", "0.01", "2^U(-1", "exponential"} <= words


def test_an_unknown_name_is_one_line_with_the_nearest(capsys):
    assert listing.main(["cheetah_mas"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: unknown env 'cheetah_mas'; did you mean 'cheetah_mass'?")
    assert captured.err.count("\n") == 1


@dataclass(frozen=True)
class Base:
    plain: int = 1
    """From the base."""


@dataclass(frozen=True)
class Options(Base):
    engine: str = "c"
    """Which engine,
    in two lines."""
    silent: int = 3


def make_env(config: Options) -> envs.Env:
    """A function."""


def test_options_of_functions_and_bases():
    assert listing._options(make_env, Options(plain=7)) == [
        ("--env.plain", "7", "From the base."),
        ("--env.engine", "c", "Which engine, in two lines."),
        ("--env.silent", "3", ""),
    ]


FAMILIES = {
    "beta": (tasks.beta("a", 0.0, 7.0), ["a in [0, 7]: uniform"]),
    "factors": (tasks.log_beta(("a", "b"), -0.5, 0.5), ["a, b in [0.7071, 1.414]: 2^U(-0.5, 0.5)"]),
    "exponential": (tasks.exponential("a", 0.1), ["a in [0, inf): exponential, mean 0.1"]),
    "disk": (tasks.disk(("x", "y"), 5.0), ["x, y in [-5, 5]: uniform on a disk of radius 5"]),
    "gaussian": (
        tasks.gaussian(("a", "b"), jnp.array([0.0, 1.0]), (1.0, 2.0)),
        ["a in (-inf, inf): normal, mean 0, deviation 1", "b in (-inf, inf): normal, mean 1, deviation 2"],
    ),
    "gaussian_full": (
        tasks.gaussian_full(("a", "b"), (0.0, 0.0), ((4.0, 1.0), (1.0, 4.0))),
        ["a, b in (-inf, inf): jointly normal, mean 0, deviation 2"],
    ),
    "categorical": (tasks.categorical(("a",), ((1.0,), (4.0,))), ["a in [1, 4]: one of 2"]),
    "weighted": (
        tasks.categorical(("a",), ((1.0,), (4.0,)), (0.9, 0.1)),
        ["a in [1, 4]: one of 2, weighted"],
    ),
    "mixture": (tasks.with_prior(tasks.beta("a", 0.0, 1.0), 0.1), ["a in [0, 1]: uniform"]),
    "product": (
        tasks.product(
            {
                "m": tasks.log_beta(("m",)),
                "n": tasks.log_beta(("n",)),
                "v": tasks.beta("v", 0.0, 3.0)._replace(priors=()),
            }
        ),
        ["m, n in [0.5, 2]: 2^U(-1, 1)", "v in [0, 3]: not described"],
    ),
}


@pytest.mark.parametrize("case", FAMILIES)
def test_families_in_words(case):
    family, expected = FAMILIES[case]
    assert listing._grouped_tasks(family) == expected
