"""The tables of `report.html`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from taskloom.core.comparison import AnswerChanges, Change, ClassChange, Comparison, RobustnessRow
from taskloom.core.figures_told import milliseconds, other_figures, precision

BETTER, WORSE, UNSURE = "better", "worse", "unsure"
WIDTH, HALF = 200, 90
"""Of the drawing of an interval, in pixels; half of it leaves room for the marks at its ends."""


def verdict(change: Change) -> str:
    """Only what is more than chance is better or worse."""
    if change.low is None or change.high is None or change.low <= 0 <= change.high:
        return UNSURE
    return WORSE if change.drop > 0 else BETTER


def changes_table(changes: Sequence[Change], kind: str, primary: str = "") -> str:
    """A row for each figure, with its interval drawn; all on one scale, which is what the widest needs."""
    reach = _reach(changes)
    with_rows = any(isinstance(own, ClassChange) for own in changes)
    rows = []
    for own in changes:
        name = f"<b>{escape(own.name)}</b>" if own.name == primary else escape(own.name)
        better = "" if own.higher_is_better else "<small>lower is better</small>"
        support = _numbers(str(own.support)) if isinstance(own, ClassChange) else ""
        rows.append(
            f"<tr><td>{name}{better}</td>{support}{_numbers(f'{own.parent:.4f}', f'{own.candidate:.4f}')}"
            f"{_difference(own, '{:+.4f}')}<td>{_drawn(own, reach)}</td></tr>"
        )
    names = (*(("rows",) if with_rows else ()), "parent", "this", "change, 95% interval")
    head = "".join(f'<th class="n">{name}</th>' for name in names)
    return _scrolling(f"<tr><th>{kind}</th>{head}<th class='axis'>−{reach:.2g} to +{reach:.2g}</th></tr>{''.join(rows)}")


def _reach(changes: Sequence[Change]) -> float:
    return max([abs(x) for own in changes for x in (own.low or 0.0, own.high or 0.0, own.difference)] or [0.0]) or 1.0


def _difference(change: Change, form: str, *, judged: bool = True) -> str:
    """A cell with the difference, and its interval below."""
    interval = ""
    if change.low is not None and change.high is not None:
        interval = f"<small>{form.format(change.low)} to {form.format(change.high)}</small>"
    mark = {BETTER: "▲ ", WORSE: "▼ "}.get(verdict(change), "") if judged else ""
    how = verdict(change) if mark else ""
    return f'<td class="n"><span class="{how}">{mark}{form.format(change.difference)}</span>{interval}</td>'


def _drawn(change: Change, reach: float) -> str:
    """The difference as a point on a line from −reach to +reach, its interval as a bar."""

    def at(value: float) -> float:
        return round(WIDTH / 2 + HALF * value / reach, 1)

    bar = ""
    if change.low is not None and change.high is not None:
        bar = f'<line x1="{at(change.low)}" x2="{at(change.high)}" y1="9" y2="9" stroke-width="3"/>'
    return (
        f'<svg width="{WIDTH}" height="18" class="{verdict(change)}" role="img" aria-label="{change.difference:+.4f}">'
        f'<line x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="18" stroke-width="1" opacity=".4"/>{bar}'
        f'<circle cx="{at(change.difference)}" cy="9" r="4"/></svg>'
    )


def speed_section(comparison: Comparison) -> str:
    told = "Each in a fresh process that holds this model alone, by turns. Size counts a shared backbone."
    sides = (("parent", comparison.before), ("this", comparison.after))
    ran = "".join(f"<br><b>{name}:</b> {escape(precision(side))}" for name, side in sides)
    rows = [pair.told() for pair in other_figures(comparison)]
    return f"<p>{told}{ran}</p>{_latencies(comparison)}{plain_table(('', 'parent', 'this', 'ratio'), rows)}"


def _latencies(comparison: Comparison) -> str:
    before, after = comparison.before.performance, comparison.after.performance
    if before is None or after is None:
        return ""
    ratios = {(ratio.batch, ratio.inputs): ratio for ratio in comparison.latency}
    rows = []
    for one, other in zip(before.latencies, after.latencies, strict=True):
        inputs = "" if one.inputs == "alike" else f", {one.inputs}"
        ratio = ratios.get((one.batch, one.inputs))
        tail = f"<small>{ratio.p99_low:.2f} to {ratio.p99_high:.2f}</small>" if ratio else ""
        rows.append(
            f"<tr><td>batch of {one.batch}{inputs}</td>"
            + _numbers(milliseconds(one.p50_s), milliseconds(other.p50_s), f"× {other.p50_s / one.p50_s:.2f}")
            + _numbers(milliseconds(one.p99_s), milliseconds(other.p99_s))
            + f'<td class="n">× {other.p99_s / one.p99_s:.2f}{tail}</td>'
            + _numbers(f"{one.items_per_s:.1f}", f"{other.items_per_s:.1f}", f"× {other.items_per_s / one.items_per_s:.2f}")
            + _numbers(f"× {ratio.cpu:.2f}" if ratio else "")
            + "</tr>"
        )
    groups = "".join(f'<th class="group" colspan="3">{name}</th>' for name in ("p50", "p99", "inputs a second"))
    groups += '<th class="group">processor</th>'
    names = ("parent", "this", "ratio", "parent", "this", "ratio, 95%", "parent", "this", "ratio", "ratio")
    head = "".join(f'<th class="n">{name}</th>' for name in names)
    return _scrolling(f'<tr><th rowspan="2">latency of a call</th>{groups}</tr><tr>{head}</tr>{"".join(rows)}')


def robustness_section(comparison: Comparison) -> list[str]:
    """In the style of CheckList: what was tested, how often it failed, and what that did to the metric."""
    notes = [f'<p class="soft">{escape(note)}</p>' for note in comparison.notes]
    if not comparison.robustness:
        return notes
    told = (
        "INV: the answer should stay what it was on the row as it is; the share of rows where it does not is how often the "
        "test fails. Change rate: what should come out is not known; the share of answers that change is told without a "
        "judgement, and beside it on how many changed rows both models agree. Below each share is its 95% interval, below each "
        "difference a paired one."
    )
    groups = (
        f'<th class="group" colspan="3">answers changed</th><th class="group" colspan="3">{escape(comparison.primary)}</th>'
    )
    names = ("parent", "this", "difference", "parent", "this", "difference")
    head = "".join(f'<th class="n">{name}</th>' for name in names)
    rows = "".join(_tested(row) for row in comparison.robustness)
    first = '<th rowspan="2">change to the input</th><th rowspan="2">test</th><th rowspan="2" class="n">rows</th>'
    table = _scrolling(f"<tr>{first}{groups}</tr><tr>{head}</tr>{rows}")
    return ["<h2>Robustness</h2>", f"<p>{told}</p>", table, *notes]


def _tested(row: RobustnessRow) -> str:
    changed = row.changed
    if changed is None:
        agreed = f"both agree on {row.answers.agreed:.1%}" if row.answers else ""
        metric = f'<td class="n soft" colspan="3">{agreed}</td>'
    else:
        sides = [(row.clean.parent, changed.parent), (row.clean.candidate, changed.candidate)]
        metric = "".join(f'<td class="n">{now:.4f}<small>as it is {before:.4f}</small></td>' for before, now in sides)
        metric += _difference(changed, "{:+.4f}")
    test = "INV" if row.keeps_answer else "change rate"
    return (
        f"<tr><td>{escape(row.name)}<small>{escape(row.description)}</small></td>"
        f"<td>{escape(row.capability)}<small>{test}</small></td>{_numbers(str(row.rows))}"
        f"{_answers(row.answers, judged=row.keeps_answer)}{metric}</tr>"
    )


def _answers(answers: AnswerChanges | None, *, judged: bool) -> str:
    if answers is None:
        return '<td class="n soft" colspan="3">not counted</td>'
    sides = ((answers.parent, answers.parent_interval), (answers.candidate, answers.candidate_interval))
    cells = "".join(f'<td class="n">{share:.1%}<small>{low:.1%} to {high:.1%}</small></td>' for share, (low, high) in sides)
    return cells + _difference(answers, "{:+.1%}", judged=judged)


def plain_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Text in the first column, figures in the others."""
    head = f"<th>{escape(header[0])}</th>" + "".join(f'<th class="n">{escape(name)}</th>' for name in header[1:])
    body = "".join(f"<tr><td>{escape(row[0])}</td>{_numbers(*row[1:])}</tr>" for row in rows)
    return _scrolling(f"<tr>{head}</tr>{body}")


def _scrolling(rows: str) -> str:
    """A table that is as wide as it must be, in a frame that is as wide as the page."""
    return f'<div class="scroll"><table>{rows}</table></div>'


def _numbers(*cells: str) -> str:
    return "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
