"""The options of a training run, as frozen dataclasses.

Options of the chosen environment and sampler have the prefixes ``env.`` and ``sampler.``. Options of the
agent have no common prefix (``ppo.lr``). The text below each field is its ``--help`` text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from roml_jax import agents, checks, envs, samplers
from roml_jax.config import seed_plan, values
from roml_jax.errors import ConfigError
from roml_jax.registry import NoOptions, leaf, options_class
from roml_jax.rollout import EpisodeProtocol

_EVALUATIONS = 4  # the least number in a run, however short
Which = Literal["last", "best_mean", "best_cvar"]
"""A learner of a run: the last, or the best on the validation tasks by mean or by CVaR."""
WHICH: tuple[str, ...] = get_args(Which)


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation with greedy actions on held-out tasks, which are fixed draws from the prior."""

    interval: int | None = None
    """Iterations between evaluations during training; 0 for no evaluation before the final test. By default
    the environment steps of the evaluations are a tenth of those of training. In a short run the interval is
    shortened to a quarter of the run, so that there are at least four evaluations."""
    tasks: int = 256
    """Number of validation tasks, used in each evaluation during training and to choose the best learners."""
    test_tasks: int = 1000
    """Number of tasks in the final test."""
    seed: int = 20231110
    """Random seed of the held-out tasks. They are the same for every method and training seed."""

    def __post_init__(self) -> None:
        checks.at_least(self, "eval", 0, "interval", "seed")
        checks.at_least(self, "eval", 1, "tasks", "test_tasks")
        if self.seed >= 2**32:  # JAX would cut it to 32 bits without a word
            raise ValueError(f"eval.seed must be between 0 and 2^32 - 1, got {self.seed}")

    @property
    def validates(self) -> bool:
        """Whether a run is evaluated before its final test."""
        return self.interval != 0

    def every(self, num_tasks: int, num_iterations: int) -> int:
        """Iterations between evaluations; 0 for no evaluations. The last iteration is always evaluated.

        Args:
            num_tasks: tasks per iteration.
            num_iterations: length of the run. A run of four iterations or more is evaluated at least four
                times, a shorter one after every iteration.
        """
        interval = -(-10 * self.tasks // num_tasks) if self.interval is None else self.interval
        quarter = -(-num_iterations // _EVALUATIONS)
        if -(-num_iterations // quarter) < _EVALUATIONS:  # rounding up left out one, as for 9 iterations
            quarter = max(num_iterations // _EVALUATIONS, 1)
        return min(interval, quarter)


@dataclass(frozen=True)
class DistributedConfig:
    """One run on several processes, each with its own devices. Start every process with the same options."""

    auto: bool = False
    """Detect the coordinator, the number of processes and this process's index from the cluster (SLURM,
    Open MPI, TPU pod)."""
    coordinator: str | None = None
    """HOST:PORT of process 0; required without --distributed.auto."""
    processes: int | None = None
    """Number of processes; required without --distributed.auto."""
    process_id: int | None = None
    """Index of this process, from 0; required without --distributed.auto. Only process 0 prints."""

    def __post_init__(self) -> None:
        checks.at_least(self, "distributed", 1, "processes")
        checks.at_least(self, "distributed", 0, "process_id")


@dataclass(frozen=True)
class Config:
    """The configuration of a training run."""

    env: str = "khazad_dum"
    """Environment to train on; its options are --env.*"""
    sampler: str = "cem"
    """Sampler of the training tasks: 'cem' (RoML), 'uniform' (no robustness) or another; its options are
    --sampler.*"""
    agent: str = "varibad"
    """Meta-learner to train."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds, e.g. 0,1,2 or 0..29. One learner is trained per seed, all in one program."""
    sweep: tuple[str, ...] = ()
    """Options to vary, e.g. ppo.lr=3e-4,7e-4 alpha=0.01,0.05. One learner is trained for each combination of
    values and each seed, all in one program."""
    frames: float = 1e6
    """Environment steps to train for, per seed; rounded down to whole iterations. With --resume it is the new
    total, including what is done."""
    alpha: float = leaf(0.05)
    """Risk level, in (0, 1]: the objective is the mean return over the worst share alpha of tasks (CVaR)."""
    num_tasks: int = 16
    """Number of tasks per iteration; each task is run for all its episodes."""
    chunk: int = 10
    """Iterations per call of the compiled program; progress is shown after each call."""
    imports: tuple[str, ...] = ()
    """Python modules that register further environments, agents or samplers; imported first."""
    out: Path | None = None
    """New folder of the run; by default runs/ENV-SAMPLER-TIME."""
    resume: Path | None = None
    """Folder of a run, stopped or finished. Training resumes from its last checkpoint, with the run's own
    options; with another --frames, it goes on to that total."""
    init_from: Path | None = None
    """Folder of a run from whose learner's parameters and statistics this run starts. The agent and the sizes
    of its networks must be the same; tasks, sampler and options of the environment may differ."""
    which: Which | None = None
    """The learner of --init-from: last (the default), or the best on the validation tasks, best_mean or
    best_cvar."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints. One is also written at the end and when the run is stopped."""
    plot: bool = False
    """Plot the returns in the terminal during training."""
    log: tuple[str, ...] = ()
    """Further outputs of the metrics, besides metrics.jsonl: tensorboard, wandb."""
    config: Path | None = None
    """YAML file of options, e.g. another run's config.yaml, or the name of a preset in the package."""
    compile_cache: bool = True
    """Cache compiled programs in the user's cache folder, so that later runs start faster."""
    mesh: str = "auto"
    """Mesh of devices: 'auto' divides the seeds first and then the tasks; 'seed=4,task=2' sets the sizes;
    'none' uses one device. On a CPU, the seeds are divided among the cores. The mesh changes results only by
    the order of float additions."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    protocol: EpisodeProtocol = field(default_factory=EpisodeProtocol)
    env_options: Any = field(default_factory=NoOptions)
    agent_options: Any = field(default_factory=NoOptions)
    sampler_options: Any = field(default_factory=NoOptions)

    def __post_init__(self) -> None:
        checks.positive(self, "", "frames", "checkpoint_minutes")
        checks.share(self, "", "alpha", zero=False)
        checks.at_least(self, "", 1, "num_tasks", "chunk")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be one or more distinct numbers, got {list(self.seeds)}")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"seeds must be between 0 and 2^32 - 1, got {list(self.seeds)}")
        seed_plan.parse_sweep(self.sweep)
        if self.which is not None and self.init_from is None:
            raise ValueError(f"which={self.which} is the learner of another run: it needs init_from=RUN")

    @property
    def plan(self) -> tuple[seed_plan.Seed, ...]:
        """All combinations of swept settings and seeds, trained in one program."""
        return seed_plan.plan(self.seeds, self.sweep)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The risk level of every seed of ``plan``: its own in a sweep of alpha."""
        return tuple(seed.settings.get("alpha", self.alpha) for seed in self.plan)


# Field with a component's options: (field with the component's name, prefix of the option names).
_COMPONENTS = {
    "env_options": ("env", "env"),
    "agent_options": ("agent", ""),
    "sampler_options": ("sampler", "sampler"),
}
# Options that do not affect the results; they may differ on another machine and are not saved.
_NOT_SAVED = ("out", "config", "resume", "plot", "mesh", "distributed")
# Saved options that may change when a run is resumed.
FREE = ("checkpoint_minutes", "log", "compile_cache")
# Saved options whose new value a resumed run checks against what is done.
_TOTAL = ("frames",)
ALIASES = {"seed": "seeds", "import": "imports"}
SHORT = {"physics": "env.physics"}
COMPONENTS = ("env", "sampler", "agent")


def rename(name: str) -> str:
    """The part that a field of Config adds to a dotted option name; "" for no part."""
    return _COMPONENTS[name][1] if name in _COMPONENTS else name


def _refuse_taken(agent: str, options: type) -> None:
    """An agent's options have no prefix, so one of the run's names would stand for both in its files."""
    taken = {one.name for one in dataclasses.fields(Config)} | {*ALIASES, *SHORT, *COMPONENTS}
    for one in dataclasses.fields(cast(Any, options)):
        if one.name in taken:
            raise ConfigError(
                f"agent {agent!r} has an option {one.name!r}, which every run has; call it otherwise"
            )


def schema(names: Mapping[str, str], env: envs.Env | None = None) -> type[Config]:
    """A subclass of Config with the option types and defaults of the named components.

    Args:
        names: names of the components, by "env", "sampler" and "agent".
        env: an environment object, which has no options, used instead of the registered environment.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: for an agent with an option that has the name of one of the run's; one line.
    """
    constructors: dict[str, Any] = {
        "env": envs.get(names["env"]) if env is None else env,
        "sampler": samplers.get(names["sampler"]),
    }
    constructors["agent"] = agents.get(names["agent"], constructors["env"])
    _refuse_taken(names["agent"], options_class(constructors["agent"]))
    fields: list[Any] = []
    for name, (component, _) in _COMPONENTS.items():
        is_object = component == "env" and env is not None
        options = NoOptions if is_object else options_class(constructors[component])
        fields.append((name, options, field(default_factory=options)))
    fields += [(name, str, field(default=names[name])) for name in COMPONENTS]
    return cast(type[Config], dataclasses.make_dataclass("Config", fields, bases=(Config,), frozen=True))


def every_option(config: Config) -> dict[str, Any]:
    """All options by dotted name."""
    return values.as_mapping(config, rename=rename)


def to_mapping(config: Config) -> dict[str, Any]:
    """The options that are saved in a run's folder, by dotted name; see ``_NOT_SAVED``."""
    return {
        name: value for name, value in every_option(config).items() if name.split(".")[0] not in _NOT_SAVED
    }


def check_same(was: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Rejects a resume with other options. Only those in ``FREE`` and the total of frames may change.

    Modules may be added, such as one that registers an environment that was an object when the run began.

    Args:
        was: the saved options, by dotted name.
        now: the requested options, by dotted name.
        what: prefix of the error message.

    Raises:
        ConfigError: if options differ; one line that lists up to five of them.
    """
    may = {*FREE, *_TOTAL}
    if {*(was.get("imports") or ())} <= {*(now.get("imports") or ())}:
        may.add("imports")
    names = [name for name in sorted({*was, *now} - may) if was.get(name) != now.get(name)]
    if names:
        changes = ", ".join(f"{name} was {was.get(name)}, now {now.get(name)}" for name in names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ConfigError(
            f"{what}: options cannot change on resume, but {changes}{more}; use --config for a new run"
        )
