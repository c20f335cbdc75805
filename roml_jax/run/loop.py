"""The loop of a run on the host: compilation, chunks of iterations, evaluations, checkpoints, final test."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from roml_jax import console as output
from roml_jax import envs, experiment, meta
from roml_jax._version import __version__
from roml_jax.config import Config, to_mapping
from roml_jax.envs.why import why
from roml_jax.run import best as best_learners
from roml_jax.run import (
    checkpoint,
    distributed,
    interrupt,
    memory,
    progress,
    result,
    sharding,
    sinks,
    start,
)
from roml_jax.run import folder as run_folder
from roml_jax.run.start import Plan, State

Rows = list[dict[str, float]]
"""One mapping per seed, of values by metric name."""
OnChunk = Callable[[int, Rows], None]
"""Called after every chunk of iterations with (iterations done, one row of metrics per seed)."""


class StoppedError(Exception):
    """A signal stopped the run. The message is one line with the command that resumes it.

    Attributes:
        signal: the signal.
    """

    def __init__(self, asked: signal.Signals, line: str) -> None:
        super().__init__(line)
        self.signal = asked


class RunError(Exception):
    """The run failed; the message is one line."""


class _Programs(NamedTuple):
    """Compiled functions. ``evaluate`` and ``test`` are compiled in the background during training."""

    chunk: Callable[..., Any]
    evaluate: concurrent.futures.Future[Callable[..., Any]] | None
    test: concurrent.futures.Future[Callable[..., Any]]


def _compile(
    parts: experiment.Experiment, shapes: meta.MetaState, pool: concurrent.futures.Executor,
    start: Callable[[], State], validates: bool,
) -> tuple[_Programs, State]:  # fmt: skip
    """Compiles the training chunk and meanwhile builds the state; starts to compile the other functions.

    All functions are traced in this thread. Tracing may use Python's ``ast``, which can fail in Python 3.11
    if two threads use it at once.
    """
    compiling = pool.submit(jax.jit(parts.train.chunk, donate_argnums=0).lower(shapes, jnp.int32(0)).compile)
    state = start()
    # only the returns, so that the compiler drops what else an outcome holds
    evaluation = jax.jit(lambda s: parts.evaluate(s).returns).lower(shapes.learner) if validates else None
    test = jax.jit(lambda s: parts.test(s).returns).lower(shapes.learner)
    chunk = compiling.result()
    later = None if evaluation is None else pool.submit(evaluation.compile)
    return _Programs(chunk, later, pool.submit(test.compile)), state


def _diverged(row: Mapping[str, float]) -> bool:
    """Whether the seed of a row of training metrics has diverged."""
    return row.get("train/stopped", 0.0) > 0


class _Shown(NamedTuple):
    """Contents of the progress line: the last rows of training and of evaluation."""

    latest: Rows
    held_out: Rows

    def facts(self) -> str:
        """Text with means over the seeds, and the number of seeds that diverged."""
        phi = [name for name in self.latest[0] if name.startswith("sampler/phi_")]
        text = f"phi {', '.join(f'{result.mean(self.latest, name):.3f}' for name in phi)}"
        stopped = sum(map(_diverged, self.latest))
        if self.held_out:
            mean, cvar = result.mean(self.held_out, "return_mean"), result.mean(self.held_out, "cvar")
            text = f"mean {mean:.3f}  cvar {cvar:.3f}  {text}"
        else:
            text = f"train {result.mean(self.latest, 'train/return'):.3f}  {text}"
        return f"{text}  {stopped} of {len(self.latest)} seeds diverged" if stopped else text


class _Host(NamedTuple):
    """The loop's configuration and outputs on the host: console, metrics and checkpoints."""

    config: Config
    parts: experiment.Experiment
    folder: Path
    console: Console
    sink: sinks.Sink
    checkpoints: checkpoint.Checkpoints
    on_chunk: OnChunk | None = None

    def log(self, prefix: str, rows: Rows, done: int, seconds: float) -> None:
        """Writes one row per seed, with the seed's columns, iterations, frames and seconds added.

        Args:
            prefix: prefix of the metric names, e.g. "eval/".
            rows: one mapping per seed.
            done: number of iterations done.
            seconds: training time in seconds.
        """
        if not distributed.is_main():  # only process 0 writes
            return
        frames = self.parts.frames.after(done)
        for place, (seed, values) in enumerate(zip(self.config.plan, rows, strict=True)):
            head = {**seed.columns, "iteration": done, "frames": frames, "seconds": round(seconds, 3)}
            self.sink.write(place, head | {f"{prefix}{name}": value for name, value in values.items()})

    def save(self, state: State) -> None:
        """Starts to write a checkpoint."""
        acting = self.parts.learner.acting(state.meta.learner)
        best = {} if state.best is None else {"best_mean": state.best.mean, "best_cvar": state.best.cvar}
        frames = self.parts.frames.after(state.done)
        about = {
            "version": __version__, "jax": jax.__version__, "backend": jax.default_backend(),
            "iteration": state.done, "frames": frames, "seconds": state.seconds,
            "config": to_mapping(self.config),
        }  # fmt: skip
        self.checkpoints.save(state.done, {"state": state.meta, "last": acting, **best}, about)


def _devices(parts: experiment.Experiment, num_seeds: int) -> str:
    """Text that describes the mesh; empty for a single device."""
    mesh = parts.placement.mesh
    if mesh is None:
        return ""
    if parts.placement.task_devices == 1:
        kind = "host devices, one per core" if jax.default_backend() == "cpu" else "devices"
        return f" on {mesh.size} {kind}, {num_seeds // mesh.size} seed(s) each (--mesh none: one device)"
    sizes = " x ".join(f"{size} {name}" for name, size in mesh.shape.items())
    return f" on {mesh.size} devices ({sizes})"


def _heading(config: Config, parts: experiment.Experiment) -> str:
    """Text that describes a run: its components, its length and its seeds."""
    frames, passes = parts.frames, ""
    if frames.scoring:
        passes = f", a scoring pass of {frames.scoring} frames before every {frames.every} of them"
    return (
        f"[bold]{config.env}[/] x {config.sampler} x {config.agent}, {parts.num_iterations} iterations "
        f"of {frames.iteration} frames{passes}, {len(config.plan)} seed(s)"
        f"{_devices(parts, len(config.plan))}"
    )


def _say(console: Console) -> Callable[[str], None]:
    return lambda line: output.say(console, line, style="yellow", highlight=False)


def run(
    config: Config, console: Console, env: envs.Env | None = None, on_chunk: OnChunk | None = None
) -> Path:
    """Trains, evaluates, tests and saves a run.

    With several processes, every process must call this; process 0 prints and writes.

    Args:
        config: the run's configuration.
        console: where to print.
        env: an environment object to use instead of the one that the configuration names.
        on_chunk: called after every chunk of iterations.

    Returns:
        The run's folder.

    Raises:
        ConfigError: if options are incompatible or the folder cannot be used; one line. Raised before
            anything is computed.
        StoppedError: if a signal stopped the run.
        RunError: if every seed diverged, or the last checkpoint could not be written.
    """
    options, num_seeds = to_mapping(config), len(config.plan)
    distributed.check_same(options | {"mesh": config.mesh, "resume": str(config.resume)})
    sinks.check(config.log)
    parts = experiment.make(config, env, sharding.placement(config))
    plan = Plan(config, options, config.eval.every(config.num_tasks) > 0)
    shapes = start.shapes_of(parts, plan)
    _check_memory(config, parts, shapes)
    taken = start.inherited(parts, plan, shapes)
    name = f"{config.env}-{config.sampler}"
    folder = config.resume or distributed.shared_folder(lambda: run_folder.make(config.out, name, options))
    with contextlib.ExitStack() as stack:
        if distributed.is_main():
            stack.enter_context(run_folder.locked(folder))
        if config.resume and start.is_complete(plan, parts, folder):
            output.say(console, f"{folder} is complete; a larger --frames goes on with it")
            return folder
        output.say(console, f"{_heading(config, parts)}, into {folder}")
        make_state, lines = start.prepared(parts, plan, shapes, taken, folder / run_folder.CHECKPOINT)
        for line in lines:
            output.say(console, line)
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        if not config.resume and distributed.is_main():
            stack.enter_context(run_folder.removed_if_unused(folder))
        with console.status("compiling ..."), interrupt.raised():
            began = time.monotonic()
            placed = sharding.placed_shapes(parts.placement.mesh, shapes, num_seeds)
            programs, state = _compile(parts, placed, pool, make_state, plan.validates)
        console.print(f"compiled in {progress.duration(time.monotonic() - began)}")
        host = stack.enter_context(_host(config, parts, folder, console, state.done))
        if taken is not None:
            host.save(state)  # so that the run can be resumed without the other one
        _train_and_test(host._replace(on_chunk=on_chunk), programs, state)
    output.say(console, f"saved in {folder}")
    return folder


def _check_memory(config: Config, parts: experiment.Experiment, shapes: meta.MetaState) -> None:
    """Rejects a run whose state cannot fit in memory."""
    mesh, storage = parts.placement.mesh, parts.learner.storage
    memory.check(
        shapes, len(config.plan), storage=storage, least_rows=config.num_tasks,
        rows=to_mapping(config)[storage.rows] if storage else 0,
        devices=mesh.shape[sharding.SEED] if mesh else 1,
    )  # fmt: skip


@contextlib.contextmanager
def _host(config: Config, parts: experiment.Experiment, folder: Path, console: Console, done: int) -> Any:
    """Context that opens the run's sinks and checkpoints, and closes them at the end.

    Args:
        config: the run's configuration.
        parts: the run's functions.
        folder: the run's folder.
        console: where to print.
        done: number of iterations already done; later rows of metrics are deleted.
    """
    sink: sinks.Sink = sinks.Several([])
    if distributed.is_main():
        missing = run_folder.cut_metrics(folder / run_folder.METRICS, done)
        if missing:
            _say(console)(missing)
        if config.resume:
            run_folder.keep_total(folder, config.frames)
        frames = parts.frames.after(done)
        sink = sinks.make(config.log, folder, config.plan, to_mapping(config), frames, _say(console))
    with contextlib.closing(sink):
        checkpoints = checkpoint.Checkpoints(folder / run_folder.CHECKPOINT, _say(console))
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
    if state.done < total and len(stopped) < len(config.plan):
        raise StoppedError(
            interrupts.asked or signal.SIGTERM,  # SIGTERM if another process received the signal
            f"stopped after {state.done} of {total} iterations"
            + ("; " if saved else ", but the last of them could not be saved; ")
            + f"resume with: python -m roml_jax.train --resume {host.folder}",
        )
    with console.status("testing ..."):
        began = time.monotonic()
        final = result.summaries(programs.test.result()(state.meta.learner), config)
        host.log("test/", final, state.done, state.seconds + time.monotonic() - began)
    output.show_table(console, result.table(config, final, stopped))
    if len(stopped) == len(config.plan):
        reason = why(host.parts.env)
        raise RunError(
            f"every seed diverged, the last after {max(stopped.values())} of {total} iterations"
            + (f", because {reason}" if reason else "")
            + f"; the states before divergence are saved in {host.folder}"
        )
    if not saved:
        raise RunError(
            "the last checkpoint was not written (see above); fix the cause and resume with: "
            f"python -m roml_jax.train --resume {host.folder}"
        )


def _stopped(parts: experiment.Experiment, state: meta.MetaState) -> dict[int, int]:
    """For the seeds that diverged: the iterations done before, by position of the seed."""
    whole = jax.jit(sharding.place_output(lambda stopped: stopped, parts.placement.mesh))
    iterations_done = np.atleast_1d(np.asarray(whole(state.stopped)))
    return {place: int(iterations) for place, iterations in enumerate(iterations_done) if iterations >= 0}


def _validated(host: _Host, programs: _Programs, state: State) -> tuple[State, Rows]:
    """Evaluates the learners on the validation tasks and updates the best ones."""
    summaries = result.summaries(programs.evaluate.result()(state.meta.learner), host.config)
    host.log("eval/", summaries, state.done, state.seconds)
    mean, cvar = (np.array([row[name] for row in summaries], np.float32) for name in ("return_mean", "cvar"))
    acting = host.parts.learner.acting(state.meta.learner)
    best = best_learners.update(state.best, np.int32(state.done), mean, cvar, acting)
    return state._replace(best=best), summaries


def _report_diverged(host: _Host, before: Rows, now: Rows) -> None:
    """Prints a line for each seed that diverged in the last chunk."""
    for place, seed in enumerate(host.config.plan):
        already = before and _diverged(before[place])
        if _diverged(now[place]) and not already:
            _say(host.console)(f"seed {seed.label} diverged and was stopped; its last good state is kept")


def _check_first(host: _Host, rows: Rows) -> None:
    """Ends a run in whose first iteration every task of every seed diverged, if the reason is found.

    Raises:
        RunError: one line with the reason.
    """
    if min(row.get("train/diverged", 0.0) for row in rows) < host.config.num_tasks:
        return
    reason = why(host.parts.env)
    if reason:
        raise RunError(f"every task of the first iteration diverged, because {reason}")


def _loop(host: _Host, programs: _Programs, state: State, interrupts: interrupt.Interrupts) -> State:
    """Runs chunks of iterations, with an evaluation and a checkpoint whenever one is due."""
    config, parts = host.config, host.parts
    interval, total = config.eval.every(config.num_tasks), parts.num_iterations
    frames_after = parts.frames.after
    num_seeds, began, saved = len(config.plan), time.monotonic() - state.seconds, time.monotonic()
    last_rows = _Shown([], [])
    with progress.ConsoleProgress(
        host.console, frames_after(total) * num_seeds, frames_after(state.done) * num_seeds
    ) as bar:
        while state.done < total:
            started = time.monotonic()
            to_evaluation = interval - state.done % interval if interval else total
            # the first chunk has one iteration, so that progress appears early
            to_chunk = parts.train.chunk_length - state.done % parts.train.chunk_length
            n = min(to_chunk if state.done else 1, to_evaluation, total - state.done)
            after, rows = programs.chunk(state.meta, jnp.int32(n))
            latest = progress.mean_over_rows(jax.device_get(rows))
            now = time.monotonic()
            frames = frames_after(state.done + n) - frames_after(state.done)
            state = state._replace(meta=after, done=state.done + n, seconds=now - began)
            speed = {"train/frames_per_second": frames / (now - started)}
            latest = [row | speed for row in latest]
            _report_diverged(host, last_rows.latest, latest)
            if state.done == n:
                _check_first(host, latest)
            last_rows = last_rows._replace(latest=latest)
            host.log("", latest, state.done, state.seconds)
            if host.on_chunk is not None:
                host.on_chunk(state.done, latest)
            if interval and (state.done % interval == 0 or state.done >= total):
                state, held_out = _validated(host, programs, state)
                last_rows = last_rows._replace(held_out=held_out)
            bar.advance(frames * num_seeds, last_rows.facts())
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            asked, due = distributed.any_of(interrupts.asked is not None, due)
            if asked or all(map(_diverged, latest)):
                return state
            if due and state.done < total:
                host.save(state)
                saved = time.monotonic()
    return state
