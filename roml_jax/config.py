"""A run's configuration: frozen dataclasses, filled from presets, a file and the command line.

Every source goes through the same parser, and a later one wins: defaults, ``configs/ENV.yaml``,
``configs/AGENT.yaml``, ``configs/ENV_AGENT.yaml``, ``--config FILE``, the command line. Options of the
chosen environment and sampler are under ``env.`` and ``sampler.``; the agent's stand at the top level
(``ppo.lr``).
Where the command line names another sampler (environment, agent) than a preset or file was written for,
those of its options that the chosen one does not know are left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from roml_jax import agents, checks, envs, regression, runs, samplers
from roml_jax.command_line import listed, named, one_line
from roml_jax.presets import ConfigError, check_same, flatten, named_file, preset, read_yaml
from roml_jax.registry import NoOptions, UnknownNameError, options_class, unknown
from roml_jax.rollout import Protocol


@dataclass(frozen=True)
class EvalConfig:
    """Held-out evaluation: greedy behaviour on fixed tasks from the prior."""

    interval: int | None = None
    """Iterations between evaluations during training; 0 for the final test alone; by default so many that
    a tenth as many environment steps are evaluation as are training."""
    tasks: int = 256
    """Tasks of each evaluation during training; the best learners so far are chosen by them."""
    test_tasks: int = 1000
    """Tasks of the final test."""
    seed: int = 20231110
    """Decides the held-out tasks: the same for every method and seed."""

    def __post_init__(self) -> None:
        checks.at_least(self, "eval", 0, "interval", "seed")
        checks.at_least(self, "eval", 1, "tasks", "test_tasks")

    def every(self, num_tasks: int) -> int:
        """Iterations between evaluations, with so many tasks an iteration; 0 for none."""
        return -(-10 * self.tasks // num_tasks) if self.interval is None else self.interval


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, each with its own devices, as one run: every process gets the same command."""

    auto: bool = False
    """Ask the cluster (SLURM, Open MPI, TPU pod) how many processes there are and which this one is."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where nothing can be asked."""
    processes: int | None = None
    """How many processes there are, with a coordinator."""
    process_id: int | None = None
    """Which of them this is, from 0; process 0 prints and writes the metrics."""

    def __post_init__(self) -> None:
        checks.at_least(self, "distributed", 1, "processes")
        checks.at_least(self, "distributed", 0, "process_id")


@dataclass(frozen=True)
class Config:
    """A training run."""

    env: str = "khazad_dum"
    """Environment to train on; its options are --env.*"""
    sampler: str = "cem"
    """How training tasks are chosen: 'cem' (RoML), 'uniform' (plain) or another; options --sampler.*"""
    agent: str = "varibad"
    """The meta-learner that is made robust."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0,)
    """One run per seed, written one by one or as 0..29; all are trained together, in one program."""
    sweep: tuple[str, ...] = ()
    """Options that differ between runs, e.g. ppo.lr=3e-4,7e-4 alpha=0.01,0.05: one run per value and
    seed, all of them in one program."""
    frames: float = 1e6
    """Environment steps to train for, per seed (rounded down to whole iterations)."""
    alpha: float = 0.05
    """Risk level: the learner maximises the mean return over the worst alpha of tasks."""
    num_tasks: int = 16
    """Tasks per iteration; each is met for all its episodes."""
    chunk: int = 10
    """Iterations that run in one go before progress is shown."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--import"])] = ()
    """Modules of your own that register environments, agents or samplers; imported before anything else."""
    out: Path | None = None
    """The run's new folder; by default runs/ENV-SAMPLER-TIME."""
    resume: Path | None = None
    """The folder of a run that was stopped: it goes on from its last checkpoint, with its own options."""
    checkpoint_minutes: float = 10.0
    """Between two checkpoints; there is always one at the end and when the run is stopped."""
    log: tuple[str, ...] = ()
    """Where else metrics go: tensorboard, wandb."""
    config: Path | None = None
    """A YAML file of options, e.g. another run's config.yaml, or the name of one that comes along."""
    compile_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is quick."""
    mesh: str = "auto"
    """How devices share the work: 'auto', seeds first and then tasks; sizes, 'seed=4,task=2'; 'none', one
    device. Results do not depend on it but for the order of float additions."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    protocol: Protocol = field(default_factory=Protocol)
    env_options: Any = field(default_factory=NoOptions)
    agent_options: Any = field(default_factory=NoOptions)
    sampler_options: Any = field(default_factory=NoOptions)

    def __post_init__(self) -> None:
        checks.positive(self, "", "frames", "checkpoint_minutes")
        checks.share(self, "", "alpha", zero=False)
        checks.at_least(self, "", 1, "num_tasks", "chunk")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be distinct and at least one, got {list(self.seeds)}")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"seeds must be between 0 and 2^32 - 1, got {list(self.seeds)}")
        runs.parse_sweep(self.sweep)

    @property
    def runs(self) -> tuple[runs.Run, ...]:
        """The runs of one program: every setting with every seed."""
        return runs.plan(self.seeds, self.sweep)


# Where a component's options stand: Config's field, what names the component, prefix of its options.
_COMPONENTS = (
    ("env_options", "env", envs.get, "env"),
    ("agent_options", "agent", agents.get, ""),
    ("sampler_options", "sampler", samplers.get, "sampler"),
)
_PREFIX = {name: prefix for name, _, _, prefix in _COMPONENTS}
# Where a run is computed and kept says nothing about what it computes: another machine has its own.
_NOT_SAVED = ("out", "config", "resume", "mesh", "distributed")
# What may be another when a run goes on.
FREE = ("checkpoint_minutes", "log", "compile_cache")
_SHORT = {"physics": "env.physics"}


def schema(env: str, sampler: str, agent: str) -> type[Config]:
    """Config with the options of the named components in place of ``Any``.

    Raises:
        UnknownNameError: for a name that is not registered.
    """
    chosen = {"env": env, "sampler": sampler, "agent": agent}
    fields: list[Any] = []
    for name, component, get, prefix in _COMPONENTS:
        constructor = get(chosen[component])
        if component == "agent":
            constructor = regression.find(envs.get(env), agent) or constructor
        options = options_class(constructor)
        fields.append((name, Annotated[options, tyro.conf.arg(name=prefix)], field(default_factory=options)))
    fields += [(name, str, field(default=value)) for name, value in chosen.items()]
    return dataclasses.make_dataclass("Config", fields, bases=(Config,), frozen=True)


def to_mapping(config: Config) -> dict[str, Any]:
    """Every option of what is computed by its dotted name, as the parser reads it back."""
    return {name: value for name, value in _all(config).items() if name.split(".")[0] not in _NOT_SAVED}


def _all(config: Config) -> dict[str, Any]:
    """Every option by its dotted name."""

    def walk(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for item in dataclasses.fields(value):
            path = _PREFIX.get(item.name, item.name) if not prefix else item.name
            dotted = ".".join(part for part in (prefix, path) if part)
            inner = getattr(value, item.name)
            if dataclasses.is_dataclass(inner):
                yield from walk(inner, dotted)
            else:
                yield dotted, list(inner) if isinstance(inner, tuple) else inner

    return dict(walk(config, ""))


def _tokens(mapping: Mapping[str, Any]) -> list[str]:
    """A mapping as command-line tokens."""
    tokens: list[str] = []
    for key, value in flatten(mapping):
        if isinstance(value, bool):
            head, _, last = key.rpartition(".")
            flag = last if value else f"no_{last}"
            tokens.append("--" + (f"{head}.{flag}" if head else flag))
        elif isinstance(value, list | tuple):
            tokens += [f"--{key}", *map(str, value)]
        else:
            tokens += [f"--{key}", str(value)]
    return tokens


def _without(options: Mapping[str, Any], component: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted name, less those of a component that the chosen one in its place does not know."""
    return {
        key: value for key, value in options.items() if not key.startswith(f"{component}.") or key in known
    }


def _for_agent(
    options: Mapping[str, Any], names: Mapping[str, str], agent: str, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Options written for another agent, less those that only that one knows."""
    own = to_mapping(schema(**{**names, "agent": agent})())
    return {key: value for key, value in options.items() if key in known or key not in own}


def _option_names(config: Config) -> set[str]:
    return set(_all(config)) | {"seed", "import", "help"}


def _check_names(tokens: Sequence[str], config: Config, source: str) -> None:
    """Refuses unknown options with the nearest valid name, before the parser's longer words."""
    valid = _option_names(config)
    for token in tokens:
        if not token.startswith("--"):
            continue
        given = token[2:].split("=", 1)[0].replace("-", "_")
        head, _, last = given.rpartition(".")
        plain = last.removeprefix("no_")
        if given not in valid and (f"{head}.{plain}" if head else plain) not in valid:
            message = str(unknown("option", given, valid))
            near = re.search(r"; did you mean '([^']*)'\?", message)
            hint = f"; did you mean --{near[1]}?" if near else ""
            raise ConfigError(f"{source}unknown option --{given}{hint} (--help lists them all)")


def _in_full(tokens: Sequence[str], config: Config) -> list[str]:
    """Tokens with short names, of which an option must exist, and ranges of seeds, written out."""
    full = {f"--{short}": f"--{name}" for short, name in _SHORT.items() if name in to_mapping(config)}
    heads = (token.partition("=") for token in tokens)
    long = [full.get(head, head) + equals + value for head, equals, value in heads]
    return [written for token in long for written in runs.expand_seeds(token)]


def _apply(config: Config, tokens: Sequence[str], source: str) -> Config:
    """Parses tokens over a configuration; every error becomes one line."""
    if not tokens:
        return config
    tokens = _in_full(tokens, config)
    _check_names(tokens, config, source)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                type(config), default=config, args=list(tokens), prog="python -m roml_jax.train",
                description=_help(),
            )  # fmt: skip
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise ConfigError(source + one_line(said.getvalue())) from None
    except ValueError as error:  # of options without a prefix, which the parser does not frame
        raise ConfigError(f"{source}{error}") from None


def _help() -> str:
    return f"""Trains a meta-learner that is robust to its hardest tasks (RoML).

Example: python -m roml_jax.train --env khazad_dum --sampler cem --frames 2e6 --seeds 0 1 2

Environments: {", ".join(envs.names())}.
Samplers: {", ".join(samplers.names())}. Agents: {", ".join(agents.names())}.

Defaults are the paper's for the chosen environment. The run's folder gets config.yaml, metrics.jsonl
and a checkpoint of the whole state, from which --resume goes on; nothing is ever overwritten. The
options below are those of the environment, sampler and agent that the command names."""


def import_modules(names: Sequence[str]) -> None:
    """Imports modules for what they register.

    Raises:
        ConfigError: for one that cannot be imported, or that registers nothing; one line.
    """

    def registered() -> set[tuple[str, str]]:
        return {(kind.__name__, name) for kind in (envs, agents, samplers) for name in kind.names()}

    for name in names:
        known, before = name in sys.modules, registered()
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module of somebody else's may raise
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"--import {name} failed: {what}") from None
        if not known and registered() == before:
            del sys.modules[name]  # so that the next attempt hears the same
            raise ConfigError(f"--import {name} registers nothing; roml_jax.envs.register(NAME, maker) does")


def parse(argv: Sequence[str]) -> Config:
    """A configuration from command-line tokens, presets and ``--config``.

    Raises:
        ConfigError: for a wrong option, type or value, or a module that cannot be imported; one line.
        UnknownNameError: for an unknown environment, sampler or agent; one line.
        SystemExit: with code 0 after --help.
    """
    resume = named(argv, "resume")
    file = named(argv, "config") if resume is None else _file_of(resume, argv)
    in_file = dict(flatten(read_yaml(named_file(file)))) if file else {}
    import_modules([*listed(_tokens(in_file), "--imports"), *listed(argv, "--imports", "--import")])
    written_for = {
        name: str(in_file.get(name, getattr(Config, name))) for name in ("env", "sampler", "agent")
    }
    names = {name: named(argv, name) or default for name, default in written_for.items()}
    config = schema(**names)()
    known = to_mapping(config)
    # an environment's preset speaks of its paper's sampler and agent; others have options of their own
    options = _without(preset(names["env"]), "sampler", known)
    options = _for_agent(options, names, Config.agent, known)
    options |= _without(preset(names["agent"], f"{names['env']}_{names['agent']}"), "sampler", known)
    for component in ("env", "sampler"):
        if names[component] != written_for[component]:
            in_file = _without(in_file, component, known)
    if names["agent"] != written_for["agent"]:
        in_file = _for_agent(in_file, names, written_for["agent"], known)
    config = _apply(config, _tokens(options), f"preset {names['env']}: ")
    config = _apply(config, _tokens(in_file), f"{file}: ")
    asked = _apply(config, list(argv), "")
    if resume is not None:
        check_same(to_mapping(config), to_mapping(asked), FREE, f"--resume {resume}")
    return asked


def _file_of(resume: str, argv: Sequence[str]) -> str:
    """The configuration of a run that is to go on."""
    for name in ("config", "out"):
        if named(argv, name) is not None:
            raise ConfigError(f"--resume goes on in {resume} with its own options: leave out --{name}")
    file = Path(resume) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"--resume {resume}: there is no run, {file} does not exist")
    return str(file)


def make(env: str = "khazad_dum", sampler: str = "cem", agent: str = "varibad", **options: Any) -> Config:
    """A configuration in code: names, and options by dotted name (``**{"ppo.lr": 1e-3}``).

    Raises:
        ConfigError: as ``parse``.
        UnknownNameError: as ``parse``.
    """
    return parse(_tokens({"env": env, "sampler": sampler, "agent": agent, **options}))


def with_options(config: Config, options: Mapping[str, Any]) -> Config:
    """The same configuration with some options changed, by dotted name.

    Raises:
        ConfigError: as ``parse``.
    """
    return _apply(config, _tokens(options), "")


__all__ = [
    "Config", "ConfigError", "EvalConfig", "UnknownNameError", "make", "parse", "to_mapping", "with_options",
]  # fmt: skip
