"""Advice for people: a table of what fits, why, and what to type next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from taskloom.core.advice import MB, MS, Advice, Verdict
from taskloom.core.selection import MeasuredTable, Quality
from taskloom.sdk.cli.render import LINE_CELLS, plain

NOT_MEASURED = "not measured"
SHOWN_MISSES = 12


def advice_shown(advice: Advice, table: MeasuredTable, note: str = "") -> RenderableType:
    """What fits, what may fit, what doesn't, what would help, and where the figures come from; `note` is what to beware of."""
    parts: list[RenderableType] = []
    listed = [*advice.fits, *advice.unknown]
    if not advice.fits:
        parts.append(
            Text("nothing that was measured fits" if advice.misses or advice.unknown else "nothing was measured", "yellow")
        )
    if listed:
        parts.append(_figures(advice, listed))
    for place, verdict in enumerate(advice.fits, 1):
        parts.append(_told(f"{place} ", verdict))
    if advice.unknown:
        parts.append(_title("may fit: something that was asked for was not measured", "yellow"))
        parts.extend(_told("? ", verdict) for verdict in advice.unknown)
    if advice.misses:
        parts.append(_title("does not fit" if listed else "what comes nearest first", "dim"))
        parts.extend(_missed(advice.misses))
    if advice.remedies:
        parts.append(_title("what may help", "dim"))
        parts.extend(_hung("- ", Text(plain(line))) for line in advice.remedies)
    parts.append(_source(advice, table))
    if note:
        parts.append(Text(note, "yellow"))
    return Constrain(Group(*parts), LINE_CELLS)


def _figures(advice: Advice, listed: Sequence[Verdict]) -> Table:
    quality = listed[0].model.quality
    figures = Table("", "model", f"{quality.metric} (95%)", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (f"{advice.wishes.shape} p50 / p99 ms", "memory MB", "disk MB"):
        figures.add_column(name, justify="right")
    for column in figures.columns:
        column.overflow = "fold"  # a name that is cut can't be used
    for place, verdict in enumerate(listed, 1):
        mark = str(place) if place <= len(advice.fits) else "?"
        speed, model = verdict.speed, verdict.model
        calls = speed.of(advice.wishes.shape) if speed else None
        times = f"{calls.p50_s / MS:.1f} / {calls.p99_s / MS:.1f}" if calls else NOT_MEASURED
        memory = f"{speed.peak_rss_bytes / MB:.0f}" if speed else NOT_MEASURED
        named = Text(plain(model.name), "cyan")
        figures.add_row(mark, named, _quality(model.quality), times, memory, f"{model.whole_bytes / MB:.1f}")
    return figures


def _quality(quality: Quality) -> str:
    interval = f" ({quality.low:.3f}–{quality.high:.3f})" if quality.low is not None and quality.high is not None else ""
    return f"{quality.value:.3f}{interval}"


def _told(mark: str, verdict: Verdict) -> RenderableType:
    model, quality = verdict.model, verdict.model.quality
    lines: list[RenderableType] = [Text(plain(model.name), "cyan")]
    if model.description:
        lines.append(Text(plain(model.description), "dim"))
    told = (*verdict.reasons, f"{quality.metric} on {quality.rows:,} rows of {quality.data}")
    lines.extend(_hung("- ", Text(plain(reason))) for reason in told)
    lines.append(Text(f"$ {plain(model.first_command)}", "bold"))
    return _hung(mark, Group(*lines))


def _missed(misses: Sequence[Verdict]) -> Iterator[RenderableType]:
    for verdict in misses[:SHOWN_MISSES]:
        yield _hung(
            "- ", Text(plain(verdict.model.name), "cyan").append(f"  {'; '.join(map(plain, verdict.reasons))}", "not cyan")
        )
    if len(misses) > SHOWN_MISSES:
        yield Text(f"  and {len(misses) - SHOWN_MISSES} more; --json has all", "dim")


def _hung(mark: str, shown: RenderableType) -> RenderableType:
    """A mark, and what stands behind it with all its lines."""
    grid = Table.grid(padding=0)
    grid.add_column(no_wrap=True, width=len(mark))
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark), shown)
    return grid


def _title(text: str, style: str) -> RenderableType:
    return Padding(Text(text, style), (1, 0, 0, 0))


def _source(advice: Advice, table: MeasuredTable) -> RenderableType:
    facts, (low, high) = table.machines[advice.machine], table.loads(advice.machine)
    instructions = f" with {', '.join(facts.instructions)}" if facts.instructions else ""
    threads = "one thread" if facts.threads == 1 else f"{facts.threads} threads"
    told = (
        f"{advice.machine}: processor time on {facts.processor}{instructions}, {facts.precision}, {threads}, "
        f"{', '.join(table.days(advice.machine))}, with other work beside it (load {low:.1f} to {high:.1f})"
    )
    return Padding(Text(plain(told), "dim"), (1, 0, 0, 0))
