"""`report.html`: the comparison of a model with its parent as a page that stands alone: no scripts, nothing loaded from
elsewhere, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskloom.core.artifact import Manifest
from taskloom.core.comparison import Change, Comparison
from taskloom.core.figures_told import precision, sizes_and_speeds
from taskloom.core.task import TaskPlugin

if TYPE_CHECKING:
    from taskloom.core.publishing import Report

CLASSES_SHOWN = 30
WIDTH, HALF = 240, 110
"""Of the drawing of an interval, in pixels; half of it leaves room for the marks at its ends."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #b3261e; --good: #1b6e3c; --soft: #888; }
@media (prefers-color-scheme: dark) { :root { --bad: #f2b8b5; --good: #8fd6a8; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: middle; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bad { color: var(--bad); } .good { color: var(--good); } .soft { color: var(--soft); }
.heads { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.2rem 0; }
.heads div { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem 1rem; min-width: 9rem; }
.heads b { display: block; font-size: 1.4rem; } img { max-width: 100%; background: #fff; border-radius: .4rem; }
svg line { stroke: currentColor; } svg circle { fill: currentColor; }
"""


def report_page(manifest: Manifest, report: Report, task: TaskPlugin[Any, Any, Any], pictures: Sequence[Path]) -> str:
    """The page of a report that has a comparison; `pictures` are PNG files."""
    comparison = report.comparison
    assert comparison is not None
    title = f"{manifest.model}, compared with {comparison.parent_name}"
    steps = " → ".join(step.name for step in manifest.steps)
    ran = (
        f"Both on {report.evaluation.examples} rows of {report.evaluation_data.name} (SHA-256 "
        f"{report.evaluation_data.sha256[:16]}…), {report.machine.processor or report.machine.system}, {report.machine.cores} "
        f"cores, Python {report.machine.python}, {report.created}."
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(task.name)} · {escape(steps)}<br>{escape(ran)}</p>',
        _heads(comparison),
        "<h2>Quality</h2>",
        "<p>Intervals are 95% bootstrap intervals of the difference, on the same resampled rows for both (paired).</p>",
        _changes(comparison.metrics, "metric", comparison.primary),
        *_rows(comparison),
        *_classes(comparison),
        "<h2>Size and speed</h2>",
        _speeds(comparison),
        *_robustness(comparison),
        *_pictures(pictures),
        "<h2>How it was made</h2>",
        _steps(manifest),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _heads(comparison: Comparison) -> str:
    """What most people came for."""
    change = comparison.primary_change
    kept = f"{change.candidate / change.parent:.1%} of the parent's" if change.parent > 0 and change.higher_is_better else ""
    cells = [(f"{change.candidate:.4f}", f"{change.name}, {kept}" if kept else change.name)]
    cells.append((f"{comparison.size_ratio:.2f} ×", "the parent's size"))
    for ratio in comparison.latency:
        inputs = "" if ratio.inputs == "alike" else f", {ratio.inputs} inputs"
        cells.append((f"{1 / ratio.p50:.2f} ×", f"as fast, batch of {ratio.batch}{inputs}"))
    return '<div class="heads">' + "".join(f"<div><b>{escape(b)}</b>{escape(t)}</div>" for b, t in cells) + "</div>"


def _changes(changes: Sequence[Change], kind: str, primary: str = "", extra: Sequence[str] = ()) -> str:
    """A row for each figure, with its interval drawn; all on one scale, which is what the widest needs."""
    reach = max([abs(x) for own in changes for x in (own.low or 0.0, own.high or 0.0, own.difference)] or [0.0]) or 1.0
    rows = []
    for i, own in enumerate(changes):
        interval = f"{own.low:+.4f} to {own.high:+.4f}" if own.low is not None and own.high is not None else ""
        name = escape(own.name)
        name = f"<b>{name}</b>" if own.name == primary else name
        better = "" if own.higher_is_better else ' <span class="soft">lower is better</span>'
        rows.append(
            f"<tr><td>{name}{better}</td>{_numbers(f'{own.parent:.4f}', f'{own.candidate:.4f}')}"
            f'<td class="n {_verdict(own)}">{own.difference:+.4f}</td><td class="n">{interval}</td>'
            f"<td>{_drawn(own, reach)}</td>{_numbers(*(extra[i : i + 1]))}</tr>"
        )
    head = "".join(f'<th class="n">{name}</th>' for name in ("parent", "this", "change", "95% interval"))
    tail = f"<th>−{reach:.3g} to +{reach:.3g}</th>{'<th class=n>rows</th>' if extra else ''}"
    return f'<div class="scroll"><table><tr><th>{kind}</th>{head}{tail}</tr>{"".join(rows)}</table></div>'


def _verdict(change: Change) -> str:
    """Only what is more than chance has a colour."""
    if change.low is None or change.high is None or change.low <= 0 <= change.high:
        return ""
    return "bad" if change.drop > 0 else "good"


def _drawn(change: Change, reach: float) -> str:
    """The difference as a point on a line from −reach to +reach, its interval as a bar."""

    def at(value: float) -> float:
        return round(WIDTH / 2 + HALF * value / reach, 1)

    bar = ""
    if change.low is not None and change.high is not None:
        bar = f'<line x1="{at(change.low)}" x2="{at(change.high)}" y1="9" y2="9" stroke-width="3"/>'
    return (
        f'<svg width="{WIDTH}" height="18" class="{_verdict(change)}" role="img" aria-label="{change.difference:+.4f}">'
        f'<line x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="18" stroke-width="1" opacity=".4"/>{bar}'
        f'<circle cx="{at(change.difference)}" cy="9" r="4"/></svg>'
    )


def _rows(comparison: Comparison) -> list[str]:
    rows = comparison.rows
    told = f"It answers {rows.changed:.2%} of {rows.rows} rows differently."
    if rows.worst_mean is not None:
        told += f" The one per cent of the rows that lost most changed their score by {rows.worst_mean:+.4f} on average."
    parts = [f"<p>{escape(told)}</p>"]
    if rows.worst:
        lines = [(f"{row.path}, line {row.line}", f"{row.parent:.4f}", f"{row.candidate:.4f}") for row in rows.worst]
        parts.append(f"<details><summary>The rows that lost most</summary>{_table(('row', 'parent', 'this'), lines)}</details>")
    return parts


def _classes(comparison: Comparison) -> list[str]:
    if not comparison.classes:
        return []
    shown = comparison.classes[:CLASSES_SHOWN]
    left = len(comparison.classes) - len(shown)
    more = f'<p class="soft">{left} other classes lost less; report.json has them.</p>' if left else ""
    return ["<h2>Classes, by F1</h2>", _changes(shown, "class", extra=[str(own.support) for own in shown]), more]


def _speeds(comparison: Comparison) -> str:
    rows = [pair.told() for pair in sizes_and_speeds(comparison)]
    rows.append(("precision", precision(comparison.before), precision(comparison.after), ""))
    certain = "; ".join(
        f"batch of {ratio.batch}{'' if ratio.inputs == 'alike' else f', {ratio.inputs} inputs'}: × {ratio.p99:.2f} "
        f"({ratio.p99_low:.2f} to {ratio.p99_high:.2f})"
        for ratio in comparison.latency
    )
    told = f"<p>The p99 over the parent's, with its 95% interval: {escape(certain)}.</p>" if certain else ""
    return (
        _table(("", "parent", "this", "ratio"), rows)
        + told
        + '<p class="soft">Each in a fresh process that holds this model alone, by turns. Size counts a shared backbone.</p>'
    )


def _robustness(comparison: Comparison) -> list[str]:
    if not comparison.robustness:
        return [f"<p>{escape(note)}</p>" for note in comparison.notes]
    rows = []
    for own in comparison.robustness:
        clean, changed = own.clean, own.changed
        low, high = changed.low, changed.high
        interval = f"{low:+.4f} to {high:+.4f}" if low is not None and high is not None else ""
        rows.append(
            (
                f"{own.name}: {own.description}",
                str(own.rows),
                f"{clean.parent:.4f} → {changed.parent:.4f}",
                f"{clean.candidate:.4f} → {changed.candidate:.4f}",
                f"{changed.difference:+.4f}",
                interval,
            )
        )
    head = ("change to the input", "rows", "parent", "this", "this less parent, changed", "95% interval")
    notes = [f'<p class="soft">{escape(note)}</p>' for note in comparison.notes]
    return [f"<h2>Robustness, by {escape(comparison.primary)}</h2>", _table(head, rows), *notes]


def _pictures(pictures: Sequence[Path]) -> list[str]:
    parts = []
    for path in pictures:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        name = escape(path.stem)
        parts.append(f'<h2>{name.capitalize()}</h2><img alt="{name}" src="data:image/png;base64,{data}">')
    return parts


def _steps(manifest: Manifest) -> str:
    items = []
    for step in manifest.steps:
        settings = ", ".join(f"{key} = {value!r}" for key, value in step.config.items())
        facts = ", ".join(f"{key} {value}" for key, value in step.facts.items() if isinstance(value, str | int | float))
        items.append(f'<li><b>{escape(step.name)}</b> {escape(settings)}<br><span class="soft">{escape(facts)}</span></li>')
    return f"<ol>{''.join(items)}</ol>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = f"<th>{escape(header[0])}</th>" + "".join(f'<th class="n">{escape(name)}</th>' for name in header[1:])
    body = "".join(f"<tr><td>{escape(row[0])}</td>{_numbers(*row[1:])}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _numbers(*cells: str) -> str:
    return "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
