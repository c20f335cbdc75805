"""The report's sections on one environment. A section without data has text instead of a figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from roml_jax.evaluate.records import Records
from roml_jax.evaluate.verdict import ONE_SEED
from roml_jax.report import data, figures, page, series, verdicts
from roml_jax.report.data import Group
from roml_jax.report.page import Section
from roml_jax.report.series import Tested
from roml_jax.samplers import drawn
from roml_jax.tasks import TaskFamily


def _seeds(group: Group) -> str:
    """Text on the confidence intervals."""
    if all(len(method.seeds) == 1 for method in group.methods):
        return f"One seed per method, so no intervals. {ONE_SEED}"
    single = [method.label for method in group.methods if len(method.seeds) == 1]
    few = min((len(method.seeds) for method in group.methods if len(method.seeds) > 1), default=0)
    text = "Means over seeds; bands, bars and brackets are 95 % bootstrap intervals over seeds"
    text += " (too narrow with so few seeds)." if few < 10 else "."
    return text + (f" One seed, so no interval: {', '.join(single)}." if single else "")


def _learning(group: Group) -> Section:
    figure = figures.learning(group)
    if figure is None:
        return Section("Learning curves", "No run was evaluated more than once during training.")
    evals = {(method.config.eval.seed, method.config.eval.tasks) for method in group.methods}
    which = "the same held-out tasks"
    if len(evals) > 1:
        which = "held-out tasks of its own (eval.seed, eval.tasks), so that differences contain some chance"
    words = f"Every method is evaluated on {which}. {_seeds(group)}"
    rarely_evaluated = [
        method.label for method in group.methods if series.curve(method, "eval/return_mean") is None
    ]
    if rarely_evaluated:
        words += f" Evaluated at most once during training: {', '.join(rarely_evaluated)}."
    return Section("Learning curves", words, figure, "learning")


def _training(group: Group) -> list[Section]:
    """The last figure: methods train on different tasks, so that it does not compare them."""
    figure = figures.training(group)
    if figure is None:
        return []
    words = (
        "Mean return of the tasks that each method draws for itself. A method that draws harder tasks has a "
        "lower curve and is not worse: this figure shows whether a method learns, and compares no methods. "
        f"{_seeds(group)}"
    )
    return [Section("Training return, each method on its own tasks", words, figure, "training")]


def _drawn(group: Group, family: TaskFamily) -> list[Section]:
    found = {
        method.label: draws for method in group.methods if (draws := series.draws(method, family)) is not None
    }
    if not found:
        return []
    words = (
        "Lines: mean of the tasks that the sampler draws (thin lines: each seed). Bands: the middle 80 % "
        "of these tasks. Reference tasks are left out. Grey: the prior."
    )
    estimated = [label for label, draws in found.items() if np.isnan(draws.low).all()]
    if estimated:
        words += (
            f" Only a mean is known of {', '.join(estimated)}: no band, and the line is an estimate of the "
            "mean task."
        )
    prior = drawn.prior(family)
    figure = figures.sampler(group, found, family, prior.spread(prior.phi[None]))
    return [Section("What the sampler draws", words, figure, "sampler")]


def _alike(group: Group, tests: Mapping[str, Tested]) -> tuple[set[str], list[str]]:
    """The methods that can be compared with the baseline, and sentences on why others are not."""
    against, methods = page.baseline(group), {method.label: method for method in group.methods}
    if against is None:
        return set(tests), []
    lengths = [label for label in tests if tests[label] != tests[against.label]]
    left = [label for label in methods if label not in lengths]
    untested = [label for label in left if methods[label].tested != against.tested]
    elsewhere = [
        label
        for label in left
        if label not in untested and data.judged(methods[label]) != data.judged(against)
    ]
    reasons = [f" Tested otherwise, and not compared: {', '.join(lengths)}."] if lengths else []
    if untested:
        reasons.append(
            " Not compared, because one side is not tested yet, and evaluations during training have other "
            f"tasks: {', '.join(untested)}."
        )
    if elsewhere:
        reasons.append(f" Last evaluated after other frames, and not compared: {', '.join(elsewhere)}.")
    return set(tests) - {*lengths, *untested, *elsewhere}, reasons


def _final(group: Group, tests: Mapping[str, Tested]) -> list[Section]:
    against, (alike, reasons) = page.baseline(group), _alike(group, tests)
    words = (
        "A task's return is the mean over its episodes; CVaR is the mean over the worst share alpha of tasks."
    )
    if against is not None:
        words += f" Differences are relative to {against.label} and paired by seed."
        words += " Methods with a single common seed are described, not compared."
    words += "".join(reasons)
    if against is not None and any(method.alpha != against.alpha for method in group.methods):
        words += f" CVaR is compared at the same alpha only, that of {against.label}."
    if len({(method.config.eval.seed, method.config.eval.test_tasks) for method in group.methods}) > 1:
        words += " Methods are tested on held-out tasks of their own (eval.seed, eval.test_tasks)."
    table = page.final_table(group, alike)
    return [Section("Final performance", words, figures.final(group), "final", table)]


def _by_task(group: Group, tests: Mapping[str, Tested], tasks: int) -> tuple[dict[str, Records], list[str]]:
    """The records of the methods whose tests are as long as the first one's, and why others are left out."""
    records, missing, first = {}, [], group.methods[0]
    wanted, seed = tests[first.label], first.config.eval.seed
    for method in group.methods:
        own = tests[method.label]
        if own != wanted:
            missing.append(f"{method.label} is tested on {own.text} and not {wanted.text}")
            continue
        loaded, why = series.by_task(method, tasks, seed)
        if loaded is None:
            missing.append(why)
        else:
            records[method.label] = loaded
    return records, missing


def sections(group: Group, tasks: int) -> list[Section]:
    """All sections on one environment.

    Args:
        group: the methods on the environment.
        tasks: number of held-out tasks on which the last learners are tested, for the section "Return
            against the task"; 0 to leave out the section.
    """
    env = series.environment(group.methods[0])
    family, tests = env.family, {method.label: series.tested(method, env) for method in group.methods}
    parts = [_learning(group), *_final(group, tests)]
    if tasks:
        records, missing = _by_task(group, tests, tasks)
        words = (
            f"Returns of the last learners on {tasks} held-out tasks. Each dot is one task, averaged over "
            "seeds and episodes. Lines are means over tenths of the tasks."
        )
        words = words if records else "No learner could be loaded."
        words += f" Left out: {'; '.join(missing)}." if missing else ""
        figure = figures.against_task(group, records, family)
        parts.append(Section("Return against the task", words, figure, "tasks"))
        parts += verdicts.sections(group, records)
    parts += _drawn(group, family)
    acts = bool(tests[group.methods[0].label].steps)
    alike = {label: test for label, test in tests.items() if bool(test.steps) == acts}
    adaptation = figures.adaptation(group, alike)
    if adaptation is not None:
        words = "Return of each episode on a task. The learner has more data on the task in each episode."
        if not acts:
            words = "Return after each number of gradient steps on the examples of a task."
        others = [label for label in tests if label not in alike]
        words += f" Left out, as tested otherwise: {', '.join(others)}." if others else ""
        parts.append(Section("Adaptation", words, adaptation, "adaptation"))
    parts += _training(group)
    options = page.differences_table(group)
    words = "Options that differ between methods." if options else "All methods have the same options."
    parts.append(Section("Configuration", words, table=options + page.folders_table(group)))
    words = (
        "Each session that trained a run: what ran, where and for how long. Frames/s are those of one seed, "
        "evaluations included and compilation not."
    )
    parts.append(Section("Provenance", words, table=page.provenance_table(group)))
    return parts
