"""A run that was trained, read back from its folder: what evaluation, pictures and deployment begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from roml_jax import best as best_lib
from roml_jax import checkpoint, experiment, runs
from roml_jax import config as config_lib
from roml_jax import folder as folder_lib
from roml_jax.config import Config, ConfigError
from roml_jax.registry import unknown

Which = Literal["last", "best_mean", "best_cvar"]
WHICH: tuple[str, ...] = get_args(Which)


class Saved(NamedTuple):
    """The learners of a run's folder, one for each of its R runs.

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

    def one(self, run: int) -> Any:
        """What acts of one run's learner."""
        return jax.tree.map(lambda x: x[run], self.learner)

    def place(self, name: str | int | None = None) -> int:
        """The place of one run among the folder's.

        Args:
            name: its seed; with settings that were swept its label, as tables show it (``0, ppo.lr=0.0003``);
                None for the first.

        Raises:
            ConfigError: for a name that no run has, or several; one line that lists them.
        """
        labels = [run.label for run in self.config.runs]
        if name is None:
            return 0
        wanted = str(name).replace(" ", "")
        for known in (labels, [str(run.seed) for run in self.config.runs]):
            places = [i for i, label in enumerate(known) if label.replace(" ", "") == wanted]
            if len(places) == 1:
                return places[0]
        said = "more than one run" if places else "no run"
        raise ConfigError(f"{self.folder} has {said} {str(name)!r}; its runs are: {'; '.join(labels)}")


def load(folder: Path | str, which: str = "last") -> Saved:
    """Reads the learners of a run, finished or not, on this machine's first device.

    Args:
        folder: the run's.
        which: "last", or the best on the validation tasks: "best_mean", "best_cvar".

    Raises:
        ConfigError: if there is no run, no checkpoint or no such learner, or one is damaged; one line.
    """
    folder = Path(folder)
    if which not in WHICH:
        raise ConfigError(str(unknown("learner", which, WHICH)))
    path = checkpoint.latest(folder / folder_lib.CHECKPOINT)
    if not (folder / folder_lib.CONFIG).is_file():
        raise ConfigError(f"{folder} is no run: it has no {folder_lib.CONFIG}")
    if path is None:
        raise ConfigError(f"{folder} has no checkpoint yet")
    config = config_lib.parse(["--config", str(folder / folder_lib.CONFIG), "--mesh", "none"])
    parts = experiment.make(config)
    shapes = jax.eval_shape(parts.train.init, *runs.leaves(config.runs))
    acting, num_runs = parts.learner.acting(shapes.learner), len(config.runs)
    try:
        if which == "last":
            learner = checkpoint.restore(path, which, acting)
            iterations = np.full(num_runs, checkpoint.about(path)["iteration"])
        else:
            snapshot = checkpoint.restore(path, which, best_lib.start(acting, num_runs).mean)
            learner, iterations = snapshot.acting, np.asarray(snapshot.iteration)
            if not np.isfinite(np.asarray(snapshot.score)).all():
                raise ConfigError(f"{folder} has no {which}: it was not evaluated yet")
    except checkpoint.CheckpointError as error:
        raise ConfigError(str(error)) from None
    if num_runs == 1:
        learner = jax.tree.map(lambda x: x[None], learner)
    return Saved(folder, config, parts, which, iterations, learner)
