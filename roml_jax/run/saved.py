"""A run that was trained, read back from its folder: what evaluation, pictures and deployment begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from roml_jax import config as configs
from roml_jax import envs, experiment
from roml_jax.config import Config, seed_plan
from roml_jax.errors import ConfigError, unknown
from roml_jax.run import best as best_learners
from roml_jax.run import checkpoint
from roml_jax.run import folder as run_folder

Which = Literal["last", "best_mean", "best_cvar"]
WHICH: tuple[str, ...] = get_args(Which)


class Saved(NamedTuple):
    """The learners of a run's folder, one for each of its R seeds.

    Attributes:
        folder: the run's.
        config: as it was trained.
        parts: its functions.
        which: of its learners.
        iterations: (R,) how many each of the learners had made.
        learner: what acts of them, leaves (R, ...), also where R = 1.
    """

    folder: Path
    config: Config
    parts: experiment.Experiment
    which: str
    iterations: np.ndarray
    learner: Any

    def one(self, place: int) -> Any:
        """What acts of one seed's learner."""
        return jax.tree.map(lambda x: x[place], self.learner)

    def place(self, name: str | int | None = None) -> int:
        """The place of one seed among the folder's.

        Args:
            name: the seed; with settings that were swept its label, as tables show it (``0, ppo.lr=0.0003``);
                None for the first.

        Raises:
            ConfigError: for a name that no seed has, or several; one line that lists them.
        """
        labels = [seed.label for seed in self.config.plan]
        if name is None:
            return 0
        wanted = str(name).replace(" ", "")
        for known in (labels, [str(seed.seed) for seed in self.config.plan]):
            places = [i for i, label in enumerate(known) if label.replace(" ", "") == wanted]
            if len(places) == 1:
                return places[0]
        said = "more than one seed" if places else "no seed"
        raise ConfigError(f"{self.folder} has {said} {str(name)!r}; its seeds are: {'; '.join(labels)}")


def load(folder: Path | str, which: str = "last", env: envs.Env | None = None) -> Saved:
    """Reads the learners of a run, finished or not, on this machine's first device.

    Args:
        folder: the run's.
        which: "last", or the best on the validation tasks: "best_mean", "best_cvar".
        env: the run's environment, where it is one of your own that no module registers.

    Raises:
        ConfigError: if there is no run, no checkpoint or no such learner, or one is damaged; one line.
    """
    folder = Path(folder)
    if which not in WHICH:
        raise unknown("learner", which, WHICH)
    path = checkpoint.latest(folder / run_folder.CHECKPOINT)
    if not (folder / run_folder.CONFIG).is_file():
        raise ConfigError(f"{folder} is no run: it has no {run_folder.CONFIG}")
    if path is None:
        raise ConfigError(f"{folder} has no checkpoint yet")
    config = configs.read(folder / run_folder.CONFIG, env)
    parts = experiment.make(config, env)
    shapes = jax.eval_shape(parts.train.init, *seed_plan.leaves(config.plan))
    acting, num_seeds = parts.learner.acting(shapes.learner), len(config.plan)
    try:
        if which == "last":
            learner = checkpoint.restore(path, which, acting)
            iterations = np.full(num_seeds, checkpoint.about(path)["iteration"])
        else:
            snapshot = checkpoint.restore(path, which, best_learners.start(acting, num_seeds).mean)
            learner, iterations = snapshot.acting, np.asarray(snapshot.iteration)
            if not np.isfinite(np.asarray(snapshot.score)).all():
                raise ConfigError(f"{folder} has no {which}: it was not evaluated yet")
    except checkpoint.CheckpointError as error:
        raise ConfigError(str(error)) from None
    if num_seeds == 1:
        learner = jax.tree.map(lambda x: x[None], learner)
    return Saved(folder, config, parts, which, iterations, learner)
