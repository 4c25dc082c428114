"""The tables of `optimizers.py`: what each cell brought, and what the targets say of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskloom.core.comparison import Comparison
from taskloom.core.publishing import Report


@dataclass(frozen=True)
class Cell:
    """One optimizer on one model: a report, or the reason why there is none."""

    model: str
    cell: str
    report: Report | None = None
    steps: Sequence[Mapping[str, Any]] = ()
    why_not: str = "not made"

    @property
    def comparison(self) -> Comparison:
        assert self.report is not None
        assert self.report.comparison is not None
        return self.report.comparison

    def fact(self, step: str, name: str) -> float | str:
        """What the last step of that name says of itself."""
        told = [done["facts"] for done in self.steps if done["name"] == step and name in done.get("facts", {})]
        return float(told[-1][name]) if told else f"{step} says no {name}"


Cells = Mapping[str, Cell]
"""The cells of one model, by name."""
Figure = Callable[[Cell, Cells], float | str]
"""A cell's figure, or why it has none."""


def quality(cell: Cell, _: Cells) -> float | str:
    """The metric as a share of the parent's; the other way round where less is better."""
    told = cell.comparison.primary_change
    return _share(told.candidate, told.parent, told.higher_is_better)


def _size(cell: Cell, _: Cells) -> float | str:
    return cell.comparison.size_ratio


def _speed(batch: int) -> Figure:
    """How many times as fast as the parent, by processor time: the geometric mean over short and long inputs."""

    def speed(cell: Cell, _: Cells) -> float | str:
        return statistics.geometric_mean([1 / ratio.cpu for ratio in cell.comparison.latency if ratio.batch == batch])

    return speed


def _of_full(cell: Cell, cells: Cells) -> float | str:
    """The metric as a share of what training all weights on the same rows gives."""
    full = cells["full"]
    if full.report is None or cell.report is None:
        return f"full: {full.why_not}"
    if full.report.evaluation_data.sha256 != cell.report.evaluation_data.sha256 or _trained(full) != _trained(cell):
        return "full: of other rows"
    told, other = cell.comparison.primary_change, full.comparison.primary_change
    return _share(told.candidate, other.candidate, told.higher_is_better)


def _share(of: float, whole: float, higher_is_better: bool) -> float | str:
    over, under = (of, whole) if higher_is_better else (whole, of)
    return over / under if under else "a metric of 0"


@dataclass(frozen=True)
class Target:
    """A row of the table of targets: the median over the tasks, and the worst task."""

    cell: str
    figure: str
    value: Figure
    median: float
    worst: float | None = None
    at_most: bool = False


TARGETS = (
    Target("quantize-static", "quality", quality, 0.995, 0.99),
    Target("quantize-static", "size", _size, 0.27, at_most=True),
    Target("quantize-static", "speed, batch 1", _speed(1), 5),
    Target("quantize-static", "speed, batch 8", _speed(8), 7),
    Target("quantize-dynamic", "quality", quality, 0.995, 0.99),
    Target("quantize-dynamic", "size", _size, 0.27, at_most=True),
    Target("quantize-dynamic", "speed, batch 1", _speed(1), 3),
    Target("quantize-dynamic", "speed, batch 8", _speed(8), 3),
    Target("distill", "quality", quality, 0.988, 0.97),
    Target("distill", "speed, batch 1", _speed(1), 2),
    Target("distill", "speed, batch 8", _speed(8), 2),
    Target("prune", "quality", quality, 0.99, 0.98),
    Target("prune", "speed, batch 1", _speed(1), 1.8),
    Target("prune", "speed, batch 8", _speed(8), 1.8),
    Target("lora", "metric, share of full", _of_full, 0.99, 0.98),
    Target("lora", "trained share", lambda cell, _: cell.fact("lora", "trainable_share"), 0.01, 0.01, at_most=True),
    Target("lora", "adapter, MB", lambda cell, _: _megabytes(cell.fact("lora", "adapter_bytes")), 2, 2, at_most=True),
    Target("lora", "speed, batch 1", _speed(1), 1),
    Target("chain", "quality", quality, 0.98, 0.96),
    Target("chain", "size", _size, 0.15, at_most=True),
    Target("chain", "speed, batch 1", _speed(1), 15),
    Target("chain", "speed, batch 8", _speed(8), 15),
)


def _megabytes(told: float | str) -> float | str:
    return told if isinstance(told, str) else told / 1e6


def cell_table(cells: Sequence[Cell]) -> Iterator[str]:
    yield "| model | step | metric | parent | this | difference (95%) | size | batch 1 | batch 8 | memory | rows | precision |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for cell in cells:
        if cell.report is None:
            yield f"| {cell.model} | {cell.cell} | {cell.why_not} | | | | | | | | | |"
            continue
        told, own = cell.comparison.primary_change, cell.comparison
        between = "" if told.low is None or told.high is None else f" ({told.low:+.3f} to {told.high:+.3f})"
        memory = _ratio(own.after.performance, own.before.performance)
        figures = (
            f"{told.name} | {told.parent:.3f} | {told.candidate:.3f} | {told.difference:+.3f}{between}",
            f"{own.size_ratio:.3f} | {_speeds(cell, 1)} | {_speeds(cell, 8)} | {memory}",
            f"{_trained(cell)}/{cell.comparison.rows.rows}",
            f"{own.before.plan.precision}; {own.after.plan.precision} ({own.after.plan.runtime})",
        )
        yield " | ".join((f"| {cell.model} | {cell.cell}", *figures)) + " |"


def _ratio(after: Any, before: Any) -> str:
    return f"{after.peak_rss_bytes / before.peak_rss_bytes:.2f}" if after and before else ""


def _speeds(cell: Cell, batch: int) -> str:
    return ", ".join(f"{1 / ratio.cpu:.2f}" for ratio in cell.comparison.latency if ratio.batch == batch)


def _trained(cell: Cell) -> int:
    """On how many rows the optimizers trained, recovery included."""
    told = [step.get("facts", {}) for step in cell.steps if step["name"] != "train"]
    return max((int(facts.get("rows") or (facts.get("recovery") or {}).get("rows", 0)) for facts in told), default=0)


def target_table(found: Mapping[str, Cells], asked: Sequence[str]) -> Iterator[str]:
    """Every target of the cells that were asked for: what was found, and why a task has no figure."""
    yield "| step | figure | target (median; worst) | median | worst | met | each | without a figure |"
    yield "|---|---|---|---|---|---|---|---|"
    for target in (target for target in TARGETS if target.cell in asked):
        told = {
            model: target.value(cells[target.cell], cells) if cells[target.cell].report else cells[target.cell].why_not
            for model, cells in found.items()
        }
        values = {model: value for model, value in told.items() if isinstance(value, float | int)}
        missing = "; ".join(f"{model}: {value}" for model, value in told.items() if isinstance(value, str))
        bound = ("at most " if target.at_most else "at least ") + f"{target.median:g}"
        bound += f"; {target.worst:g}" if target.worst is not None else ""
        measured = _measured(target, list(values.values())) if values else " |  | "
        each = ", ".join(f"{model} {value:.3f}" for model, value in values.items())
        yield f"| {target.cell} | {target.figure} | {bound} | {measured} | {each} | {missing} |"


def _measured(target: Target, values: Sequence[float]) -> str:
    median, worst = statistics.median(values), max(values) if target.at_most else min(values)
    bounds = [(median, target.median), *([(worst, target.worst)] if target.worst is not None else [])]
    met = all(value <= bound if target.at_most else value >= bound for value, bound in bounds)
    return f"{median:.3f} | {worst:.3f} | {'yes' if met else 'no'}"
