"""The experiments: methods, their variants, environments, and groups of seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from roml_jax.errors import unknown


class Method(NamedTuple):
    """A training method.

    Attributes:
        title: for tables.
        sampler: name of the sampler.
        agent: name of the agent.
        baseline: name of the method that it is compared with; None for a baseline.
        options: command-line options, in addition to the environment's preset.
    """

    title: str
    sampler: str
    agent: str = "varibad"
    baseline: str | None = None
    options: tuple[str, ...] = ()


# Options of all methods on VariBAD that differ from the paper's: a replay buffer of 10,000 trajectories would
# take 0.5 GiB per seed in every checkpoint.
OPTIONS = ("--vae.buffer-trajectories", "1000")

PAPER = {
    "varibad": Method("VariBAD", "uniform", options=OPTIONS),
    "roml": Method("RoML", "cem", baseline="varibad", options=OPTIONS),
    "cvar_ml": Method("CVaR-ML", "tail", baseline="varibad", options=OPTIONS),
}

# All other agents, with and without RoML.
_OTHERS = {"rl2": "RL2", "maml": "MAML", "pearl": "PEARL", "oracle": "Oracle", "multitask": "Multitask"}

# PEARL's half-cheetahs, small enough for two cores.
_SMALL = ("--config", "cheetah_vel_pearl_small")

METHODS = {
    **PAPER,
    **{agent: Method(title, "uniform", agent) for agent, title in _OTHERS.items()},
    **{f"roml_{agent}": Method(f"RoML-{title}", "cem", agent, agent) for agent, title in _OTHERS.items()},
    "pearl_small": Method("PEARL, small", "uniform", "pearl", options=_SMALL),
    "roml_pearl_small": Method("RoML-PEARL, small", "cem", "pearl", "pearl_small", _SMALL),
}

# Variants that are settings, not ablations: methods with the same settings are compared with each other.
SETTINGS = {
    "replay10000": ("--vae.buffer-trajectories", "10000"),
    "reference_contacts": ("--env.contacts", "reference"),
}

# Each variant changes one choice of the reference; it follows a method's name, as in roml+reset.
VARIANTS = {
    **SETTINGS,
    "reset": ("--protocol.boundary", "reset"),
    "credit": ("--ppo.credit", "task"),
    "kl": ("--vae.kl-weight", "0.1"),
    "batch64": ("--sampler.batch-size", "64"),
    "batch256": ("--sampler.batch-size", "256"),
    "share20": ("--sampler.min-share", "0.2"),
    "clip10": ("--sampler.weight-clip", "10"),
    "vae3": ("--vae.updates", "3"),
    "anneal": ("--ppo.anneal-lr",),
    "entropy02": ("--ppo.entropy-coef", "0.02"),
}

GROUP = 5  # default of --group: seeds per program and checkpoint


def method(name: str) -> Method:
    """A method from its name, variants included.

    Raises:
        ConfigError: for an unknown method or variant; one line.
    """
    base, *variants = name.split("+")
    if base not in METHODS:
        raise unknown("method", base, METHODS)
    result = METHODS[base]
    for variant in variants:
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS)
        result = result._replace(
            title=f"{result.title}, {variant.replace('_', ' ')}",
            options=(*result.options, *VARIANTS[variant]),
        )
    return result


def split(name: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Splits a method's name into (base, settings, ablations)."""
    base, *variants = name.split("+")
    settings = tuple(variant for variant in variants if variant in SETTINGS)
    return base, settings, tuple(variant for variant in variants if variant not in SETTINGS)


def is_ablation(name: str) -> bool:
    """Whether a method's name contains an ablation."""
    return bool(split(name)[2])


def baseline(name: str) -> str | None:
    """The name of the method that a method is compared with, with the same settings; None for a baseline.

    An ablation is compared with the same method without ablations.
    """
    base, settings, ablations = split(name)
    compared = base if ablations else METHODS[base].baseline
    return None if compared is None else "+".join([compared, *settings])


def place(name: str) -> tuple[int, str]:
    """Sort key of a method in a table: the order of ``METHODS``, then the name with its variants."""
    return list(METHODS).index(name.split("+")[0]), name


class Group(NamedTuple):
    """Seeds of a method that are trained in one program."""

    env: str
    method: str
    frames: str
    seeds: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """The group's path, relative to the folder of runs and to the folder of results."""
        frames = "" if self.frames == "paper" else f"-{float(self.frames):g}".replace("e+0", "e")
        first, last = self.seeds[0], self.seeds[-1]
        is_range = self.seeds == tuple(range(first, last + 1))
        seeds = f"{first}-{last}" if is_range else "_".join(map(str, self.seeds))
        return Path(f"{self.env}{frames}") / self.method / f"seeds_{seeds}"

    def without(self, seeds: Collection[int]) -> Group | None:
        """The group's other seeds; None if it has no others."""
        rest = tuple(seed for seed in self.seeds if seed not in seeds)
        return self._replace(seeds=rest) if rest else None

    @property
    def options(self) -> list[str]:
        """The group's options on the training's command line."""
        chosen = method(self.method)
        frames = [] if self.frames == "paper" else ["--frames", self.frames]
        return [
            "--env", self.env, "--sampler", chosen.sampler, "--agent", chosen.agent, *frames,
            *chosen.options, "--seeds", *map(str, self.seeds),
        ]  # fmt: skip


def groups(env: str, methods: Sequence[str], seeds: int, frames: str, size: int = GROUP) -> Iterator[Group]:
    """All groups of some methods; methods alternate, so that they can be compared at any time."""
    for start in range(0, seeds, size):
        for name in methods:
            yield Group(env, name, frames, tuple(range(start, min(start + size, seeds))))


class Part(NamedTuple):
    """A part of a campaign: methods on an environment."""

    env: str
    methods: tuple[str, ...]
    seeds: int
    frames: str
    group: int


def _pair(*settings: str) -> tuple[str, ...]:
    return tuple("+".join([name, *settings]) for name in ("varibad", "roml"))


# RoML on robots, in order of priority.
CAMPAIGN = (
    Part("cheetah_mass", (*_pair(), *_pair("reference_contacts")), 10, "2e6", GROUP),
    Part("cheetah_mass", _pair("replay10000"), 8, "paper", 4),
    Part("khazad_dum", ("roml", "roml+batch256", "roml+vae3", "roml+batch256+vae3"), 30, "2e6", GROUP),
    Part("khazad_dum", _pair("replay10000"), 30, "paper", GROUP),
    Part("khazad_dum", ("cvar_ml+replay10000",), 30, "paper", GROUP),
    Part("cheetah_mass", _pair("replay10000", "reference_contacts"), 8, "paper", 4),
)


def campaign() -> Iterator[Group]:
    """All groups of the campaign, in order."""
    for part in CAMPAIGN:
        yield from groups(part.env, part.methods, part.seeds, part.frames, part.group)
