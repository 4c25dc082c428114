"""Evaluation results for people, on a terminal. Rich counts the cells of Chinese letters as two."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from taskloom.core.comparison import AnswerChanges, Change, Comparison
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
    return [quality, speed, *([robustness_table(comparison)] if comparison.robustness else [])]


def robustness_table(comparison: Comparison) -> Table:
    """In the style of CheckList: how often answers change, and the metric on changed rows, of both."""
    title = "robustness; INV: answers should stay what they are on the rows as they are"
    table = Table("change to the input", "tests", title=title, title_justify="left")
    metric = comparison.primary
    for name in ("rows", "answers changed: parent", "this", "change", "95% interval", f"{metric}: parent", "this", "change"):
        table.add_column(name, justify="right")
    for row in comparison.robustness:
        test = f"{row.capability}, {'INV' if row.keeps_answer else 'change rate'}"
        table.add_row(row.name, test, str(row.rows), *_answers_told(row.answers), *_metric_told(row.changed))
    return table


def _answers_told(answers: AnswerChanges | None) -> tuple[str, str, str, str]:
    if answers is None:
        return "", "", "", ""
    known = answers.low is not None and answers.high is not None
    interval = f"{answers.low:+.1%} to {answers.high:+.1%}" if known else ""
    return f"{answers.parent:.1%}", f"{answers.candidate:.1%}", f"{answers.difference:+.1%}", interval


def _metric_told(change: Change | None) -> tuple[str, str, str]:
    if change is None:
        return "", "", ""
    return f"{change.parent:.4f}", f"{change.candidate:.4f}", f"{change.difference:+.4f}"


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
