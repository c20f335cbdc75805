"""The loop of a run on the host: compilation, chunks of iterations, evaluations, checkpoints, final test."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.text import Text

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
    provenance,
    result,
    sharding,
    shown,
    sinks,
    start,
    units,
)
from roml_jax.run import folder as run_folder
from roml_jax.run.programs import Programs, compiled, waiting
from roml_jax.run.shown import Rows, diverged
from roml_jax.run.start import Plan, State

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


class _Host(NamedTuple):
    """The loop's configuration and outputs on the host: console, metrics and checkpoints."""

    config: Config
    parts: experiment.Experiment
    folder: Path
    console: Console
    sink: sinks.Sink
    checkpoints: checkpoint.Checkpoints
    shown: shown.Shown
    session: provenance.Session | None = None
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
            "iteration": state.done, "evaluated": state.evaluated, "frames": frames, "seconds": state.seconds,
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


def _heading(config: Config, parts: experiment.Experiment) -> Text:
    """Text that describes a run: its components, its length and its seeds."""
    frames, passes = parts.frames, ""
    if frames.scoring:
        passes = f", a scoring pass of {frames.scoring} frames before every {frames.every} of them"
    return Text.assemble(
        (config.env, "bold"),
        f" x {config.sampler} x {config.agent}, {parts.num_iterations} iterations of {frames.iteration} "
        f"frames{passes}, {len(config.plan)} seed(s){_devices(parts, len(config.plan))}",
    )


def _announce(config: Config, parts: experiment.Experiment, folder: Path, console: Console) -> None:
    """Prints what is run, and that there is no plot where the console cannot show one."""
    output.say(console, Text.assemble(_heading(config, parts), f", into {folder}"))
    if config.plot and not progress.can_plot(console):
        _say(console)("--plot needs a terminal with UTF-8; lines are printed instead")


def _say(console: Console) -> Callable[[str], None]:
    return lambda line: output.say(console, line, style="yellow", highlight=False)


def run(
    config: Config, console: Console, env: envs.Env | None = None, on_chunk: OnChunk | None = None,
    command: str | None = None,
) -> Path:  # fmt: skip
    """Trains, evaluates, tests and saves a run.

    With several processes, every process must call this; process 0 prints and writes.

    Args:
        config: the run's configuration.
        console: where to print.
        env: an environment object to use instead of the one that the configuration names.
        on_chunk: called after every chunk of iterations.
        command: the command that was called, for ``provenance.json``; None for that of the process.

    Returns:
        The run's folder.

    Raises:
        ConfigError: if options are incompatible or the folder cannot be used; one line. Raised before
            anything is computed.
        StoppedError: if a signal stopped the run.
        RunError: if every seed diverged, or the last checkpoint could not be written.
    """
    options, num_seeds = to_mapping(config), len(config.plan)
    _check(config, options)
    parts = experiment.make(config, env, sharding.placement(config))
    plan = Plan(config, options, config.eval.validates)
    shapes = start.shapes_of(parts, plan)
    _check_memory(config, parts, shapes)
    taken = start.inherited(parts, plan, shapes)
    folder = config.resume or distributed.shared_folder(
        lambda: run_folder.make(config.out, f"{config.env}-{config.sampler}", options)
    )
    with contextlib.ExitStack() as stack:
        _lock(stack, folder, console)
        if config.resume and start.is_complete(plan, parts, folder):
            output.say(console, f"{folder} is complete; a larger --frames goes on with it")
            return folder
        _announce(config, parts, folder, console)
        prepared = start.prepared(parts, plan, shapes, taken, folder / run_folder.CHECKPOINT)
        for line in prepared.lines:
            output.say(console, line)
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        if not config.resume and distributed.is_main():
            stack.enter_context(run_folder.removed_if_unused(folder))
        session = provenance.start(config, parts, folder, prepared.restored, command, _say(console))
        stack.enter_context(provenance.recorded(session))
        with waiting(console), interrupt.raised():
            began = time.monotonic()
            placed = sharding.placed_shapes(parts.placement.mesh, shapes, num_seeds)
            programs, state = compiled(parts, config, placed, pool, prepared.begin)
        console.print(f"compiled in {progress.duration(time.monotonic() - began)}")
        host = stack.enter_context(_host(config, parts, folder, console, state.done))
        if taken is not None:
            host.save(state)  # so that the run can be resumed without the other one
        _train_and_test(host._replace(session=session, on_chunk=on_chunk), programs, state)
    output.say(console, f"saved in {folder}")
    return folder


def _lock(stack: contextlib.ExitStack, folder: Path, console: Console) -> None:
    """Locks the folder in process 0 until the stack ends; a folder in use is refused in every process."""

    def lock() -> str:
        stack.enter_context(run_folder.locked(folder, _say(console)))
        return ""

    distributed.from_main(lock)


def _check(config: Config, options: dict[str, Any]) -> None:
    """Rejects what does not need the run's parts to be found."""
    distributed.check_same(options | {"mesh": config.mesh, "resume": str(config.resume)})
    sinks.check(config.log)
    start.check_total(config)


def _check_memory(config: Config, parts: experiment.Experiment, shapes: meta.MetaState) -> None:
    """Rejects a run whose state cannot fit in memory."""
    mesh, storage = parts.placement.mesh, parts.learner.storage
    devices: float = mesh.shape[sharding.SEED] if mesh else 1
    if (
        mesh and jax.default_backend() == "cpu"
    ):  # a machine's devices share its memory, and tasks repeat states
        devices = jax.process_count() / mesh.shape[sharding.TASK]
    memory.check(
        shapes, len(config.plan), storage=storage, least_rows=config.num_tasks,
        rows=to_mapping(config)[storage.rows] if storage else 0,
        devices=devices,
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
            run_folder.keep(folder, config.frames, config.imports)
        frames = parts.frames.after(done)
        sink = sinks.make(config.log, folder, config.plan, to_mapping(config), frames, _say(console))
    with contextlib.closing(sink):
        checkpoints = checkpoint.Checkpoints(folder / run_folder.CHECKPOINT, _say(console))
        with contextlib.closing(checkpoints):
            yield _Host(config, parts, folder, console, sink, checkpoints, shown.of(config, parts, folder))


def _train_and_test(host: _Host, programs: Programs, state: State) -> None:
    config, console, total, restored = host.config, host.console, host.parts.num_iterations, state
    with interrupt.Interrupts() as interrupts:
        state = _loop(host, programs, state, interrupts)
        if state is restored and config.eval.validates and state.evaluated < state.done:
            programs.tests.ready("validation")  # an earlier session had a larger total
            state, _ = _validated(host, programs, state)
        with console.status("saving the checkpoint ..."):
            if state is not restored or host.checkpoints.wait() != state.done:
                host.save(state)
            saved = host.checkpoints.wait() == state.done
    stopped = _stopped(host.parts, state.meta)
    if state.done < total and len(stopped) < len(config.plan):
        raise StoppedError(
            interrupts.asked or signal.SIGTERM,  # SIGTERM if another process received the signal
            f"stopped after {state.done} of {total} iterations"
            + ("; " if saved else ", but the last of them could not be saved; ")
            + start.how_to_resume(config, host.folder),
        )
    with console.status("testing ..."):
        programs.tests.ready("test")
        began = time.monotonic()
        final = result.of_test(programs.tests.outcome(state.meta.learner, "test"), config)
        if saved:  # a run with these rows is complete
            host.log("test/", final, state.done, state.seconds + time.monotonic() - began)
    output.show_table(console, result.table(config, final, stopped, host.parts.learner.inner_steps))
    if len(stopped) == len(config.plan):
        reason = why(host.parts.env)
        raise RunError(
            f"every seed diverged, the last after {max(stopped.values())} of {total} iterations"
            + (f", because {reason}" if reason else "")
            + f"; the states before divergence are saved in {host.folder}"
        )
    if not saved:
        raise RunError(
            "the last checkpoint was not written (see above); fix the cause and "
            + start.how_to_resume(config, host.folder)
        )


def _stopped(parts: experiment.Experiment, state: meta.MetaState) -> dict[int, int]:
    """For the seeds that diverged: the iterations done before, by position of the seed."""
    whole = jax.jit(sharding.place_output(lambda stopped: stopped, parts.placement.mesh))
    iterations_done = np.atleast_1d(np.asarray(whole(state.stopped)))
    return {place: int(iterations) for place, iterations in enumerate(iterations_done) if iterations >= 0}


def _validated(host: _Host, programs: Programs, state: State) -> tuple[State, Rows]:
    """Evaluates the learners on the validation tasks and updates the best ones."""
    summaries = result.of_test(programs.tests.outcome(state.meta.learner, "validation"), host.config)
    host.log("eval/", summaries, state.done, state.seconds)
    mean, cvar = (np.array([row[name] for row in summaries], np.float32) for name in ("return_mean", "cvar"))
    acting = host.parts.learner.acting(state.meta.learner)
    best = best_learners.update(state.best, np.int32(state.done), mean, cvar, acting)
    return state._replace(best=best, evaluated=state.done), summaries


def _report_diverged(host: _Host, before: Rows, now: Rows) -> None:
    """Prints a line for each seed that diverged in the last chunk."""
    for place, seed in enumerate(host.config.plan):
        already = before and diverged(before[place])
        if diverged(now[place]) and not already:
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


def _loop(host: _Host, programs: Programs, state: State, interrupts: interrupt.Interrupts) -> State:
    """Runs chunks of iterations, with an evaluation and a checkpoint whenever one is due."""
    config, parts = host.config, host.parts
    total, frames_after = parts.num_iterations, parts.frames.after
    interval, display = config.eval.every(config.num_tasks, total), host.shown
    num_seeds, clock, saved = len(config.plan), progress.Clock(state.seconds), time.monotonic()
    episodes = units.episodes(config, parts.env)
    plot = display.plot if config.plot and progress.can_plot(host.console) else None
    with progress.ConsoleProgress(
        host.console, frames_after(total), num_seeds, frames_after(state.done), plot, clock
    ) as bar:
        while state.done < total:
            started = clock.seconds()
            to_evaluation = interval - state.done % interval if interval else total
            # the first chunk has one iteration, so that progress appears early
            to_chunk = parts.train.chunk_length - state.done % parts.train.chunk_length
            n = min(to_chunk if state.done else 1, to_evaluation, total - state.done)
            after, rows = programs.chunk(state.meta, jnp.int32(n))
            latest = progress.mean_over_rows(jax.device_get(rows))
            frames = frames_after(state.done + n) - frames_after(state.done)
            state = state._replace(meta=after, done=state.done + n, seconds=clock.seconds())
            speed = {"train/frames_per_second": frames / (state.seconds - started)}
            latest = [units.per_episode(row, episodes) | speed for row in latest]
            _report_diverged(host, display.latest, latest)
            if state.done == n:
                _check_first(host, latest)
            display.trained(frames_after(state.done), latest)
            host.log("", latest, state.done, state.seconds)
            if host.session is not None:
                host.session.trained(state.done, frames_after(state.done), state.seconds)
            with clock.stopped():
                programs.tests.begin()  # after the first metrics
            if host.on_chunk is not None:
                host.on_chunk(state.done, latest)
            evaluated = bool(interval) and (state.done % interval == 0 or state.done >= total)
            if evaluated:
                with clock.stopped():
                    programs.tests.ready("validation")
                state, held_out = _validated(host, programs, state)
                display.evaluated(frames_after(state.done), held_out)
            bar.advance(frames, display.facts, evaluated)
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            asked, due = distributed.any_of(interrupts.asked is not None, due)
            if asked or all(map(diverged, latest)):
                return state
            if due and state.done < total:
                host.save(state)
                saved = time.monotonic()
    return state
