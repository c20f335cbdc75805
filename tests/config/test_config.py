"""Options from code, files and the command line; every mistake is one clear line."""

import pytest
import yaml

from roml_jax import cem, config, envs, experiment, samplers
from roml_jax.errors import ConfigError
from roml_jax.run import sharding


def test_presets_are_the_papers():
    kd = config.make("khazad_dum")
    assert (kd.frames, kd.alpha, kd.num_tasks) == (8e6, 0.01, 32)
    assert kd.sampler_options.min_share == 0.05
    assert kd.agent_options.ppo.gamma == 0.999
    cheetah = config.make("cheetah_mass", "uniform")
    assert (cheetah.frames, cheetah.alpha, cheetah.num_tasks) == (3e7, 0.05, 16)
    assert cheetah.agent_options.ppo.layers == (128, 128)
    assert experiment.make(cheetah).num_iterations == 4687
    assert experiment.make(kd).num_iterations == 1953


@pytest.mark.parametrize("env", envs.names())
@pytest.mark.parametrize("sampler", ["cem", "uniform", "naive", "tail"])
def test_the_saved_configuration_reads_back_as_itself(env, sampler, tmp_path):
    made = config.make(env, sampler, seeds=[1, 2], **{"ppo.lr": 1e-3, "vae.tbptt": None})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_mapping(made)))
    again = config.parse(["--config", str(path)])
    assert config.to_mapping(again) == config.to_mapping(made)
    assert again.seeds == (1, 2)
    assert again.agent_options == made.agent_options


def test_a_configuration_that_comes_along_is_called_by_its_name():
    small = config.parse(["--config", "cheetah_vel_pearl_small"])
    assert (small.env, small.agent, small.agent_options.sac.updates) == ("cheetah_vel", "pearl", 200)
    other = config.parse(
        ["--config", "cheetah_vel_pearl_small", "--env", "khazad_dum", "--sampler", "uniform"]
    )
    assert (other.env, other.sampler, other.agent_options.sac.layers) == ("khazad_dum", "uniform", (128, 128))


def test_later_sources_win(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("env: khazad_dum\nalpha: 0.2\nppo:\n  lr: 0.5\n  clip: 0.3\n")
    parsed = config.parse(["--config", str(path), "--ppo.lr", "0.25", "--seed", "7"])
    assert parsed.alpha == 0.2  # the file over the preset
    assert parsed.agent_options.ppo.lr == 0.25  # the command line over the file
    assert parsed.agent_options.ppo.clip == 0.3
    assert parsed.agent_options.ppo.gamma == 0.999  # the preset over the default
    assert parsed.seeds == (7,)


def test_a_runs_file_serves_for_another_sampler_and_environment(tmp_path):
    """Options of the sampler (environment) that the command line replaces are left out; others are wrong."""
    path = tmp_path / "config.yaml"
    made = config.make("cheetah_mass", "cem", **{"sampler.batch_size": 64, "ppo.lr": 0.25})
    path.write_text(yaml.safe_dump(config.to_mapping(made)))
    plain = config.parse(["--config", str(path), "--sampler", "uniform"])
    assert (plain.sampler, plain.env, plain.agent_options.ppo.lr) == ("uniform", "cheetah_mass", 0.25)
    soft = config.parse(["--config", str(path), "--sampler", "cem_soft"])
    assert soft.sampler_options == made.sampler_options  # the same options: kept
    other = config.parse(["--config", str(path), "--env", "probe_memory"])
    assert (other.env, other.sampler_options.batch_size) == ("probe_memory", 64)
    path.write_text("sampler: cem\nsampler.min_sahre: 0.1\n")
    with pytest.raises(config.ConfigError, match=r"did you mean --sampler\.min-share"):
        config.parse(["--config", str(path), "--sampler", "cem"])
    path.write_text("sampler: uniform\nsampler.min_share: 0.1\n")
    with pytest.raises(config.ConfigError, match="unknown option"):
        config.parse(["--config", str(path)])


def test_every_option_of_the_method_is_on_the_command_line():
    command = (
        "--sampler.batch_size 64 --sampler.ref_share 0.3 --sampler.min_share 0.4 --sampler.soft 0.1 "
        "--sampler.ref_mode train_ref --sampler.threshold -2 --sampler.weight_clip 3 "
        "--sampler.quantile_soft 0.2 --sampler.no_force_min_share --sampler.density exact --sampler.history 7"
    )
    parsed = config.parse(["--env", "cheetah_mass", *command.split()])
    assert parsed.sampler_options == cem.CemConfig(
        batch_size=64, ref_share=0.3, min_share=0.4, soft=0.1, ref_mode="train_ref", threshold=-2.0,
        weight_clip=3.0, quantile_soft=0.2, force_min_share=False, density="exact", history=7,
    )  # fmt: skip
    assert config.parse(["--env", "cheetah_mass", "--sampler.optimise"]).sampler_options == cem.CemConfig(
        optimise=True
    )
    for name in samplers.names():
        assert config.parse(["--sampler", name, "--env", "probe_risk"]).sampler == name


WRONG = {
    "env": ("--env cheetah_mas", "did you mean 'cheetah_mass'"),
    "sampler": ("--sampler cme", "did you mean 'cem'"),
    "agent": ("--agent varibat", "did you mean 'varibad'"),
    "option": ("--ppo.l 3", "did you mean --ppo.lr"),
    "other_env_option": ("--env khazad_dum --env.frame_skip 3", "unknown option --env.frame-skip"),
    "sampler_without_options": ("--sampler uniform --sampler.min_share 0.1", "unknown option"),
    "type": ("--ppo.lr fast", "--ppo.lr"),
    "missing_value": ("--frames", "--frames"),
    "negative_frames": ("--frames -5", "frames must be positive"),
    "infinite_frames": ("--frames inf", "frames must be positive and finite"),
    "too_few_frames": ("--env khazad_dum --frames 100", "less than one iteration of 4096"),
    "alpha": ("--alpha 0", "alpha must be in (0, 1]"),
    "alpha_above": ("--alpha 1.5", "alpha must be in (0, 1]"),
    "seeds": ("--seeds 1 1", "distinct"),
    "huge_seed": ("--seeds 99999999999999999999", "2^32"),
    "layers": ("--ppo.layers 0", "ppo.layers must be at least 1"),
    "entropy": ("--ppo.entropy_coef nan", "ppo.entropy_coef"),
    "share": ("--sampler.min_share 2", "sampler.min_share must be in (0, 1]"),
    "choice": ("--protocol.boundary here", "boundary"),
    "minibatches": ("--env khazad_dum --ppo.minibatches 7", "do not divide"),
    "horizon": ("--protocol.horizon 0", "protocol.horizon must be at least 1"),
    "frame_skip": ("--env cheetah_mass --env.frame_skip 0", "env.frame_skip must be at least 1"),
    "config": ("--config nowhere.yaml", "cannot read nowhere.yaml"),
    "config_name": (
        "--config khazad_dumm",
        "unknown file or configuration 'khazad_dumm'; did you mean 'khazad_",
    ),
    "oracle": ("--env hopper_dynamics --sampler oracle", "sampler=oracle needs one task dimension"),
    "oracle_easy": ("--env probe_memory --sampler oracle", "which payer does not set"),
    "only_references": ("--sampler.ref_share 1", "sampler.ref_share must be in [0, 1), got 1.0"),
    "never_moves": ("--sampler.soft 1", "sampler.soft must be in [0, 1), got 1.0"),
    "huge_batch": ("--env probe_risk --frames 128", "exceeds the 64 tasks of the whole run"),
    "huge_naive_batch": ("--sampler naive --sampler.batch_size 10000000", "of the whole run"),
    "optimise_mode": ("--sampler.optimise --sampler.ref_mode none", "leave out sampler.ref_mode"),
    "optimise_soft": ("--sampler.optimise --sampler.quantile_soft 0.1", "leave out sampler.quantile_soft"),
    "density": ("--sampler.density clip", "density"),
    "valid": ("--sampler.ref_mode valid", "needs scores passed to cem.set_reference"),
    "no_references": ("--sampler.ref_mode train_ref --sampler.ref_share 0", "needs reference tasks"),
    "optimise": ("--sampler.optimise --sampler.threshold 1", "sampler.optimise uses no threshold"),
    "weight_clip": ("--sampler.weight_clip 0.5", "sampler.weight_clip must be at least 1"),
    "naive": ("--sampler naive --sampler.pool 0", "sampler.pool must be at least 1"),
    "tail": ("--sampler tail --sampler.level tasks", "level"),
    "gdrm": ("--sampler gdrm --sampler.eta -1", "sampler.eta must be at least 0, got -1.0"),
    "mpts": ("--sampler mpts --sampler.network.lr 0", "sampler.network.lr must be positive"),
    "pdts": ("--sampler pdts --sampler.candidates 0.5", "sampler.candidates must be at least 1"),
    "success": (
        "--sampler doraemon",
        "sampler=doraemon needs sampler.success: the return from which a task counts as a success",
    ),
    "how_success_is_found": (
        "--sampler doraemon",
        "train with sampler=uniform, take the return per episode that half",
    ),
    "success_of_ends": (
        "--sampler autodr",
        "sampler=autodr needs sampler.success: the mean return at an end",
    ),
    "failure": ("--sampler autodr --sampler.success -1", "sampler=autodr needs sampler.failure, the mean"),
    "failure_above": (
        "--sampler autodr --sampler.success 1 --sampler.failure 2",
        "sampler.failure must be below sampler.success=1, got 2",
    ),
    "success_nan": ("--sampler doraemon --sampler.success nan", "sampler.success must be a finite number"),
    "groups": ("--sampler tail --sampler.tasks_per_group 5", "into groups of sampler.tasks_per_group=5"),
    "mesh": ("--mesh 4x2", "mesh must be auto, none or sizes such as seed=4,task=2"),
    "devices": ("--mesh task=3", "mesh task=3 has 3 device(s) instead of 1; valid: seed=1,task=1"),
    "processes": ("--distributed.processes 0", "distributed.processes must be at least 1"),
    "word": ("khazad_dum", "khazad_dum"),
}


def build(command):
    made = config.parse(command.split())
    return experiment.make(made, placement=sharding.placement(made))


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line(case):
    command, expected = WRONG[case]
    with pytest.raises(config.ConfigError) as caught:
        build(command)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [1", "is not YAML"),
        ("- 1\n- 2", "must map option names to values, got a list"),
        ("ppo:\n  lrr: 1", "did you mean --ppo.lr"),
        ("alpha: much", "alpha"),
    ],
)
def test_wrong_files_are_one_line_that_names_the_file(content, expected, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(config.ConfigError) as caught:
        config.parse(["--config", str(path)])
    assert expected in str(caught.value)
    assert "wrong.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_may_be_named_without_a_list(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("imports: no_such_robot\n")
    for read in (lambda: config.parse(["--config", str(file)]), lambda: config.make(imports="no_such_robot")):
        with pytest.raises(ConfigError, match="--import no_such_robot failed"):
            read()


def test_the_source_of_a_file_can_be_undone(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"init_from: {tmp_path}\n")
    assert config.parse(["--config", str(file)]).init_from == tmp_path
    assert config.parse(["--config", str(file), "--init-from", "none"]).init_from is None
    with pytest.raises(ConfigError, match="--init-from must be a path, got 3"):
        config.make(init_from=3)


@pytest.mark.parametrize("name", ["config", "resume"])
def test_options_of_the_command_line_are_not_ignored_elsewhere(name, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"{name}: somewhere\n")
    with pytest.raises(ConfigError, match=f"{name}: config and resume are options of the command line"):
        config.parse(["--config", str(file)])
    with pytest.raises(ConfigError, match="give a file's options as arguments, and resume a run with python"):
        config.make(**{name: "somewhere"})


def test_where_a_run_is_computed_is_not_what_it_computes():
    here = config.parse(
        "--mesh seed=4 --distributed.coordinator here:1 --distributed.processes 2".split()  # noqa: SIM905
    )
    assert here.mesh == "seed=4"
    assert here.distributed.processes == 2
    assert config.to_mapping(here) == config.to_mapping(config.parse([]))
