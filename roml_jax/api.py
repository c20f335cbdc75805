"""Python interface to training and to finished runs: ``roml_jax.train(...)`` and ``roml_jax.open(...)``."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console

from roml_jax import config as configs
from roml_jax import envs, held_out
from roml_jax import tasks as families
from roml_jax.deploy import policy as deployed
from roml_jax.errors import ConfigError
from roml_jax.evaluate import records
from roml_jax.run import compile_cache, loop, result, saved, units
from roml_jax.run import folder as run_folder


class Run:
    """A trained run: its learners, their returns and their policies.

    Attributes:
        folder: the folder with the run's configuration, metrics and checkpoint.
    """

    def __init__(
        self, folder: Path, env: envs.Env | None = None, which: str = "last", temporary: Path | None = None
    ) -> None:
        """Called by ``train`` and ``open``. The folder ``temporary`` is deleted with this object."""
        self.folder, self._env, self._which = folder, env, which
        if temporary is not None:
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)

    def __repr__(self) -> str:
        config = self.config
        what = f"{config.env} x {config.sampler} x {config.agent}"
        return f"Run({what}, {len(config.plan)} seed(s), {self.folder})"

    @cached_property
    def _loaded(self) -> saved.Saved:
        return saved.load(self.folder, self._which, self._env)

    @property
    def config(self) -> configs.Config:
        """The run's options."""
        return self._loaded.config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``, in order; those of older versions with today's names and unit."""
        rows = run_folder.read_metrics(self.folder / run_folder.METRICS)
        return units.from_file(rows, lambda: units.episodes(self.config, self.env))

    @property
    def env(self) -> envs.Env:
        """The environment that the run was trained on."""
        return self._loaded.parts.env

    def tasks(self, n: int | None = None) -> np.ndarray:
        """Held-out tasks (n, d) drawn from the prior. By default: the tasks of the run's final test."""
        held, _ = self._draw(n)
        return np.asarray(held)

    def _draw(self, n: int | None) -> tuple[jax.Array, jax.Array]:
        options = self.config.eval
        return held_out.draw(self.env.family, n or options.test_tasks, options.seed, "test")

    def returns(self, tasks: ArrayLike | None = None) -> np.ndarray:
        """Returns (S, M, K) of each seed's learner on each task and episode, with greedy actions.

        A diverged episode has the lowest return of all M tasks, and NaN if it diverged on all of them.

        Args:
            tasks: (M, d). By default: the tasks of the run's final test. A task far from the prior is
                reported in a warning.

        Raises:
            ConfigError: if ``tasks`` has another shape; one line.
        """
        default, key = self._draw(None)
        chosen = default if tasks is None else np.asarray(tasks, np.float32)
        if chosen.ndim != 2 or chosen.shape[1] != default.shape[1] or not len(chosen):
            names = ", ".join(self.env.family.names)
            raise ConfigError(f"tasks must be of shape (M, {default.shape[1]}): {names}; got {chosen.shape}")
        warning = None if tasks is None else families.far_off(self.env.family, np.asarray(chosen))
        if warning:
            warnings.warn(warning, stacklevel=2)
        places = range(len(self.config.plan))
        return np.asarray(records.outcomes(self._loaded, places, chosen, key).returns)

    def summary(self) -> list[dict[str, float]]:
        """Mean and CVaR of each seed's returns on the tasks of the final test; see ``held_out.summarise``."""
        return result.summaries(self.returns(), self.config)

    def policy(self, seed: str | int | None = None) -> deployed.Policy:
        """The policy of one seed, for one robot or a batch. By default: the first seed.

        Raises:
            ConfigError: if the run has no such seed, or if its learner has no deployable policy; one line.
        """
        run = self._loaded
        return deployed.make(run.parts, run.config.protocol, run.one(run.place(seed)))

    def save(self, folder: Path | str) -> Path:
        """Copies the run to a new folder, which ``open`` reads. Commands need its environment registered.

        Raises:
            ConfigError: if the folder exists; one line.
        """
        folder = Path(folder)
        if folder.exists():
            raise ConfigError(f"{folder} exists; nothing is overwritten")
        shutil.copytree(self.folder, folder)
        return folder


def train(
    env: str | envs.Env,
    *,
    sampler: str = "cem",
    agent: str = "varibad",
    seeds: Iterable[int] = (0,),
    out: Path | str | None = None,
    init_from: Run | Path | str | None = None,
    quiet: bool = False,
    on_chunk: loop.OnChunk | None = None,
    **options: Any,
) -> Run:
    """Trains a meta-learner and tests it on held-out tasks.

    Args:
        env: the name of a registered environment, or an environment object.
        sampler: how training tasks are chosen: "cem" is RoML, "uniform" the plain meta-learner.
        agent: the meta-learner.
        seeds: one learner is trained per seed, all in one compiled program.
        out: the new folder of the run. By default: a temporary folder, which ``Run.save`` copies, and which
            stays if the training is stopped or fails.
        init_from: a run from whose learner's parameters and statistics this one starts: the learner that the
            run was opened with, or of a folder the last (``which="best_cvar"`` chooses another one).
        quiet: print nothing.
        on_chunk: called after every chunk of iterations with the number of iterations done so far and one
            row of metrics per seed.
        **options: options by dotted name, as on the command line: ``alpha=0.05``, ``**{"ppo.lr": 1e-3}``.

    Raises:
        ConfigError: if an option is invalid or options are incompatible; one line.
        RunError: if every seed diverged, or the last checkpoint could not be written.
        StoppedError: if a signal stopped the training; with the command that resumes it.
    """
    if isinstance(init_from, Run):
        options = {"which": init_from._which, **options}
    source = init_from.folder if isinstance(init_from, Run) else init_from
    named = {"sampler": sampler, "agent": agent, "seeds": list(seeds)}
    call = _call(env, named | ({} if source is None else {"init_from": str(source)}) | options)
    custom_env = None if isinstance(env, str) else env
    if out is None:
        temporary = Path(tempfile.mkdtemp(prefix="roml_jax-"))
        folder = temporary / "run"
    else:
        temporary, folder = None, Path(out)
    try:
        config = configs.make(env, out=folder, init_from=source, **named, **options)
        compile_cache.prepare(cache=config.compile_cache)
        console = Console(quiet=quiet)
        _say_name(config.env, custom_env, console)
        loop.run(config, console, custom_env, on_chunk, call)
    except BaseException:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.rmdir()  # fails if a run is in it, which its message names
        raise
    return Run(folder, custom_env, temporary=temporary)


def _say_name(name: str, env: envs.Env | None, console: Console) -> None:
    """Says under which name a run keeps an environment object whose own name is the package's."""
    if env is not None and name != env.spec.name:
        console.print(
            f"the object is kept as {name}, since {env.spec.name!r} is the package's own: open the run with "
            "env=..., or train with the name if it is that environment as it is",
            soft_wrap=True, highlight=False,
        )  # fmt: skip


def _call(env: str | envs.Env, options: Mapping[str, Any]) -> str:
    """The call of ``train`` as text, for ``provenance.json``."""
    dotted = {name: value for name, value in options.items() if not name.isidentifier()}
    parts = [f"{name}={value!r}" for name, value in options.items() if name not in dotted]
    parts += [f"**{dotted!r}"] if dotted else []
    return f"roml_jax.train({', '.join([repr(env) if isinstance(env, str) else type(env).__name__, *parts])})"


def open(folder: Path | str, which: str = "last", env: envs.Env | None = None) -> Run:
    """Opens a run's folder.

    Args:
        folder: the folder of the run.
        which: which learner: "last", or the best on the validation tasks, "best_mean" or "best_cvar".
        env: the run's environment; required only if it is an object that no module registers.

    Raises:
        ConfigError: if the run or the learner does not exist; one line.
    """
    run = Run(Path(folder), env, which)
    run._loaded  # noqa: B018 - raises ConfigError here if the folder is not a run
    return run
