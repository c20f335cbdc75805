"""The host's side of a run: everything that happens between two chunks of iterations."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import roml_jax
from roml_jax import best as best_lib
from roml_jax import (
    checkpoint,
    distributed,
    evaluate,
    experiment,
    interrupt,
    memory,
    meta,
    metrics,
    resume,
    runs,
    sharding,
    sinks,
)
from roml_jax import (
    folder as folder_lib,
)
from roml_jax.config import Config, to_mapping
from roml_jax.resume import State


class StoppedError(Exception):
    """A run that was asked to stop and did, with its state saved.

    Attributes:
        signal: by which it was asked.
    """

    def __init__(self, asked: signal.Signals, line: str) -> None:
        super().__init__(line)
        self.signal = asked


class RunError(Exception):
    """A run that came to an end but not to its purpose; one line."""


def enable_compile_cache() -> None:
    """Keeps compiled programs under the user's cache folder, unless JAX was told of another place."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roml_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))


class _Programs(NamedTuple):
    """Compiled functions; what training does not wait for compiles while it runs."""

    chunk: Callable[..., Any]
    evaluate: concurrent.futures.Future[Callable[..., Any]] | None
    test: concurrent.futures.Future[Callable[..., Any]]


def _compile(
    parts: experiment.Experiment, shapes: meta.MetaState, pool: concurrent.futures.Executor,
    start: Callable[[], State], validates: bool,
) -> tuple[_Programs, State]:  # fmt: skip
    """Compiles, and makes the state meanwhile; what training does not wait for compiles while it runs.

    All tracing is this thread's: Python 3.11's ``ast``, which libraries trace with, can fail in two at once.
    """
    compiling = pool.submit(jax.jit(parts.train.chunk, donate_argnums=0).lower(shapes, jnp.int32(0)).compile)
    state = start()
    evaluation = jax.jit(parts.evaluate).lower(shapes.learner) if validates else None
    test = jax.jit(parts.test).lower(shapes.learner)
    chunk = compiling.result()
    later = None if evaluation is None else pool.submit(evaluation.compile)
    return _Programs(chunk, later, pool.submit(test.compile)), state


def _summaries(returns: Any, config: Config) -> list[dict[str, float]]:
    """Per run, from returns (M, K) or (R, M, K)."""
    by_run = np.asarray(returns).reshape(len(config.runs), *returns.shape[-2:])
    summaries = [
        jax.device_get(evaluate.summarise(jnp.asarray(one), run.settings.get("alpha", config.alpha)))
        for run, one in zip(config.runs, by_run, strict=True)
    ]
    return [{name: float(value) for name, value in one.items()} for one in summaries]


def _mean(rows: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows if name in row] or [np.nan]))


class _Told(NamedTuple):
    """What the progress line shows: the last rows of training and of evaluation."""

    latest: list[dict[str, float]]
    held_out: list[dict[str, float]]

    def facts(self) -> str:
        """Means over runs, and how many of them stopped."""
        phi = [name for name in self.latest[0] if name.startswith("sampler/phi_")]
        shown = f"phi {', '.join(f'{_mean(self.latest, name):.3f}' for name in phi)}"
        stopped = sum(row.get("train/stopped", 0.0) > 0 for row in self.latest)
        if self.held_out:
            mean, cvar = _mean(self.held_out, "return_mean"), _mean(self.held_out, "cvar")
            shown = f"mean {mean:.3f}  cvar {cvar:.3f}  {shown}"
        else:
            shown = f"train {_mean(self.latest, 'train/return'):.3f}  {shown}"
        return f"{shown}  {stopped} of {len(self.latest)} stopped" if stopped else shown


class _Host(NamedTuple):
    """What the loop speaks to beside the devices."""

    config: Config
    parts: experiment.Experiment
    folder: Path
    console: Console
    sink: sinks.Sink
    checkpoints: checkpoint.Checkpoints

    def log(self, prefix: str, rows: list[dict[str, float]], done: int, seconds: float) -> None:
        """Every row says which run, how many iterations, frames and seconds."""
        if not distributed.is_main():  # of several processes one writes
            return
        frames = done * self.parts.frames_per_iteration
        for place, (run, values) in enumerate(zip(self.config.runs, rows, strict=True)):
            head = {**run.columns, "iteration": done, "frames": frames, "seconds": round(seconds, 3)}
            self.sink.write(place, head | {f"{prefix}{name}": value for name, value in values.items()})

    def save(self, state: State) -> None:
        """Starts a checkpoint."""
        acting = self.parts.learner.acting(state.meta.learner)
        kept = {} if state.best is None else {"best_mean": state.best.mean, "best_cvar": state.best.cvar}
        frames = state.done * self.parts.frames_per_iteration
        about = {
            "version": roml_jax.__version__, "jax": jax.__version__, "backend": jax.default_backend(),
            "iteration": state.done, "frames": frames, "seconds": state.seconds,
            "config": to_mapping(self.config),
        }  # fmt: skip
        self.checkpoints.save(state.done, {"state": state.meta, "last": acting, **kept}, about)


def result_table(config: Config, final: list[dict[str, float]], stopped: Mapping[int, int]) -> Table:
    """The final test, a row per run, and the mean over the seeds of every setting.

    Args:
        config: of the runs.
        final: their summaries.
        stopped: iterations made by those that diverged, by their place.
    """
    table = Table(title=f"{config.env}, {config.sampler}: {config.eval.test_tasks} held-out tasks")
    episodes = [name for name in final[0] if name.startswith("return_episode_")]
    own_alpha = "alpha" in config.runs[0].settings
    cvar = "CVaR" if own_alpha else f"CVaR {config.alpha:g}"
    for heading in ("seed", "mean return", cvar, *(f"episode {i}" for i in range(len(episodes)))):
        table.add_column(heading, justify="right")
    labels = [
        f"{run.label} (diverged after {stopped[i]} iterations)" if i in stopped else run.label
        for i, run in enumerate(config.runs)
    ]
    rows: list[tuple[str, Mapping[str, float]]] = []
    per_setting = len(config.seeds)
    for start in range(0, len(final), per_setting):
        part = final[start : start + per_setting]
        rows += list(zip(labels[start : start + per_setting], part, strict=True))
        if per_setting > 1:
            label = config.runs[start]._replace(seed="mean").label
            rows.append((label, {name: _mean(part, name) for name in final[0]}))
    for label, values in rows:
        numbers = [values["return_mean"], values["cvar"], *(values[name] for name in episodes)]
        table.add_row(label, *(f"{number:.3f}" for number in numbers))
    return table


def _devices(parts: experiment.Experiment) -> str:
    """How devices share the work, where there are several."""
    if parts.mesh is None:
        return ""
    sizes = " x ".join(f"{size} {name}" for name, size in parts.mesh.shape.items())
    return f" on {parts.mesh.size} devices ({sizes})"


def _say(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, style="yellow", soft_wrap=True, highlight=False)


def run(config: Config, console: Console) -> Path:
    """Trains, evaluates, tests and saves; returns the run's folder.

    With several processes each calls this, and process 0 prints and writes.

    Raises:
        ConfigError: where options do not go together or the folder cannot be used; one line, before
            anything was computed.
        StoppedError: if a signal stopped it; everything is saved.
        RunError: if every run diverged, or the last checkpoint could not be written.
    """
    distributed.check_same(to_mapping(config) | {"mesh": config.mesh, "resume": str(config.resume)})
    sinks.check(config.log)
    parts = experiment.make(config)
    shapes = jax.eval_shape(parts.train.init, *runs.leaves(config.runs))
    memory.check(config, shapes, len(config.runs), parts.mesh.shape["seed"] if parts.mesh else 1)
    folder = config.resume or distributed.shared_folder(lambda: folder_lib.make(config))
    with contextlib.ExitStack() as stack:
        if distributed.is_main():
            stack.enter_context(folder_lib.locked(folder))
        if config.resume and _is_complete(config, folder):
            console.print(f"{folder} is complete: nothing was left to do", soft_wrap=True)
            return folder
        console.print(
            f"[bold]{config.env}[/] x {config.sampler} x {config.agent}, {parts.num_iterations} iterations "
            f"of {parts.frames_per_iteration} frames, {len(config.runs)} run(s){_devices(parts)}, "
            f"into {folder}",
            soft_wrap=True,
        )
        restored = None
        if config.resume:
            restored, told = resume.restored(config, parts, shapes, folder)
            console.print(f"goes on {told}", soft_wrap=True)
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        with console.status("compiling ..."):
            began = time.monotonic()
            placed = sharding.placed_shapes(parts.mesh, shapes, len(config.runs))
            programs, state = _compile(
                parts, placed, pool, lambda: restored or resume.started(config, parts),
                validates=config.eval.every(config.num_tasks) > 0,
            )  # fmt: skip
        console.print(f"compiled in {metrics.duration(time.monotonic() - began)}")
        host = stack.enter_context(_host(config, parts, folder, console, state.done))
        _train_and_test(host, programs, state)
    console.print(f"saved in {folder}", soft_wrap=True)
    return folder


def _is_complete(config: Config, folder: Path) -> bool:
    path = checkpoint.latest(folder / folder_lib.CHECKPOINT)
    return path is not None and folder_lib.is_complete(folder, len(config.runs), int(path.name))


@contextlib.contextmanager
def _host(config: Config, parts: experiment.Experiment, folder: Path, console: Console, done: int) -> Any:
    """What the loop speaks to, for a run that has made so many iterations; closed at the end."""
    sink: sinks.Sink = sinks.Several([])
    if distributed.is_main():
        folder_lib.cut_metrics(folder / folder_lib.METRICS, done)
        frames = done * parts.frames_per_iteration
        sink = sinks.make(config.log, folder, config.runs, to_mapping(config), frames, _say(console))
    with contextlib.closing(sink):
        checkpoints = checkpoint.Checkpoints(folder / folder_lib.CHECKPOINT, _say(console))
        with contextlib.closing(checkpoints):
            yield _Host(config, parts, folder, console, sink, checkpoints)


def _train_and_test(host: _Host, programs: _Programs, state: State) -> None:
    config, console, total = host.config, host.console, host.parts.num_iterations
    with interrupt.Interrupts() as interrupts:
        state = _loop(host, programs, state, interrupts)
        with console.status("saving the checkpoint ..."):
            host.save(state)
            saved = host.checkpoints.wait() == state.done
    stopped = _stopped(host.parts, state.meta)
    if state.done < total and len(stopped) < len(config.runs):
        raise StoppedError(
            interrupts.asked or signal.SIGTERM,  # which another process may have got
            f"stopped after {state.done} of {total} iterations"
            + ("; " if saved else ", of which the last could not be saved; ")
            + f"it goes on with: python -m roml_jax.train --resume {host.folder}",
        )
    with console.status("testing ..."):
        began = time.monotonic()
        final = _summaries(programs.test.result()(state.meta.learner), config)
        host.log("test/", final, state.done, state.seconds + time.monotonic() - began)
    console.print(result_table(config, final, stopped))
    if len(stopped) == len(config.runs):
        raise RunError(
            f"every run diverged, the last after {max(stopped.values())} of {total} iterations; the states "
            f"before that are saved in {host.folder}"
        )
    if not saved:
        raise RunError(
            "the last checkpoint was not written, as told above; when that is mended: "
            f"python -m roml_jax.train --resume {host.folder}"
        )


def _stopped(parts: experiment.Experiment, state: meta.MetaState) -> dict[int, int]:
    """Iterations made by the runs that diverged, by their place."""
    whole = jax.jit(sharding.place_output(lambda stopped: stopped, parts.mesh))
    made = np.atleast_1d(np.asarray(whole(state.stopped)))
    return {place: int(iterations) for place, iterations in enumerate(made) if iterations >= 0}


def _validated(host: _Host, programs: _Programs, state: State) -> tuple[State, list[dict[str, float]]]:
    """Evaluates, and keeps the best."""
    summaries = _summaries(programs.evaluate.result()(state.meta.learner), host.config)
    host.log("eval/", summaries, state.done, state.seconds)
    mean, cvar = (np.array([row[name] for row in summaries], np.float32) for name in ("return_mean", "cvar"))
    acting = host.parts.learner.acting(state.meta.learner)
    best = best_lib.update(state.best, np.int32(state.done), mean, cvar, acting)
    return state._replace(best=best), summaries


def _tell_stopped(host: _Host, before: list[dict[str, float]], now: list[dict[str, float]]) -> None:
    """A line for each run that diverged in the last chunk."""
    for place, run in enumerate(host.config.runs):
        already = before and before[place].get("train/stopped", 0.0) > 0
        if now[place].get("train/stopped", 0.0) > 0 and not already:
            _say(host.console)(f"seed {run.label} diverged and was stopped; its last good state is kept")


def _loop(host: _Host, programs: _Programs, state: State, interrupts: interrupt.Interrupts) -> State:
    """Chunks of iterations, with an evaluation and a checkpoint whenever one is due."""
    config, parts = host.config, host.parts
    interval, total, per_iteration = (
        config.eval.every(config.num_tasks), parts.num_iterations, parts.frames_per_iteration,
    )  # fmt: skip
    num_runs, began, saved = len(config.runs), time.monotonic() - state.seconds, time.monotonic()
    told = _Told([], [])
    with metrics.ConsoleProgress(
        host.console, total * per_iteration * num_runs, state.done * per_iteration * num_runs
    ) as progress:
        while state.done < total:
            started = time.monotonic()
            to_evaluation = interval - state.done % interval if interval else total
            # one iteration first, so that there is soon something to see
            to_chunk = parts.train.chunk_length - state.done % parts.train.chunk_length
            n = min(to_chunk if state.done else 1, to_evaluation, total - state.done)
            after, rows = programs.chunk(state.meta, jnp.int32(n))
            latest = metrics.mean_over_rows(jax.device_get(rows))
            now = time.monotonic()
            state = state._replace(meta=after, done=state.done + n, seconds=now - began)
            speed = {"train/frames_per_second": n * per_iteration / (now - started)}
            latest = [row | speed for row in latest]
            _tell_stopped(host, told.latest, latest)
            told = told._replace(latest=latest)
            host.log("", latest, state.done, state.seconds)
            if interval and (state.done % interval == 0 or state.done >= total):
                state, held_out = _validated(host, programs, state)
                told = told._replace(held_out=held_out)
            progress.advance(n * per_iteration * num_runs, told.facts())
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            asked, due = distributed.any_of(interrupts.asked is not None, due)
            if asked or all(row.get("train/stopped", 0.0) > 0 for row in latest):
                return state
            if due and state.done < total:
                host.save(state)
                saved = time.monotonic()
    return state
