"""Makes tables and figures from the compact results."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.reproduce import protocol, raw
from benchmarks.reproduce.protocol import METHODS
from benchmarks.reproduce.protocol import method as method_of
from benchmarks.reproduce.published import CURVES, PUBLISHED, SAME, at_iteration, curve
from roml_jax import config as configs
from roml_jax import risk
from roml_jax.envs.khazad_dum import ROUTES
from roml_jax.errors import ConfigError
from roml_jax.evaluate import intervals
from roml_jax.evaluate.records import Records
from roml_jax.evaluate.verdict import bins
from roml_jax.report import data, figures, series, style
from roml_jax.run import folder
from roml_jax.samplers import drawn

_NOISE_GROUPS = 5


class Result(NamedTuple):
    """A method's seeds on one environment.

    Attributes:
        name: the method's name.
        folders: the folders of its groups of seeds.
        tested: test results of all seeds.
        alpha: risk level.
        hours: of training, sum over all groups.
        frames: per seed.
        iterations: per seed.
        late: CVaR on the validation tasks, by seed, averaged over the last third of the evaluations. It
            depends less on one moment of training than the final test, if there are enough evaluations.
    """

    name: str
    folders: tuple[Path, ...]
    tested: raw.Tested
    alpha: float
    hours: float
    frames: int
    iterations: int
    late: dict[int, float]

    def figures(self, what: str) -> dict[int, float]:
        """The "mean" or "cvar" of the returns over the held-out tasks, or ``late``, by seed."""
        if what == "late":
            return self.late
        values = self.tested.returns.mean(axis=1)
        if what == "cvar":
            values = np.asarray([risk.cvar(one, self.alpha) for one in self.tested.returns])
        return dict(zip(self.tested.seeds.tolist(), values.tolist(), strict=True))


def _late(rows: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """CVaR by seed, averaged over the last third of a group's evaluations."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if "eval/cvar" in row:
            found.setdefault(int(row["seed"]), []).append(row["eval/cvar"])
    return {seed: float(np.mean(values[-math.ceil(len(values) / 3) :])) for seed, values in found.items()}


def load(results: Path) -> list[Result]:
    """The results of all methods in an environment's folder, in the order of the protocol."""
    loaded = []
    for path in sorted(path for path in results.iterdir() if path.is_dir()):
        read = [(raw.read(place), place) for place in path.iterdir() if raw.exists(place)]
        if not read:
            continue
        parts, places = zip(*sorted(read, key=lambda pair: int(pair[0].seeds[0])), strict=True)
        config = configs.read(places[0] / folder.CONFIG)
        rows = [folder.read_metrics(place / folder.METRICS) for place in places]
        pooled = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("seeds", "returns", "routes", "turns")
            if all(getattr(part, name) is not None for part in parts)
        }
        if len(set(pooled["seeds"].tolist())) < len(pooled["seeds"]):
            raise ConfigError(f"{path} has the same seed in two groups")
        tested = raw.Tested(**{"routes": None, "tasks": parts[0].tasks, **pooled})
        hours = sum(row[-1]["seconds"] for row in rows) / 3600
        frames, iterations = (int(rows[0][-1][name]) for name in ("frames", "iteration"))
        late = {seed: cvar for group in rows for seed, cvar in _late(group).items()}
        loaded.append(Result(path.name, places, tested, config.alpha, hours, frames, iterations, late))
    return sorted(loaded, key=lambda result: protocol.place(result.name))


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_partial(env: str, results: Sequence[Result]) -> bool:
    """Whether the results end earlier than the published curves."""
    curves = [curve(env, name, what) for name in CURVES.get(env, {}) for what in ("mean", "cvar")]
    return bool(curves) and max(result.iterations for result in results) < 0.95 * max(map(max, curves))


def final_table(env: str, results: Sequence[Result]) -> str:
    """Mean and CVaR of every method and the published ones, at the end and at the same iteration."""
    if not results:
        return ""
    partial, cvar = _is_partial(env, results), f"CVaR {results[0].alpha:g}"
    theirs = ["published then", "published at the end"] if partial else ["published"]
    with_turns = all(result.tested.turns is not None for result in results)
    heads = ["method", "seeds", "frames", "mean return", *theirs, cvar, *theirs, "hours"]
    rows = []
    for result in results:
        name = protocol.split(result.name)[0]
        ours = [intervals.bootstrap(list(result.figures(what).values())) for what in ("mean", "cvar")]
        digits = intervals.decimals([one.mean for one in ours])
        final = [one.text(digits) for one in PUBLISHED.get(env, {}).get(name, ())] or ["", ""]
        row = [method_of(result.name).title, str(ours[0].n), f"{result.frames / 1e6:.3g}e6"]
        for what, our, end in zip(("mean", "cvar"), ours, final, strict=True):
            then = [at_iteration(env, name, what, result.iterations)] if partial else []
            row += [our.text(digits), *then, end]
        row.append(f"{result.hours:.2f}")
        rows.append([*row, _turns(result)] if with_turns else row)
    return markdown([*heads, "turns an episode"] if with_turns else heads, rows)


def _turns(result: Result) -> str:
    """Mean turns of the torso per episode, and the number of seeds with at least one turn on average."""
    by_seed = result.tested.turns.mean(axis=1)
    return f"{by_seed.mean():.2f} ({(by_seed >= 1).sum()} of {len(by_seed)} seeds somersault)"


class Difference(NamedTuple):
    """A method's figure minus its baseline's, seed by seed.

    Attributes:
        interval: of the mean difference.
        p: p-values of Wilcoxon's signed-rank test and of Student's paired t-test.
        digits: number of decimals in tables.
    """

    interval: intervals.Interval
    p: tuple[float, float]
    digits: int


def difference(result: Result, base: Result, what: str) -> Difference | None:
    """The difference of ``Result.figures``; None with fewer than two seeds in common."""
    ours, theirs = result.figures(what), base.figures(what)
    interval = intervals.paired(ours, theirs)
    if interval is None or interval.n < 2:
        return None
    both = sorted(ours.keys() & theirs.keys())
    a, b = [ours[seed] for seed in both], [theirs[seed] for seed in both]
    tests = (float(stats.wilcoxon(a, b).pvalue), float(stats.ttest_rel(a, b).pvalue))
    return Difference(interval, tests, intervals.decimals([*a, *b]))


def _with_baseline(results: Sequence[Result]) -> Iterator[tuple[Result, Result]]:
    """(method, its baseline) for every method whose baseline is among the results."""
    by_name = {result.name: result for result in results}
    for result in results:
        base = protocol.baseline(result.name)
        if base in by_name:
            yield result, by_name[base]


def _without_setting(results: Sequence[Result]) -> Iterator[tuple[Result, Result]]:
    """(method with a setting, the same method with one setting less) where both are among the results."""
    by_name = {result.name: result for result in results}
    for result in results:
        base, settings, ablations = protocol.split(result.name)
        for one in settings:
            others = [other for other in settings if other != one]
            without = "+".join([base, *others, *ablations])
            if without in by_name:
                yield result, by_name[without]


def _with_other_baselines(results: Sequence[Result]) -> Iterator[tuple[str, Result]]:
    """(name of an ablation, the baseline of its method without ablations) for every ablation."""
    by_name = {result.name: result for result in results}
    for result in results:
        name, settings, ablations = protocol.split(result.name)
        base = protocol.baseline("+".join([name, *settings]))
        if ablations and base in by_name:
            yield result.name, by_name[base]


def paired_table(results: Sequence[Result]) -> str:
    """Differences from the baselines, and of a setting from the method without it; empty if there are none.

    Of the final test, and of CVaR in the last third of the evaluations, with the p-values of two paired
    tests.
    """
    rows = []
    for result, base in [*_with_baseline(results), *_without_setting(results)]:
        cvar = f"CVaR {result.alpha:g}"
        titles = {"mean": "mean return", "cvar": cvar, "late": f"{cvar}, late validation"}
        for what, title in titles.items():
            change = difference(result, base, what)
            if change is None:
                continue
            rows.append([
                f"{method_of(result.name).title} - {method_of(base.name).title}",
                title, str(change.interval.n), *_cells(change),
            ])  # fmt: skip
    heads = ["difference", "of", "pairs", "mean [95 %]", "p (Wilcoxon)", "p (t)"]
    return markdown(heads, rows) if rows else ""


def ablation_table(results: Sequence[Result]) -> str:
    """The effect of each ablation, and its difference from the method's baseline; empty if there are none."""
    cvar = f"CVaR {results[0].alpha:g}"
    pairs = [(result, base) for result, base in _with_baseline(results) if protocol.is_ablation(result.name)]
    first = dict(_with_other_baselines(results))
    heads = ["variant", "seeds", "mean return", cvar, "hours", f"{cvar} - without", "p (Wilcoxon)", "p (t)"]
    if first:
        heads += [f"{cvar} - baseline", "p (Wilcoxon)", "p (t)"]  # RoML's is VariBAD
    rows = []
    for result, base in pairs:
        change = difference(result, base, "cvar")
        if change is None:
            continue
        ours = [intervals.bootstrap(list(result.figures(what).values())) for what in ("mean", "cvar")]
        row = [method_of(result.name).title, str(ours[0].n), *(one.text(change.digits) for one in ours)]
        row += [f"{result.hours:.2f}", *_cells(change)]
        if first:
            row += _cells(difference(result, first[result.name], "cvar") if result.name in first else None)
        rows.append(row)
    return markdown(heads, rows) if rows else ""


def _cells(found: Difference | None) -> list[str]:
    """The three cells of a difference, empty without one."""
    if found is None:
        return [""] * 3
    return [found.interval.text(found.digits), *(f"{p:.2g}" for p in found.p)]


def routes_table(results: Sequence[Result]) -> str:
    """Shares of the routes in the last episode, by noise, on khazad_dum; empty on other environments."""
    rows = []
    for result in results:
        tested = result.tested
        if tested.routes is None:
            continue
        noise, last = tested.tasks[:, 0], tested.routes[:, :, -1]
        everything = [("all", np.arange(len(noise)))]
        parts = [
            (f"{noise[part].min():.3f} to {noise[part].max():.3f}", part)
            for part in bins(noise, _NOISE_GROUPS)
        ]
        for name, part in [*everything, *parts]:
            shares = [(last[:, part] == i).mean() for i in range(len(ROUTES))]
            rows.append([method_of(result.name).title, name, *(f"{share:.1%}" for share in shares)])
    return markdown(["method", "noise", *ROUTES], rows) if rows else ""


def _records(result: Result, family_names: tuple[str, ...], method: data.Method) -> Records:
    """Records for the report's figures, with a task's mean return as its only episode."""
    returns = result.tested.returns[:, :, None].astype(float)
    return Records(
        names=family_names, seeds=tuple(method.config.plan), which="last",
        iterations=np.zeros(len(returns), int), alpha=(result.alpha,), chosen="prior",
        tasks=result.tested.tasks, returns=returns, diverged=np.zeros(returns.shape, bool), terms={},
    )  # fmt: skip


def draw(env: str, results: Sequence[Result], images: Path) -> list[Path]:
    """Draws learning curves, final figures, returns against the task and the sampler's tasks, as PNGs.

    Ablations are left out; methods with the same settings share a figure.
    """
    results = [result for result in results if not protocol.is_ablation(result.name)]
    every = dict.fromkeys(protocol.split(result.name)[1] for result in results)
    paths = []
    for settings in every:
        same = [result for result in results if protocol.split(result.name)[1] == settings]
        paths += _draw("+".join([env, *settings]), same, images)
    return paths


def _draw(title: str, results: Sequence[Result], images: Path) -> list[Path]:
    (group,) = data.load([place for result in results for place in result.folders])
    by_place = {place: result for result in results for place in result.folders}
    result_of = {method.label: by_place[method.seeds[0].folder] for method in group.methods}
    titled = {label: METHODS[protocol.split(result.name)[0]].title for label, result in result_of.items()}
    group = group._replace(
        methods=tuple(method._replace(label=titled[method.label]) for method in group.methods)
    )
    result_of = {titled[label]: result for label, result in result_of.items()}
    family = series.environment(group.methods[0]).family
    records = {one.label: _records(result_of[one.label], family.names, one) for one in group.methods}
    found = {one.label: draws for one in group.methods if (draws := series.draws(one, family)) is not None}
    prior = drawn.prior(family)
    learning = figures.learning(group)
    if learning is not None:
        _mark_published(learning, group, result_of)
    by_name = {
        "learning": learning,
        "final": figures.final(group),
        "tasks": figures.against_task(group, records, family),
        "sampler": figures.sampler(group, found, family, prior.spread(prior.phi[None])),
    }
    images.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in by_name.items():
        if figure is not None:
            paths.append(images / f"results_{title}_{name}.png")
            figure.savefig(paths[-1], dpi=120)
    return paths


def _mark_published(figure: Figure, group: data.Group, result_of: Mapping[str, Result]) -> None:
    """Adds the published curve's points to learning curves, as diamonds in each method's colour."""
    env = group.methods[0].config.env
    looks = style.looks([method.sampler for method in group.methods])
    last = max(float(seed.columns["frames"].max()) for method in group.methods for seed in method.seeds)
    for axis in figure.axes:
        title = axis.get_title(loc="left")
        what = "cvar" if "CVaR" in title else "mean" if "mean" in title else None
        if what is None:
            continue
        scale = last / axis.get_xlim()[1]
        for method, look in zip(group.methods, looks, strict=True):
            result = result_of[method.label]
            points = curve(env, protocol.split(result.name)[0], what)
            frames = {at * result.frames / result.iterations: value for at, value in points.items()}
            visible = {min(at, last): value for at, value in frames.items() if at <= (1 + SAME) * last}
            if not visible:  # an empty line that is not clipped has no extent, and the layout fails
                continue
            axis.plot(
                [at / scale for at in visible], list(visible.values()), "D", color=look.colour, ms=4.5,
                markeredgecolor="black", markeredgewidth=0.6, clip_on=False, zorder=5,
            )  # fmt: skip


def fill(page: Path, name: str, text: str) -> bool:
    """Replaces the text between a name's marks on a page; returns whether the page has these marks."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before = page.read_text()
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(before):
        return False
    page.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", before))
    return True


def tables(env: str, results: Sequence[Result]) -> str:
    """All tables of an environment that are not empty."""
    main = [result for result in results if not protocol.is_ablation(result.name)]
    each = [final_table(env, main), paired_table(main), ablation_table(results), routes_table(main)]
    return "\n\n".join(table for table in each if table)
