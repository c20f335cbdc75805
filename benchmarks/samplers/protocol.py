"""The comparison's protocol: test beds, the samplers' options on each, and what every result contains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

LEVELS = (0.01, 0.05, 0.1, 0.2)  # risk levels of the tables

# A run has ten thousand tasks: the published buffer of 1,000 would be replayed from only after a twentieth of
# it, and a task once in ten iterations.
_BUFFER = {"sampler.buffer": 128}

# Options that are not the defaults, each for a reason that docs/samplers.md gives.
OPTIONS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "cem": {},
    "cem_soft": {},
    "oracle": {},
    "naive": {},
    "tail": {},
    "tail_soft": {},
    "gdrm": {"sampler.standardise": True, "sampler.eta": 1.0},
    "mpts": {},
    "pdts": {},
    "plr": _BUFFER,
    "accel": _BUFFER,
    "sfl": {},
    "doraemon": {},
    "autodr": {},
}
# On a robot, sfl's first scoring pass of the default size would take two thirds of a million frames.
ROBOTS = OPTIONS | {
    "sfl": {"sampler.candidates": 64, "sampler.rollouts": 3, "sampler.top": 16, "sampler.every": 30}
}
# Variants of RoML (benchmarks.samplers.ideas), beside what they are compared with. ``cem_weighted`` is in the
# package since, and on these beds only.
IDEAS: dict[str, dict[str, Any]] = {
    "cem": {},
    "gdrm": OPTIONS["gdrm"],
    "pdts": {},
    "cem_weighted": {},
    "cem_stratified": {},
    "cem_mixture": {},
    "cem_control": {},
}
WITH_THRESHOLDS = ("doraemon", "autodr")
_SUCCESS, _FAILURE = 0.5, 0.25  # shares of uniform's test tasks below the thresholds
_WITHOUT_CRITIC = ("maml", "pearl")


class Bed(NamedTuple):
    """An environment and an agent on which all samplers are compared.

    Attributes:
        title: for tables.
        env: name of the environment.
        agent: name of the agent.
        seeds: number of seeds.
        frames: per seed, those of scoring passes included.
        unit: what the returns are, for the figures.
        first_only: whether a task's return is that of its first column (regression: minus the loss after one
            step), as for the sampler in training; otherwise it is the mean over the episodes.
        options: training options, in addition to the environment's preset.
        samplers: those that are compared, with their options.
        baselines: those that the others' differences are taken from.
        group: seeds of one program; None for all.
    """

    title: str
    env: str
    agent: str
    seeds: int
    frames: float
    unit: str = "return per episode"
    first_only: bool = False
    options: Mapping[str, Any] = {}
    samplers: Mapping[str, Mapping[str, Any]] = OPTIONS
    baselines: tuple[str, ...] = ("uniform", "cem")
    group: int | None = None

    @property
    def groups(self) -> list[range]:
        """The seeds of each program."""
        size = self.group or self.seeds
        return [range(first, min(first + size, self.seeds)) for first in range(0, self.seeds, size)]

    def by_task(self, returns: np.ndarray) -> np.ndarray:
        """Returns of tasks (...) from those of their episodes (..., K)."""
        return returns[..., 0] if self.first_only else returns.mean(axis=-1)

    def scale(self, episodes: int) -> int:
        """What a task's return is multiplied by for the score that the sampler gets in training."""
        return 1 if self.first_only else episodes


_REPLAY = {"vae.buffer_trajectories": 1000}


def _robot(title: str, env: str, agent: str, seeds: int = 5, frames: float = 1e6) -> Bed:
    options = _REPLAY if agent == "varibad" else {}
    return Bed(title, env, agent, seeds, frames, options=options, samplers=ROBOTS)


BEDS = {
    "khazad_dum": Bed("KhazadDum, VariBAD", "khazad_dum", "varibad", 10, 2e6, options=_REPLAY),
    "sine": Bed(
        "sine regression, MAML",
        "sine",
        "maml",
        10,
        4e6,
        "-loss after one step",
        first_only=True,
        options={"eval.test_tasks": 2000},
    ),
    "hopper_multitask": _robot("hopper, multitask", "hopper_dynamics", "multitask"),
    "walker2d_multitask": _robot("walker2d, multitask", "walker2d_dynamics", "multitask"),
    "hopper_varibad": _robot("hopper, VariBAD", "hopper_dynamics", "varibad"),
    "walker2d_varibad": _robot("walker2d, VariBAD", "walker2d_dynamics", "varibad"),
    "cheetah_vel": _robot("half-cheetah velocity, VariBAD", "cheetah_vel", "varibad", 3, 2e6),
}

_IDEAS = {"seeds": 20, "samplers": IDEAS, "baselines": ("cem",), "group": 10}
IDEA_BEDS = {
    f"{name}_ideas": BEDS[name]._replace(title=f"{BEDS[name].title}: variants of RoML", **_IDEAS)
    for name in ("khazad_dum", "hopper_multitask")
}
ALL_BEDS = BEDS | IDEA_BEDS


def thresholds(bed: Bed, uniform: np.ndarray, episodes: int) -> tuple[float, float]:
    """(failure, success): the scores below which a quarter and half of the tasks of ``uniform`` lie.

    Args:
        bed: the test bed.
        uniform: (seeds, tasks) test returns of ``uniform``. The frames of that run are not counted.
        episodes: per task.
    """
    scores = uniform.mean(axis=0) * bed.scale(episodes)
    failure, success = (float(f"{np.quantile(scores, q):.6g}") for q in (_FAILURE, _SUCCESS))
    return failure, success


def options(bed: Bed, sampler: str, limits: tuple[float, float] | None) -> dict[str, Any]:
    """The options of a sampler on a bed, those of the bed included.

    Args:
        bed: the test bed.
        sampler: name of the sampler.
        limits: the thresholds (failure, success) of ``doraemon`` and ``autodr``; others do not need them.

    Raises:
        ValueError: without ``limits`` for a sampler that needs them.
    """
    chosen = dict(bed.options) | dict(bed.samplers[sampler])
    if sampler in ("plr", "accel") and bed.agent in _WITHOUT_CRITIC:
        chosen["sampler.score"] = "regret"
    if sampler in WITH_THRESHOLDS:
        if limits is None:
            raise ValueError(f"{sampler} needs thresholds from the returns of uniform: run uniform first")
        chosen["sampler.success"] = limits[1]
        if sampler == "autodr":
            chosen["sampler.failure"] = limits[0]
    return chosen
