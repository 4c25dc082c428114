"""`report.html`: the comparison of a model with its parent as a page that stands alone: no scripts, nothing loaded from
elsewhere, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskloom.core.artifact import Manifest
from taskloom.core.comparison import Comparison, LatencyRatio
from taskloom.core.report_tables import (
    BETTER,
    UNSURE,
    WORSE,
    changes_table,
    plain_table,
    robustness_section,
    speed_section,
    verdict,
)
from taskloom.core.task import TaskPlugin

if TYPE_CHECKING:
    from taskloom.core.publishing import Report

CLASSES_SHOWN = 10
MARKS = {BETTER: "▲ better", WORSE: "▼ worse", UNSURE: "≈ no sure difference"}
"""Said in words and shapes as well as in colours, of which blue and orange are told apart by almost everybody."""
NOTABLE = 0.03
"""The share by which a figure without an interval must differ to be called better or worse."""

STYLE = """
:root { color-scheme: light dark; --line: #8883; --soft: #666; --better: #0b5fa5; --worse: #b8430b; --ground: #8881; }
@media (prefers-color-scheme: dark) { :root { --soft: #a5a5a5; --better: #7cc0ff; --worse: #ffab73; } }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC",
  sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; } p { margin: .4rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; margin: .4rem 0 1rem; } .scroll { overflow-x: auto; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { font-weight: 600; vertical-align: bottom; } th.group { text-align: center; border-bottom: 2px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child { min-width: 9rem; }
td small, th small { display: block; color: var(--soft); font-weight: 400; line-height: 1.3; }
.better { color: var(--better); } .worse { color: var(--worse); } .soft, .unsure { color: var(--soft); }
.gate { border-left: .35rem solid currentColor; background: var(--ground); padding: .5rem .9rem; margin: 1rem 0; }
.gate b { font-size: 1.1rem; } .gate span, .gate li { color: CanvasText; } .gate ul { margin: .2rem 0; padding-left: 1.2rem; }
.heads { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.heads div { border: 1px solid var(--line); border-top: .3rem solid currentColor; border-radius: .3rem; padding: .5rem .8rem; }
.heads b { display: block; font-size: 1.55rem; line-height: 1.3; } .heads span { display: block; color: CanvasText; }
.heads small { font-weight: 600; } img { max-width: 100%; background: #fff; border-radius: .4rem; }
.axis { width: 13rem; } svg { display: block; }
svg line { stroke: currentColor; } svg circle { fill: currentColor; } summary { cursor: pointer; }
"""


def report_page(
    manifest: Manifest,
    report: Report,
    task: TaskPlugin[Any, Any, Any],
    pictures: Sequence[Path],
    broken: Sequence[str] | None = None,
) -> str:
    """The page of a report that has a comparison; `pictures` are PNG files. `broken` is what the gate says against promoting
    the model, nothing if it lets it pass; None where nobody asked the gate."""
    comparison = report.comparison
    assert comparison is not None
    steps = " → ".join(step.name for step in manifest.steps)
    title = f"{manifest.model}: {steps}"
    ran = (
        f"{task.name} · both measured in one run on {report.evaluation.examples} rows of {report.evaluation_data.name} "
        f"(SHA-256 {report.evaluation_data.sha256[:16]}…) · {report.machine.processor or report.machine.system}, "
        f"{report.machine.cores} cores, Python {report.machine.python} · {report.created}"
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>compared with its parent <b>{escape(comparison.parent_name)}</b> · {escape(_ran(comparison))}</p>",
        *_gate(broken),
        _heads(comparison),
        f'<p class="soft">{escape(ran)}</p>',
        "<h2>Quality</h2>",
        "<p>Intervals are 95% bootstrap intervals of the difference, on the same resampled rows for both (paired).</p>",
        changes_table(comparison.metrics, "metric", comparison.primary),
        *_rows(comparison),
        "<h2>Size and speed</h2>",
        speed_section(comparison),
        *robustness_section(comparison),
        *_classes(comparison),
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


def _ran(comparison: Comparison) -> str:
    before, after = (f"{side.plan.precision} with {side.plan.runtime}" for side in (comparison.before, comparison.after))
    return f"{before} → {after}" if before != after else after


def _gate(broken: Sequence[str] | None) -> list[str]:
    if broken is None:
        return []
    if not broken:
        told = "<b>✓ The gate lets it pass.</b> <span>It lost no more than the policy allowed when it was made.</span>"
        return [f'<div class="gate better">{told}</div>']
    items = "".join(f"<li>{escape(one)}</li>" for one in broken)
    return [f'<div class="gate worse"><b>✕ The gate refuses it.</b><ul>{items}</ul></div>']


def _heads(comparison: Comparison) -> str:
    """What most people came for: what was won and what was lost."""
    change = comparison.primary_change
    kept = f" ({change.candidate / change.parent:.1%} of it)" if change.parent > 0 and change.higher_is_better else ""
    cells = [(f"{change.candidate:.4f}", f"{change.name}; the parent has {change.parent:.4f}{kept}", verdict(change))]
    size = comparison.size_ratio
    cells.append((f"{size:.2f} ×", "the parent's size", _judged(size)))
    for ratio in comparison.latency:
        inputs = "" if ratio.inputs == "alike" else f"{ratio.inputs} "
        calls = f"one {inputs}input" if ratio.batch == 1 else f"{ratio.batch} {inputs}inputs at once"
        cells.append((f"{1 / ratio.p50:.2f} ×", f"as fast, {calls} (p50)", _judged_speed(ratio)))
    one, other = comparison.before.performance, comparison.after.performance
    if one is not None and other is not None:
        memory = other.peak_rss_bytes / one.peak_rss_bytes
        cells.append((f"{memory:.2f} ×", "the parent's memory (peak)", _judged(memory)))
        if one.cpu_s_per_1000:  # a clock that is too coarse gives none
            energy = other.cpu_s_per_1000 / one.cpu_s_per_1000
            cells.append((f"{energy:.2f} ×", "the parent's processor time", _judged(energy)))
    drawn = [
        f'<div class="{how}"><b>{escape(figure)}</b><span>{escape(told)}</span><small>{MARKS[how]}</small></div>'
        for figure, told, how in cells
    ]
    return f'<div class="heads">{"".join(drawn)}</div>'


def _judged(ratio: float) -> str:
    """Of a figure that should be small."""
    if abs(ratio - 1) < NOTABLE:
        return UNSURE
    return BETTER if ratio < 1 else WORSE


def _judged_speed(ratio: LatencyRatio) -> str:
    """Of a p50 that has no interval of its own: the p99's must be on the same side as a whole."""
    if ratio.p50 < 1 and ratio.p99_high < 1:
        return BETTER
    return WORSE if ratio.p50 > 1 and ratio.p99_low > 1 else UNSURE


def _rows(comparison: Comparison) -> list[str]:
    rows = comparison.rows
    told = f"It answers {rows.changed:.2%} of {rows.rows} rows differently."
    if rows.worst_mean is not None:
        told += f" The one per cent of the rows that lost most changed their score by {rows.worst_mean:+.4f} on average."
    parts = [f"<p>{escape(told)}</p>"]
    if rows.worst:
        lines = [(f"{row.path}, line {row.line}", f"{row.parent:.4f}", f"{row.candidate:.4f}") for row in rows.worst]
        parts.append(
            f"<details><summary>The rows that lost most</summary>{plain_table(('row', 'parent', 'this'), lines)}</details>"
        )
    return parts


def _classes(comparison: Comparison) -> list[str]:
    """Those that lost most; the others are there for who opens them."""
    if not comparison.classes:
        return []
    first, others = comparison.classes[:CLASSES_SHOWN], comparison.classes[CLASSES_SHOWN:]
    parts = ["<h2>Classes, by F1, those that lost most first</h2>", changes_table(first, "class")]
    if others:
        told = f"<summary>{len(others)} other classes, which lost less or won</summary>"
        parts.append(f"<details>{told}{changes_table(others, 'class')}</details>")
    return parts


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
