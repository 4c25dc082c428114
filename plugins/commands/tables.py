"""Evaluation results for people, on a terminal. Rich counts the cells of Chinese letters as two."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from taskloom.core.comparison import Change, Comparison
from taskloom.core.figures_told import sizes_and_speeds
from taskloom.core.task import EvaluationResult, TaskPlugin

if TYPE_CHECKING:
    from taskloom.plugins.searching import SearchResult


def metrics_table(task: TaskPlugin[object, object, object], result: EvaluationResult) -> Table:  # type: ignore[type-var]
    table = Table("metric", "value", "95% interval", "meaning", title=f"{result.examples} examples", title_justify="left")
    for spec in task.metrics:
        low, high = result.intervals.get(spec.name, (None, None))
        interval = f"{low:.4f} to {high:.4f}" if low is not None and high is not None else ""
        better = "" if spec.higher_is_better else " Lower is better."
        table.add_row(spec.name, f"{result.metrics[spec.name]:.4f}", interval, spec.description + better)
    return table


def plain_table(title: str, rows: tuple[tuple[str | float | int, ...], ...]) -> Table:
    """A table of a result: text to the left, numbers to the right."""
    header, *body = rows
    table = Table(title=title.replace("_", " "), title_justify="left")
    for i, name in enumerate(header):
        numeric = bool(body) and not isinstance(body[0][i], str)
        table.add_column(str(name), justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row))
    return table


def comparison_tables(comparison: Comparison) -> list[Table]:
    """The figures that decide whether a version may take its parent's place."""
    quality = Table("metric", title=f"compared with {comparison.parent_name}", title_justify="left")
    for name in ("parent", "this", "change", "95% interval"):
        quality.add_column(name, justify="right")
    for change in comparison.metrics:
        interval = f"{change.low:+.4f} to {change.high:+.4f}" if change.low is not None and change.high is not None else ""
        quality.add_row(change.name, f"{change.parent:.4f}", f"{change.candidate:.4f}", f"{change.difference:+.4f}", interval)
    speed = Table("", title="size and speed", title_justify="left")
    for name in ("parent", "this", "ratio"):
        speed.add_column(name, justify="right")
    for pair in sizes_and_speeds(comparison):
        speed.add_row(*pair.told())
    return [quality, speed, *(robustness_tables(comparison) if comparison.robustness else [])]


def robustness_tables(comparison: Comparison) -> list[Table]:
    """In the style of CheckList: how often answers change, and the metric on changed rows. Both fit eighty columns."""
    names = ("parent", "this", "change", "95% interval")
    title = "answers that change; INV: none should, rate: nobody knows how many should"
    answers = Table("change to the input", "test", "rows", title=title, title_justify="left")
    metric = Table("change to the input", title=f"{comparison.primary} on changed rows", title_justify="left")
    for name in names:
        answers.add_column(name, justify="right")
        metric.add_column(name, justify="right")
    for row in comparison.robustness:
        if row.answers is not None:
            answers.add_row(row.name, "INV" if row.keeps_answer else "rate", str(row.rows), *_told(row.answers, ".1%"))
        if row.changed is not None:
            metric.add_row(row.name, *_told(row.changed, ".4f"))
    return [answers, metric]


def _told(change: Change, form: str) -> tuple[str, str, str, str]:
    known = change.low is not None and change.high is not None
    interval = f"{change.low:+{form}} to {change.high:+{form}}" if known else ""
    return f"{change.parent:{form}}", f"{change.candidate:{form}}", f"{change.difference:+{form}}", interval


def front_table(found: SearchResult) -> Table:
    """The trials that no other one beats, each with the arguments that make it again."""
    refused = f", {found.refused} of which make no sense" if found.refused else ""
    title = f"{found.trials} trials{refused}; the parent has {found.metric} {found.parent_quality:.4f}"
    table = Table(found.metric, "latency", "size", "taskloom optimize ...", title=title, title_justify="left")
    for own in found.front:
        words = ["--with", ",".join(step.name for step in own.steps)]
        for step in own.steps:
            words += [word for key, value in step.config.items() for word in ("--set", f"{step.name}.{key}={value}")]
        table.add_row(f"{own.quality:.4f}", f"× {own.latency:.2f}", f"× {own.size:.2f}", escape(shlex.join(words)))
    return table
