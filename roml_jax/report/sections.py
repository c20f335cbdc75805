"""What the report says of an environment, in order, with words where there is nothing to show."""

from __future__ import annotations

from roml_jax.evaluate.records import Records
from roml_jax.report import figures, page, series
from roml_jax.report.data import Group
from roml_jax.report.page import Section


def _seeds(group: Group) -> str:
    """What intervals there are."""
    if all(len(method.seeds) == 1 for method in group.methods):
        return "One seed per method: there are no intervals."
    single = [method.label for method in group.methods if len(method.seeds) == 1]
    few = min((len(method.seeds) for method in group.methods if len(method.seeds) > 1), default=0)
    said = "Means over seeds; bands, bars and brackets are 95 % bootstrap intervals over seeds"
    said += " (too narrow with so few)." if few < 10 else "."
    return said + (f" One seed, so no interval: {', '.join(single)}." if single else "")


def _learning(group: Group, episodes: int) -> Section:
    made = figures.learning(group, episodes)
    words = _seeds(group)
    silent = [method.label for method in group.methods if series.curve(method, "eval/return_mean") is None]
    if made is None:
        return Section("Learning curves", "No run has rows of training or evaluation to draw.")
    if silent:
        words += f" Not evaluated during training, or once: {', '.join(silent)}."
    return Section("Learning curves", words, made, "learning")


def _final(group: Group) -> list[Section]:
    against = page.baseline(group)
    words = (
        "A task's return is the mean over its episodes; CVaR is the mean over the worst share alpha of tasks."
    )
    if against is not None:
        words += f" Differences are to {against.label}, seed by seed."
    return [
        Section("Final performance", words, figures.final(group), "final", page.final_table(group)),
    ]


def _by_task(group: Group, tasks: int) -> tuple[dict[str, Records], list[str]]:
    found, missing = {}, []
    for method in group.methods:
        made, why = series.by_task(method, tasks)
        if made is None:
            missing.append(why)
        else:
            found[method.label] = made
    return found, missing


def sections(group: Group, tasks: int) -> list[Section]:
    """All sections of an environment.

    Args:
        group: its methods.
        tasks: how many to let the last learners act on, for returns against the task; 0 for none.
    """
    env, protocol = series.environment(group.methods[0]), group.methods[0].config.protocol
    episodes, family = protocol.agent_spec(env.spec).episodes, env.family
    made = [_learning(group, episodes), *_final(group)]
    if tasks:
        found, missing = _by_task(group, tasks)
        words = (
            f"The last learners on {tasks} held-out tasks. A dot: one task, mean over seeds and episodes. A "
            "line: means of tenths of the tasks."
        )
        words = words if found else "No learner to be had."
        words += f" Left out: {'; '.join(missing)}." if missing else ""
        figure = figures.against_task(group, found, family)
        made.append(Section("Return against the task", words, figure, "tasks"))
    drawn = {
        method.label: draws for method in group.methods if (draws := series.draws(method, family)) is not None
    }
    if drawn:
        words = (
            "Mean of the tasks that the sampler draws (thin: each seed) and the range of the middle 80 % of "
            "them, references aside; grey: the prior."
        )
        made.append(
            Section("What the sampler draws", words, figures.sampler(group, drawn, family), "sampler")
        )
    adaptation = figures.adaptation(group, episodes)
    if adaptation is not None:
        words = (
            "Each episode on a task by itself: what the learner knows of the task grows from one to the next."
        )
        made.append(Section("Adaptation", words, adaptation, "adaptation"))
    options = page.differences_table(group)
    words = "Options that are not the same for all methods." if options else "The methods share all options."
    made.append(Section("Configuration", words, table=options + page.folders_table(group)))
    return made
