"""Loads a run's learners from its folder, for evaluation, reports, rendering and deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from roml_jax import config as configs
from roml_jax import envs, experiment
from roml_jax.config import WHICH, Config, seed_plan
from roml_jax.errors import ConfigError, unknown
from roml_jax.run import folder as run_folder


@jax.jit  # one program for all seeds: slices outside of it compile one by one
def _one(learner: Any, place: int) -> Any:
    return jax.tree.map(lambda x: x[place], learner)


class Saved(NamedTuple):
    """The learners of a run, one for each of its R seeds.

    Attributes:
        folder: the run's folder.
        config: the run's configuration, with ``mesh`` set to "none".
        parts: the run's functions.
        which: "last", "best_mean" or "best_cvar".
        iterations: (R,) the number of iterations after which each learner was saved.
        learner: acting parameters of the learners, leaves (R, ...), also if R = 1.
    """

    folder: Path
    config: Config
    parts: experiment.Experiment
    which: str
    iterations: np.ndarray
    learner: Any

    def one(self, place: int) -> Any:
        """The acting parameters of one seed's learner.

        Args:
            place: position of the seed in ``config.plan``.
        """
        return _one(self.learner, place)

    def place(self, name: str | int | None = None) -> int:
        """The position of a seed in ``config.plan``.

        Args:
            name: the seed, or after a sweep its label as shown in tables (``0, ppo.lr=0.0003``); None for the
                first seed.

        Raises:
            ConfigError: if no seed or several seeds match; one line that lists the labels.
        """
        labels = [seed.label for seed in self.config.plan]
        if name is None:
            return 0
        spelled = str(name).replace(" ", "")
        for spellings in (labels, [str(seed.seed) for seed in self.config.plan]):
            places = [i for i, label in enumerate(spellings) if label.replace(" ", "") == spelled]
            if len(places) == 1:
                return places[0]
        count = "more than one seed" if places else "no seed"
        raise ConfigError(f"{self.folder} has {count} {str(name)!r}; its seeds are: {'; '.join(labels)}")


def load(folder: Path | str, which: str = "last", env: envs.Env | None = None) -> Saved:
    """Loads the learners of a run, finished or not, onto this process's first device.

    Args:
        folder: the run's folder.
        which: "last", or the best on the validation tasks: "best_mean", "best_cvar".
        env: the run's environment; required only if it is an object that no module registers.

    Raises:
        ConfigError: if the run, its checkpoint or the learner does not exist or is damaged; one line.
    """
    # imported here, because orbax takes half a second to import: the demos load policies without it
    from roml_jax.run import best as best_learners
    from roml_jax.run import checkpoint

    folder = Path(folder)
    if which not in WHICH:
        raise unknown("learner", which, WHICH)
    run_folder.check(folder)
    if checkpoint.latest(folder / run_folder.CHECKPOINT) is None:
        raise ConfigError(f"{folder} has no checkpoint yet")
    config = configs.read(folder / run_folder.CONFIG, env)
    parts = experiment.make(config, env)
    shapes = jax.eval_shape(parts.train.init, *seed_plan.leaves(config.plan))
    acting, num_seeds = parts.learner.acting(shapes.learner), len(config.plan)

    def read(path: Path) -> tuple[Any, np.ndarray]:
        if which == "last":
            iteration = checkpoint.about(path)["iteration"]
            return checkpoint.restore(path, which, acting), np.full(num_seeds, iteration)
        snapshot = checkpoint.restore(path, which, best_learners.start(acting, num_seeds).mean)
        if not np.isfinite(np.asarray(snapshot.score)).all():
            raise ConfigError(f"{folder} has no {which}: the run was not evaluated yet")
        return snapshot.acting, np.asarray(snapshot.iteration)

    path = checkpoint.latest(folder / run_folder.CHECKPOINT) or folder
    try:
        learner, iterations = read(path)
    except checkpoint.CheckpointError as error:
        newer = checkpoint.latest(folder / run_folder.CHECKPOINT)
        if newer is None or newer == path:
            raise ConfigError(str(error)) from None
        learner, iterations = read(newer)  # the run goes on, and had replaced the one that was being read
    if num_seeds == 1:
        learner = jax.tree.map(lambda x: x[None], learner)
    return Saved(folder, config, parts, which, iterations, learner)


def check_comparable(first: Saved, second: Saved) -> None:
    """Refuses two runs that cannot be compared on the same tasks.

    Raises:
        ConfigError: if the runs differ in environment, episodes, steps or inner steps; one line.
    """
    for name, what in (("env", "environments"), ("env_options", "options of the environment")):
        if getattr(first.config, name) != getattr(second.config, name):
            raise ConfigError(f"{first.folder} and {second.folder} have different {what}")
    specs = [run.config.protocol.agent_spec(run.parts.env.spec) for run in (first, second)]
    episodes = [run.config.protocol.tested(run.parts.env.spec) for run in (first, second)]
    if len({(spec.episodes, spec.horizon) for spec in specs}) > 1 or len(set(episodes)) > 1:
        raise ConfigError(f"{first.folder} and {second.folder} have different numbers of episodes or steps")
    if first.parts.learner.inner_steps != second.parts.learner.inner_steps:
        raise ConfigError(f"{first.folder} and {second.folder} are tested after other numbers of inner steps")


def short_names(first: Path, second: Path) -> tuple[str, str]:
    """The names of two runs' folders, or their paths if the names are the same."""
    names = first.resolve().name, second.resolve().name
    return names if names[0] != names[1] else (str(first), str(second))
