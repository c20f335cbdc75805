"""How options are written, and what is printed instead of a training."""

import pytest

from roml_jax import __main__ as commands
from roml_jax import __version__, config, envs
from roml_jax.config import command_line


@pytest.mark.parametrize("seeds", [["0,1,2"], ["0", "1", "2"], ["0..1,2"], ["1,2", "0"]])
def test_lists_are_written_with_commas_or_spaces(seeds):
    assert sorted(config.parse(["--seeds", *seeds]).seeds) == [0, 1, 2]


def test_every_list_takes_commas():
    parsed = config.parse(
        "--ppo.layers 64,32 --vae.decoder-layers=16,8 --log tensorboard,wandb --sweep alpha=0.1,0.2".split()  # noqa: SIM905
    )
    assert parsed.agent_options.ppo.layers == (64, 32)
    assert parsed.agent_options.vae.decoder_layers == (16, 8)
    assert parsed.log == ("tensorboard", "wandb")
    assert parsed.sweep == ("alpha=0.1,0.2",)  # its commas divide values, not options
    assert command_line.imports(["--import", "a,b", "c", "--seeds", "0"]) == ["a", "b", "c"]


def test_whole_numbers_are_written_as_floats_too():
    parsed = config.parse("--learning-starts 1e5 --num-tasks 3.2e1 --ppo.layers 1e2,64".split())  # noqa: SIM905
    assert (parsed.agent_options.learning_starts, parsed.num_tasks) == (100_000, 32)
    assert parsed.agent_options.ppo.layers == (100, 64)
    assert isinstance(parsed.num_tasks, int)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--num-tasks 1.5", "--num-tasks must be a whole number, got '1.5'"),
        ("--num-tasks 1e999", "--num-tasks must be a whole number, got '1e999'"),
        ("--num-tasks nan", "--num-tasks must be a whole number, got 'nan'"),
        ("--seeds 0,1.5", "--seeds must be a list with each entry a whole number, got 0 1.5"),
        ("--seeds 0,,1", "--seeds must be a list with each entry a whole number, got 0 '' 1"),
        ("--physics mjx", "khazad_dum has no physics engine: leave out --physics"),
        ("--env.physics mjx", "khazad_dum has no physics engine: leave out --physics"),
        ("--env probe_risk --physics mjx", "probe_risk has no physics engine: leave out --physics"),
        ("cheetah_mass", "unexpected argument 'cheetah_mass': write --env cheetah_mass"),
        ("--seeds 0 1 cheetah_mass", "unexpected argument 'cheetah_mass': write --env cheetah_mass"),
        (
            "cheetahmass --frames 1e5",
            "unexpected argument 'cheetahmass': options begin with -- (did you mean --env cheetah_mass?)",
        ),
        ("--which last", "which=last is the learner of another run: it needs init_from=RUN"),
        ("--init-from x --which best", "--which must be one of last, best_mean, best_cvar, got 'best'"),
    ],
)
def test_wrong_input_says_what_is_meant(command, said):
    with pytest.raises(config.ConfigError) as caught:
        config.parse(command.split())
    assert str(caught.value) == said


def test_an_engine_that_an_environment_hides_is_not_denied():
    envs.register("hidden_engine", lambda: envs.make("probe_risk"))
    for env in ("hidden_engine", envs.make("probe_risk")):
        with pytest.raises(config.ConfigError, match="has no option for its physics engine"):
            config.make(env, physics="mjx")


def printed(capsys, *argv):
    with pytest.raises(SystemExit) as left:
        config.parse([*argv])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_the_short_help_has_what_most_runs_need(capsys):
    text = printed(capsys, "--help", "--env", "cheetah_mass")
    options = [line.split()[0] for line in text.splitlines() if line.startswith("  -")]
    assert {"--env", "--sampler", "--agent", "--seeds", "--frames", "--alpha", "--out", "--resume"} < {
        *options
    }
    assert {"--init-from", "--config", "--physics", "--help-all", "--version"} < {*options}
    assert len(options) <= 15
    assert "(default: 3e+07)" in text
    assert "it is the new total" in " ".join(text.split())
    assert "--physics" not in printed(capsys, "-h")  # Khazad-Dum has no engine


def test_the_whole_help_has_every_option(capsys):
    text = printed(capsys, "--help-all", "--env", "khazad_dum")
    for word in ("--env", "--seeds", "--ppo.lr", "--sampler.batch-size", "--env.mean-noise", "Example:"):
        assert word in text


@pytest.mark.parametrize("option", ["--help", "--help-all"])
def test_help_fits_80_columns(option, capsys):
    assert max(map(len, printed(capsys, option, "--env", "humanoid_mass").splitlines())) <= 80


def run(*argv):
    """Runs ``roml-jax``, which prints something and ends well."""
    try:
        code = commands.main([*argv])
    except SystemExit as left:
        code = left.code
    assert code == 0


@pytest.mark.parametrize("command", [[], *([name] for name in commands.COMMANDS)])
def test_every_command_fits_80_columns_and_has_a_version(command, capsys):
    run(*command, "--help")
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    run(*command, "--version")
    assert capsys.readouterr().out == f"roml-jax {__version__}\n"
