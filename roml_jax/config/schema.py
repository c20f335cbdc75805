"""The options of a training run, as frozen dataclasses.

Options of the chosen environment and sampler are named ``env.`` and ``sampler.``; the agent's stand at the
top level (``ppo.lr``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roml_jax import agents, checks, envs, samplers
from roml_jax.config import seed_plan, values
from roml_jax.errors import ConfigError
from roml_jax.registry import NoOptions, leaf, options_class
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
    seeds: tuple[int, ...] = (0,)
    """One run per seed, written one by one or as 0..29; all are trained together, in one program."""
    sweep: tuple[str, ...] = ()
    """Options that differ between runs, e.g. ppo.lr=3e-4,7e-4 alpha=0.01,0.05: one run per value and
    seed, all of them in one program."""
    frames: float = 1e6
    """Environment steps to train for, per seed (rounded down to whole iterations)."""
    alpha: float = leaf(0.05)
    """Risk level: the learner maximises the mean return over the worst alpha of tasks."""
    num_tasks: int = 16
    """Tasks per iteration; each is met for all its episodes."""
    chunk: int = 10
    """Iterations that run in one go before progress is shown."""
    imports: tuple[str, ...] = ()
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
        seed_plan.parse_sweep(self.sweep)

    @property
    def plan(self) -> tuple[seed_plan.Seed, ...]:
        """The seeds of one program: every setting with every seed."""
        return seed_plan.plan(self.seeds, self.sweep)


# Field of Config that holds a component's options: the field that names the component, prefix of the options.
_COMPONENTS = {
    "env_options": ("env", "env"),
    "agent_options": ("agent", ""),
    "sampler_options": ("sampler", "sampler"),
}
# Where a run is computed and kept says nothing about what it computes: another machine has its own.
_NOT_SAVED = ("out", "config", "resume", "mesh", "distributed")
# What may change when a run is resumed.
FREE = ("checkpoint_minutes", "log", "compile_cache")
ALIASES = {"seed": "seeds", "import": "imports"}
SHORT = {"physics": "env.physics"}
COMPONENTS = ("env", "sampler", "agent")


def rename(name: str) -> str:
    """The name of a field of Config within the names of options."""
    return _COMPONENTS[name][1] if name in _COMPONENTS else name


def schema(names: Mapping[str, str], env: envs.Env | None = None) -> type[Config]:
    """Config with the options of the named components in place of ``Any``.

    Args:
        names: of environment, sampler and agent, by "env", "sampler" and "agent".
        env: an environment of your own, which has no options, in place of the registered one of that name.

    Raises:
        UnknownNameError: for a name that is not registered.
    """
    constructors = {
        "env": envs.get(names["env"]) if env is None else env,
        "sampler": samplers.get(names["sampler"]),
    }
    constructors["agent"] = agents.get(names["agent"], constructors["env"])
    fields: list[Any] = []
    for name, (component, _) in _COMPONENTS.items():
        own = component == "env" and env is not None
        options = NoOptions if own else options_class(constructors[component])
        fields.append((name, options, field(default_factory=options)))
    fields += [(name, str, field(default=names[name])) for name in COMPONENTS]
    return dataclasses.make_dataclass("Config", fields, bases=(Config,), frozen=True)


def every_option(config: Config) -> dict[str, Any]:
    """Every option by its dotted name."""
    return values.as_mapping(config, rename=rename)


def to_mapping(config: Config) -> dict[str, Any]:
    """Every option that says what is computed, by its dotted name, as a run's folder keeps it."""
    return {
        name: value for name, value in every_option(config).items() if name.split(".")[0] not in _NOT_SAVED
    }


def check_same(was: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Refuses to resume with other options; those in ``FREE`` may change.

    Args:
        was: options by dotted name.
        now: those that are asked for.
        what: the line's first words.

    Raises:
        ConfigError: one line, with what differs.
    """
    names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name) and name not in FREE]
    if names:
        told = ", ".join(f"{name} was {was.get(name)}, now {now.get(name)}" for name in names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ConfigError(
            f"{what}: a resumed run keeps its options, but {told}{more}; start a new run with --config"
        )
