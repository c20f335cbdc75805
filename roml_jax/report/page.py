"""The report as one self-contained HTML page, and its figures as PNGs."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from roml_jax.evaluate.intervals import Interval, bootstrap, decimals, paired
from roml_jax.evaluate.tables import signed
from roml_jax.report import data
from roml_jax.report.data import BASELINE, Group, Method
from roml_jax.run import provenance
from roml_jax.run.folder import PROVENANCE
from roml_jax.run.progress import duration

_DPI = 160
_COMMIT = 12  # digits of a commit
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #222; background: #fff;
  max-width: 1240px; margin: 0 auto; padding: 24px 28px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 44px 0 6px; border-top: 1px solid #ddd;
  padding-top: 22px; } h3 { font-size: 16px; margin: 28px 0 4px; }
p { margin: 4px 0 10px; max-width: 860px; } .note { color: #555; font-size: 13.5px; }
figure { margin: 10px 0 4px; } img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 8px 0; font-size: 14px; }
th, td { padding: 4px 14px 4px 0; text-align: right; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
th { border-bottom: 1.5px solid #444; font-weight: 600; vertical-align: bottom; }
td { border-bottom: 1px solid #e4e4e4; }
th:first-child, th.text, td:first-child, td.text { text-align: left; }
td.text { white-space: normal; color: #555; }
nav a { margin-right: 16px; } a { color: #0b5394; }
"""


class Section(NamedTuple):
    """A section of an environment's report: text, and optionally a figure and a table.

    Attributes:
        title: heading of the section.
        words: text below the heading.
        figure: the figure, or None.
        name: file name of the figure, without suffix.
        table: the table as HTML, or "".
    """

    title: str
    words: str
    figure: Figure | None = None
    name: str = ""
    table: str = ""


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Sequence[int] = ()) -> str:
    """An HTML table.

    Args:
        heads: heading of each column, as plain text.
        rows: cells of each row, as plain text.
        text_columns: indices of columns with long text, which is left-aligned and wrapped.
    """

    def line(kind: str, cells: Sequence[str]) -> str:
        classes = (" class=text" if i in text_columns else "" for i in range(len(cells)))
        return "".join(
            f"<{kind}{name}>{html.escape(cell)}</{kind}>" for name, cell in zip(classes, cells, strict=True)
        )

    head, body = line("th", heads), "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _compared(difference: Interval | None, digits: int) -> str:
    """A difference as text; "" for a single pair of seeds, which compares no methods."""
    return "" if difference is None or difference.n < 2 else signed(difference, digits)


def baseline(group: Group) -> Method | None:
    """The method that others are compared with: uniform sampling, or the first; None for one method."""
    if len(group.methods) < 2:
        return None
    return next((method for method in group.methods if method.sampler == BASELINE), group.methods[0])


def final_table(group: Group, alike: Container[str]) -> str:
    """Table of final mean and CVaR by method, with differences from the baseline paired by seed.

    Args:
        group: the methods.
        alike: labels of the methods that can be compared with the baseline.
    """
    against = baseline(group)
    heads = ["method", "seeds", "mean", "CVaR", "alpha"]
    if against is not None:
        heads += [f"mean - {against.label}", f"CVaR - {against.label}", "pairs"]
    heads += [""]
    rows = []
    for method in group.methods:
        mean, cvar = method.final("return_mean"), method.final("cvar")
        digits = decimals([*mean.values(), *cvar.values()] or [math.nan])
        cells = [method.label, str(len(mean))]
        cells += [bootstrap(list(values.values())).text(digits) if values else "" for values in (mean, cvar)]
        cells.append(f"{method.alpha:g}")
        if against is not None:
            reference = [against.final(name) for name in ("return_mean", "cvar")]
            pairs = [paired(values, other) for values, other in zip((mean, cvar), reference, strict=True)]
            texts = [_compared(pair, digits) for pair in pairs]
            if method.alpha != against.alpha:
                texts[1] = ""
            cells += ["", "", ""] if method is against or method.label not in alike else [
                *texts, str(pairs[0].n if pairs[0] else 0)
            ]  # fmt: skip
        rows.append([*cells, data.note(method)])
    return table(heads, rows, text_columns=(len(heads) - 1,))


def differences_table(group: Group) -> str:
    """Table of the options in which methods differ; "" if there are none."""
    differing = data.differences(group)
    if not differing:
        return ""
    return table(
        ["option", *(method.label for method in group.methods)], ([name, *v] for name, v in differing)
    )


def folders_table(group: Group) -> str:
    """Table of the folders that each method's seeds come from."""
    rows = []
    for method in group.methods:
        for folder in dict.fromkeys(seed.folder for seed in method.seeds):
            seeds = [seed for seed in method.seeds if seed.folder == folder]
            frames = max(seed.columns["frames"][-1] for seed in seeds)
            numbers = ", ".join(str(seed.seed) for seed in seeds)
            rows.append([method.label, numbers, f"{frames:,.0f}", str(folder)])
    return table(["method", "seeds", "frames per seed", "folder"], rows, text_columns=(3,))


def _text(session: Mapping[str, Any], name: str, form: str = "{}") -> str:
    """An entry of a session; "" if it is not known, such as the end of a session that was killed."""
    value = session.get(name)
    return "" if value is None else form.format(value)


def _session_cells(session: Mapping[str, Any]) -> list[str]:
    """A session's cells from its version on."""
    wall, commits = session.get("wall_seconds"), session.get("commits") or {}
    short = {name: commit[:_COMMIT] for name, commit in commits.items()}
    own = f", commit {short.pop('roml_jax')}" if "roml_jax" in short else ""
    others = "".join(f"; {name} {commit}" for name, commit in short.items())
    return [
        _text(session, "roml_jax") + own + others, _text(session, "jax"), _text(session, "device"),
        _text(session, "seeds"), "" if wall is None else duration(wall),
        _text(session, "frames_per_second", "{:,.0f}"), _text(session, "outcome") or "no end recorded",
    ]  # fmt: skip


def provenance_table(group: Group) -> str:
    """Tables of the sessions in which the runs of a group were trained: what ran, and by which commands."""
    sessions, commands = [], []
    for folder in dict.fromkeys(seed.folder for method in group.methods for seed in method.seeds):
        for session in provenance.read(folder) or [{"outcome": f"not recorded in {PROVENANCE}"}]:
            place = [str(folder), _text(session, "started").replace("T", " ")]
            sessions.append([*place, *_session_cells(session)])
            commands.append([*place, _text(session, "command")])
    heads = ["folder", "started", "version", "JAX", "device", "seeds", "wall time", "frames/s", "outcome"]
    text = table(heads, sessions, text_columns=(0, 1, 2, 8))
    return text + table(["folder", "started", "command"], commands, text_columns=(0, 1, 2))


def page(title: str, groups: Sequence[tuple[Group, Sequence[Section]]]) -> str:
    """The whole page as HTML."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if len(groups) > 1:
        links = (f'<a href="#env{i}">{html.escape(group.env)}</a>' for i, (group, _) in enumerate(groups))
        parts.append(f"<nav>{''.join(links)}</nav>")
    for i, (group, sections) in enumerate(groups):
        parts.append(f'<h2 id="env{i}">{html.escape(group.env)}</h2>')
        for section in sections:
            parts.append(f"<h3>{html.escape(section.title)}</h3>")
            if section.words:
                parts.append(f'<p class="note">{html.escape(section.words)}</p>')
            if section.figure is not None:
                image = base64.b64encode(png(section.figure)).decode()
                width = round(96 * section.figure.get_figwidth())
                alt = html.escape(f"{section.title}, {group.env}")
                parts.append(
                    f'<figure><img width="{width}" alt="{alt}" src="data:image/png;base64,{image}"></figure>'
                )
            parts.append(section.table)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
