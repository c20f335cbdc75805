"""What is run: methods, their variants, environments, and in which groups of seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from roml_jax.registry import unknown


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

# One choice of the reference changed each; written behind a method's name, as in roml+reset.
VARIANTS = {
    "reset": ("--protocol.boundary", "reset"),
    "credit": ("--ppo.credit", "task"),
    "kl": ("--vae.kl-weight", "0.1"),
    "batch64": ("--sampler.batch-size", "64"),
    "batch256": ("--sampler.batch-size", "256"),
    "share20": ("--sampler.min-share", "0.2"),
    "clip10": ("--sampler.weight-clip", "10"),
    "replay10000": ("--vae.buffer-trajectories", "10000"),
    "vae3": ("--vae.updates", "3"),
    "anneal": ("--ppo.anneal-lr",),
    "entropy02": ("--ppo.entropy-coef", "0.02"),
}

GROUP = 5  # seeds per program; a checkpoint has their whole state


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
            title=f"{made.title}, {variant}", baseline=base, options=(*made.options, *VARIANTS[variant])
        )
    return made


def is_variant(name: str) -> bool:
    """Whether a method's name has variants behind it."""
    return "+" in name


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


def groups(env: str, methods: Sequence[str], seeds: int, frames: str) -> Iterator[Group]:
    """All that there is to run; methods in turn, so that what is there at any time compares."""
    for start in range(0, seeds, GROUP):
        for name in methods:
            yield Group(env, name, frames, tuple(range(start, min(start + GROUP, seeds))))
