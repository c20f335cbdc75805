"""Reads runs from their folders and groups them by environment and method; pools the seeds of a method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from roml_jax import config as configs
from roml_jax import experiment
from roml_jax.config import FREE, Config, seed_plan, to_mapping
from roml_jax.errors import ConfigError
from roml_jax.run import folder as run_folder
from roml_jax.run import units

# Options that do not distinguish methods: seeds, progress output, and how a run is computed.
_SILENT = (
    "seeds",
    "sweep",
    "chunk",
    "imports",
    "eval.interval",
    "env.physics",
    "env.iterations",
    "env.ls_iterations",
    *FREE,
)
_NAMES = {
    "cem": "cem (RoML)",
    "cem_soft": "cem_soft (RoML)",
    "cem_weighted": "cem_weighted (RoML)",
    "tail": "tail (CVaR-ML)",
}
BASELINE = "uniform"


class Seed(NamedTuple):
    """The metrics of one seed of a method.

    Attributes:
        seed: the random seed.
        folder: the run's folder.
        place: position of the seed in the run.
        columns: arrays by metric name, including "frames"; NaN where a row has no value.
    """

    seed: int
    folder: Path
    place: int
    columns: Mapping[str, np.ndarray]

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(frames, values) of a metric, at the rows that have a finite value."""
        frames, values = self.columns["frames"], self.columns.get(name, np.zeros(0))
        if not values.size:
            return values, values
        finite = np.isfinite(values)
        return frames[finite], values[finite]

    def last(self, name: str) -> float | None:
        """A metric's last finite value, or None."""
        _, values = self.series(name)
        return float(values[-1]) if values.size else None

    @property
    def tested(self) -> bool:
        """Whether the seed was tested; its returns are NaN if an episode diverged on all tasks."""
        return any(self.last(f"test/{name}") is not None for name in ("return_mean", "diverged"))

    def final(self, name: str) -> float | None:
        """A metric of the final test or, without a test, of the last evaluation; None if there is none."""
        value = self.last(f"test/{name}")
        if value is None and self.tested:
            return math.nan if f"test/{name}" in self.columns else None
        return self.last(f"eval/{name}") if value is None else value


class Method(NamedTuple):
    """Seeds that share all options.

    Attributes:
        label: label in figures and tables; unique within the environment.
        sampler: name of the sampler.
        alpha: risk level of the evaluation.
        config: configuration of the first run.
        options: options by dotted name, including swept values.
        seeds: the seeds, pooled from all folders.
    """

    label: str
    sampler: str
    alpha: float
    config: Config
    options: Mapping[str, Any]
    seeds: tuple[Seed, ...]

    def final(self, name: str) -> dict[int, float]:
        """The metric by seed, from the final test or, without a test, from the last evaluation.

        NaN for a seed that was tested and has no return, since an episode diverged on all tasks.
        """
        values = {seed.seed: seed.final(name) for seed in self.seeds}
        return {seed: value for seed, value in values.items() if value is not None}

    @property
    def tested(self) -> bool:
        """Whether all seeds were tested."""
        return all(seed.tested for seed in self.seeds)


class Group(NamedTuple):
    """The methods on one environment; those with uniform sampling come first."""

    env: str
    methods: tuple[Method, ...]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Rows as arrays by metric name. NaN and infinite values, which are strings in the file, are parsed."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([float(row.get(name, "nan")) for row in rows]) for name in names}


class _Folder(NamedTuple):
    path: Path
    config: Config
    rows: list[dict[str, Any]]


def _read(path: Path) -> _Folder:
    """Reads a run's folder.

    Raises:
        ConfigError: if the folder is not a run's, or has no metrics yet; one line.
    """
    run_folder.check(path)
    config = configs.read(path / run_folder.CONFIG)
    rows = run_folder.read_metrics(path / run_folder.METRICS)
    if not rows:
        raise ConfigError(f"{path} has no {run_folder.METRICS} yet")
    rows = units.from_file(rows, lambda: units.episodes(config, experiment.make_env(config)))
    return _Folder(path, config, rows)


def _options(config: Config, seed: seed_plan.Seed) -> dict[str, Any]:
    """The options that define a method: all but ``_SILENT``, with the seed's swept values."""
    options = {**to_mapping(config), **seed.settings}
    return {name: value for name, value in options.items() if name not in _SILENT}


def _environment(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """The environment and its options, by which runs are grouped."""
    return tuple(
        (name, repr(value)) for name, value in options.items() if name == "env" or name.startswith("env.")
    )


def _differing(all_options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of options with different values, in order of first occurrence."""
    names = dict.fromkeys(name for options in all_options for name in options)
    return [name for name in names if len({repr(options.get(name)) for options in all_options}) > 1]


def _brief(name: str, value: Any) -> str:
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"


def _labels(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short unique labels: the sampler, the agent if there are several, and other differing options."""
    agents = len({options["agent"] for options in entries}) > 1
    plain = [
        _NAMES.get(options["sampler"], options["sampler"]) + (f" x {options['agent']}" if agents else "")
        for options in entries
    ]
    labels = []
    for label, options in zip(plain, entries, strict=True):
        same = [other for other_label, other in zip(plain, entries, strict=True) if other_label == label]
        extra = [_brief(name, options[name]) for name in _differing(same) if name in options]
        labels.append(", ".join([label, *extra]))
    return labels


def load(paths: Sequence[Path]) -> tuple[Group, ...]:
    """Reads runs and groups them.

    Args:
        paths: folders of runs.

    Raises:
        ConfigError: if a folder is not a run's, or a seed of a method occurs twice; one line.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a run is given twice")
    pooled: dict[tuple[Any, ...], dict[str, tuple[Config, dict[str, Any], list[Seed]]]] = {}
    for path, config, rows in map(_read, paths):
        for place, run in enumerate(config.plan):
            seed_rows = [
                row for row in rows if all(row.get(name) == value for name, value in run.columns.items())
            ]
            if not seed_rows:
                continue  # the run was stopped before its first row
            options = _options(config, run)
            methods = pooled.setdefault(_environment(options), {})
            _, _, seeds = methods.setdefault(repr(sorted(options.items(), key=str)), (config, options, []))
            twice = [seed.folder for seed in seeds if seed.seed == run.seed]
            if twice:
                raise ConfigError(
                    f"{twice[0]} and {path} have the same seed {run.seed} of the same method: leave one out"
                )
            seeds.append(Seed(run.seed, path, place, _columns(seed_rows)))
    return tuple(_group(env, list(methods.values()), list(pooled)) for env, methods in pooled.items())


def _group(
    env: tuple[Any, ...],
    entries: list[tuple[Config, dict[str, Any], list[Seed]]],
    envs: list[tuple[Any, ...]],
) -> Group:
    entries = sorted(entries, key=lambda entry: entry[1]["sampler"] != BASELINE)
    methods = [
        Method(label, options["sampler"], options["alpha"], config, options, tuple(sorted(seeds)))
        for label, (config, options, seeds) in zip(
            _labels([entry[1] for entry in entries]), entries, strict=True
        )
    ]
    named = dict(env)
    same = [dict(other) for other in envs if dict(other)["env"] == named["env"]]
    differing = [name for name in _differing(same) if name in named]
    name = named["env"].strip("'")
    return Group(", ".join([name, *(f"{key}={named[key]}" for key in differing)]), tuple(methods))


def differences(group: Group) -> list[tuple[str, list[str]]]:
    """Options with different values, as (name, value of each method); "" if a method has no such option.

    An option that exists only for one sampler or agent is left out if its value does not differ; the name of
    the sampler or agent is listed instead.
    """
    every = [method.options for method in group.methods]
    rows = []
    for name in _differing(every):
        distinct = {repr(options[name]) for options in every if name in options}
        if len(distinct) > 1:
            rows.append((name, [str(options.get(name, "")) for options in every]))
    return rows


def judged(method: Method) -> float | None:
    """None for a method whose seeds are all tested, else the frames at which it was last evaluated, or 0."""
    if method.tested:
        return None
    evaluated = [seed.series("eval/return_mean")[0] for seed in method.seeds]
    return max((float(frames[-1]) for frames in evaluated if frames.size), default=0.0)


def note(method: Method) -> str:
    """Remarks on a method's seeds: which of them were stopped, diverged or were never evaluated."""
    frames = {seed.seed: seed.columns["frames"][-1] for seed in method.seeds}
    longest = max(frames.values())
    notes = [
        f"seed {seed} ends at {_millions(at)} frames" for seed, at in frames.items() if at < 0.99 * longest
    ]
    diverged = [str(seed.seed) for seed in method.seeds if (seed.last("train/stopped") or 0) > 0]
    if diverged:
        notes.append(f"diverged: seed {', '.join(diverged)}")
    broken = [str(seed) for seed, value in method.final("return_mean").items() if math.isnan(value)]
    if broken:
        notes.append(f"an episode diverged on all test tasks: seed {', '.join(broken)}")
    if not method.final("return_mean"):
        notes.append("never evaluated")
    elif not method.tested:
        notes.append(f"stopped at {_millions(longest)} frames, not tested: values of the last evaluation")
    return "; ".join(notes)


def _millions(frames: float) -> str:
    return f"{frames / 1e6:.3g} million"
