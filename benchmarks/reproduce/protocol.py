"""What is run: methods, their variants, environments, and in which groups of seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from roml_jax.errors import unknown


class Method(NamedTuple):
    """A way to train.

    Attributes:
        title: for tables.
        sampler: its name.
        agent: its name.
        baseline: the method that it is compared with; None for what others are compared with.
        options: beside the environment's own.
    """

    title: str
    sampler: str
    agent: str = "varibad"
    baseline: str | None = None
    options: tuple[str, ...] = ()


# Of all methods on VariBAD, where they are not the paper's: a replay of 10,000 trajectories would be 0.5 GiB
# a seed in every checkpoint.
OPTIONS = ("--vae.buffer-trajectories", "1000")

PAPER = {
    "varibad": Method("VariBAD", "uniform", options=OPTIONS),
    "roml": Method("RoML", "cem", baseline="varibad", options=OPTIONS),
    "cvar_ml": Method("CVaR-ML", "tail", baseline="varibad", options=OPTIONS),
}

# The same question of every other agent.
_OTHERS = {"rl2": "RL2", "maml": "MAML", "pearl": "PEARL", "oracle": "Oracle", "multitask": "Multitask"}

# PEARL's half-cheetahs as two cores can train them.
_SMALL = ("--config", "cheetah_vel_pearl_small")

METHODS = {
    **PAPER,
    **{agent: Method(title, "uniform", agent) for agent, title in _OTHERS.items()},
    **{f"roml_{agent}": Method(f"RoML-{title}", "cem", agent, agent) for agent, title in _OTHERS.items()},
    "pearl_small": Method("PEARL, small", "uniform", "pearl", options=_SMALL),
    "roml_pearl_small": Method("RoML-PEARL, small", "cem", "pearl", "pearl_small", _SMALL),
}

# What runs are called by that differ in nothing that is compared: methods with the same ones are paired.
SETTINGS = {
    "replay10000": ("--vae.buffer-trajectories", "10000"),
    "reference_contacts": ("--env.contacts", "reference"),
}

# One choice of the reference changed each; written behind a method's name, as in roml+reset.
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

GROUP = 5  # seeds per program, unless --group says otherwise; a checkpoint has their whole state


def method(name: str) -> Method:
    """A method from its name, variants included.

    Raises:
        ConfigError: for one that is not known; one line.
    """
    base, *variants = name.split("+")
    if base not in METHODS:
        raise unknown("method", base, METHODS)
    made = METHODS[base]
    for variant in variants:
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS)
        made = made._replace(
            title=f"{made.title}, {variant.replace('_', ' ')}", options=(*made.options, *VARIANTS[variant])
        )
    return made


def split(name: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """A method's name as its base, the settings behind it and the ablations behind it."""
    base, *variants = name.split("+")
    settings = tuple(variant for variant in variants if variant in SETTINGS)
    return base, settings, tuple(variant for variant in variants if variant not in SETTINGS)


def is_ablation(name: str) -> bool:
    """Whether a method's name has a changed choice of the reference behind it."""
    return bool(split(name)[2])


def baseline(name: str) -> str | None:
    """The method that another is compared with: of the same settings; None for a baseline itself.

    An ablation is compared with its method without the ablations.
    """
    base, settings, ablations = split(name)
    compared = base if ablations else METHODS[base].baseline
    return None if compared is None else "+".join([compared, *settings])


def place(name: str) -> tuple[int, str]:
    """Where a method stands in a table: in the order of ``METHODS``, variants behind it."""
    return list(METHODS).index(name.split("+")[0]), name


class Group(NamedTuple):
    """Seeds of a method that are trained in one program."""

    env: str
    method: str
    frames: str
    seeds: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """Where it is, within the folder of runs and within that of results."""
        frames = "" if self.frames == "paper" else f"-{float(self.frames):g}".replace("e+0", "e")
        return Path(f"{self.env}{frames}") / self.method / f"seeds_{self.seeds[0]}-{self.seeds[-1]}"

    @property
    def options(self) -> list[str]:
        """For the training's command line."""
        made = method(self.method)
        frames = [] if self.frames == "paper" else ["--frames", self.frames]
        return [
            "--env", self.env, "--sampler", made.sampler, "--agent", made.agent, *frames, *made.options,
            "--seeds", *map(str, self.seeds),
        ]  # fmt: skip


def groups(env: str, methods: Sequence[str], seeds: int, frames: str, size: int = GROUP) -> Iterator[Group]:
    """All that there is to run; methods in turn, so that what is there at any time compares."""
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


# RoML on robots, in order of priority. Groups of robots are small, since one that is lost starts again.
CAMPAIGN = (
    Part("cheetah_mass", (*_pair(), *_pair("reference_contacts")), 10, "2e6", 2),
    Part("cheetah_mass", _pair("replay10000"), 8, "paper", 2),
    Part("khazad_dum", ("roml", "roml+batch256", "roml+vae3", "roml+batch256+vae3"), 30, "2e6", GROUP),
    Part("khazad_dum", _pair("replay10000"), 30, "paper", GROUP),
    Part("khazad_dum", ("cvar_ml+replay10000",), 30, "paper", GROUP),
    Part("cheetah_mass", _pair("replay10000", "reference_contacts"), 8, "paper", 2),
)


def campaign() -> Iterator[Group]:
    """All groups of the campaign, in order."""
    for part in CAMPAIGN:
        yield from groups(part.env, part.methods, part.seeds, part.frames, part.group)
