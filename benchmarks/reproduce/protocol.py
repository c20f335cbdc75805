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
        options: beside the environment's own.
    """

    title: str
    sampler: str
    options: tuple[str, ...] = ()


METHODS = {
    "varibad": Method("VariBAD", "uniform"),
    "roml": Method("RoML", "cem"),
    "cvar_ml": Method("CVaR-ML", "tail"),
}

# One choice of the reference undone each; written behind a method's name, as in roml+reset.
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
}


GROUP = 5  # seeds per program; a checkpoint has their whole state
# Of all methods, where they are not the paper's: a replay of 10,000 trajectories would be 0.5 GiB a seed in
# every checkpoint.
OPTIONS = ("--vae.buffer-trajectories", "1000")


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
        made = made._replace(title=f"{made.title}, {variant}", options=(*made.options, *VARIANTS[variant]))
    return made


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
            "--env", self.env, "--sampler", made.sampler, *frames, *OPTIONS, *made.options,
            "--seeds", *map(str, self.seeds),
        ]  # fmt: skip


def groups(env: str, methods: Sequence[str], seeds: int, frames: str) -> Iterator[Group]:
    """All that there is to run; methods in turn, so that what is there at any time compares."""
    for start in range(0, seeds, GROUP):
        for name in methods:
            yield Group(env, name, frames, tuple(range(start, min(start + GROUP, seeds))))
