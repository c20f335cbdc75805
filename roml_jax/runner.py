"""The host's side of a run: everything that happens between two chunks of iterations."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from roml_jax import checkpoint, distributed, evaluate, experiment, memory, meta, metrics, runs
from roml_jax.config import Config, ConfigError, to_mapping


def enable_compile_cache() -> None:
    """Keeps compiled programs under the user's cache folder, unless JAX was told of another place."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roml_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def make_folder(config: Config) -> Path:
    """The run's own new folder.

    Raises:
        ConfigError: if it holds something already or cannot be made.
    """
    folder = config.out or Path("runs") / f"{config.env}-{config.sampler}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = 1
    named = folder
    try:
        while config.out is None and folder.exists():
            tries += 1
            folder = named.with_name(f"{named.name}-{tries}")
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"--out {folder} exists and is not empty; a run needs a new folder")
        (folder / "config.yaml").write_text(yaml.safe_dump(to_mapping(config), sort_keys=False))
    except OSError as error:
        raise ConfigError(f"cannot write to the run's folder {folder}: {error.strerror}") from None
    return folder


class _Programs(NamedTuple):
    """Compiled functions; the final test's compiles while training already runs."""

    chunk: Callable[..., Any]
    evaluate: Callable[..., Any]
    test: concurrent.futures.Future[Callable[..., Any]]


def _compile(
    parts: experiment.Experiment, state: meta.MetaState, pool: concurrent.futures.Executor
) -> _Programs:
    """Compiles training and evaluation side by side: tracing is serial, XLA is not."""
    chunk = jax.jit(parts.train.chunk, donate_argnums=0).lower(state, jnp.int32(0))
    compiling = pool.submit(chunk.compile)
    evaluation, test = (jax.jit(f).lower(state.learner) for f in (parts.evaluate, parts.test))
    return _Programs(evaluate=evaluation.compile(), chunk=compiling.result(), test=pool.submit(test.compile))


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


def _facts(latest: list[dict[str, float]], held_out: list[dict[str, float]]) -> str:
    """What the progress line shows beside the speed; means over runs."""
    phi = [name for name in latest[0] if name.startswith("sampler/phi_")]
    shown = ", ".join(f"{_mean(latest, name):.3f}" for name in phi)
    return (
        f"mean {_mean(held_out, 'return_mean'):.3f}  cvar {_mean(held_out, 'cvar'):.3f}  phi {shown}"
        if held_out
        else f"phi {shown}"
    )


class _Log:
    """Rows of metrics.jsonl: every row says which run, how many iterations, frames and seconds."""

    def __init__(self, folder: Path, config: Config) -> None:
        # of several processes one writes
        main = distributed.is_main()
        self._sink = metrics.JsonLines(folder / "metrics.jsonl") if main else metrics.Nowhere()
        self._runs, self._start = config.runs, time.monotonic()

    def write(self, prefix: str, rows: list[dict[str, float]], iteration: int, frames: int) -> None:
        seconds = round(time.monotonic() - self._start, 3)
        for run, values in zip(self._runs, rows, strict=True):
            head = {**run.columns, "iteration": iteration, "frames": frames, "seconds": seconds}
            self._sink.write(head | {f"{prefix}{name}": value for name, value in values.items()})

    def close(self) -> None:
        self._sink.close()


def result_table(config: Config, final: list[dict[str, float]]) -> Table:
    """The final test, a row per run, and the mean over the seeds of every setting."""
    table = Table(title=f"{config.env}, {config.sampler}: {config.eval.test_tasks} held-out tasks")
    episodes = [name for name in final[0] if name.startswith("return_episode_")]
    own_alpha = "alpha" in config.runs[0].settings
    cvar = "CVaR" if own_alpha else f"CVaR {config.alpha:g}"
    for heading in ("seed", "mean return", cvar, *(f"episode {i}" for i in range(len(episodes)))):
        table.add_column(heading, justify="right")
    rows: list[tuple[str, Mapping[str, float]]] = []
    per_setting = len(config.seeds)
    for start in range(0, len(final), per_setting):
        part = list(zip(config.runs, final, strict=True))[start : start + per_setting]
        rows += [(run.label, values) for run, values in part]
        if per_setting > 1:
            label = part[0][0]._replace(seed="mean").label
            rows.append((label, {name: _mean([values for _, values in part], name) for name in final[0]}))
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


def run(config: Config, console: Console) -> Path:
    """Trains, evaluates, tests and saves; returns the run's folder.

    With several processes each calls this, and process 0 prints and writes.

    Raises:
        ConfigError: where options do not go together or the folder cannot be used; one line, before
            anything was computed.
    """
    distributed.check_same(to_mapping(config) | {"mesh": config.mesh})
    parts = experiment.make(config)
    start = runs.leaves(config.runs)
    shapes = jax.eval_shape(parts.train.init, *start)
    memory.check(config, shapes, len(config.runs), parts.mesh.shape["seed"] if parts.mesh else 1)
    folder = distributed.shared_folder(lambda: make_folder(config))
    console.print(f"[bold]{config.env}[/] x {config.sampler} x {config.agent}, "
                  f"{parts.num_iterations} iterations of {parts.frames_per_iteration} frames, "
                  f"{len(config.runs)} run(s){_devices(parts)}, into {folder}", soft_wrap=True)  # fmt: skip
    with contextlib.closing(_Log(folder, config)) as log, concurrent.futures.ThreadPoolExecutor() as pool:
        with console.status("compiling ..."):
            began = time.monotonic()
            state = jax.jit(parts.train.init)(*start)
            programs = _compile(parts, state, pool)
        console.print(f"compiled in {metrics.duration(time.monotonic() - began)}")
        state = _loop(config, parts, programs, state, log, console)
        with console.status("testing ..."):
            final = _summaries(programs.test.result()(state.learner), config)
        log.write("test/", final, parts.num_iterations, parts.num_iterations * parts.frames_per_iteration)
    console.print(result_table(config, final))
    with console.status("saving the checkpoint ..."):
        checkpoint.save(folder / "checkpoint", state)
    console.print(f"saved in {folder}", soft_wrap=True)
    return folder


def _loop(
    config: Config, parts: experiment.Experiment, programs: _Programs, state: meta.MetaState, log: _Log,
    console: Console,
) -> meta.MetaState:  # fmt: skip
    """Chunks of iterations with an evaluation whenever one is due; the first before any training."""
    interval, total, per_iteration = config.eval.interval, parts.num_iterations, parts.frames_per_iteration
    held_out: list[dict[str, float]] = []
    num_runs, done = len(config.runs), 0
    with metrics.ConsoleProgress(console, total * per_iteration * num_runs) as progress:
        while True:
            if interval and (done % interval == 0 or done >= total):
                held_out = _summaries(programs.evaluate(state.learner), config)
                log.write("eval/", held_out, done, done * per_iteration)
            if done >= total:
                return state
            to_evaluation = interval - done % interval if interval else total
            n = min(parts.train.chunk_length, to_evaluation, total - done)
            state, rows = programs.chunk(state, jnp.int32(n))
            latest = metrics.mean_over_rows(jax.device_get(rows))
            done += n
            log.write("", latest, done, done * per_iteration)
            progress.advance(n * per_iteration * num_runs, _facts(latest, held_out))
