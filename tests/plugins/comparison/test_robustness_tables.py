"""How the robustness of two models is told, on a page and on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from taskloom.core.artifact import ParentInfo
from taskloom.core.comparison import AnswerChanges, Change, Comparison, RobustnessRow, RowChanges, Side
from taskloom.core.report_tables import robustness_section
from taskloom.core.runtime import ExecutionPlan
from taskloom.plugins.commands.tables import comparison_tables

SIDE = Side(size_bytes=1, artifact_bytes=1, plan=ExecutionPlan(runtime="torch", device="cpu", precision="fp32", threads=1))
CLEAN = Change(name="accuracy", parent=0.9, candidate=0.89)
ANSWERS = AnswerChanges(
    name="answers changed",
    parent=0.1,
    candidate=0.25,
    low=0.05,
    high=0.24,
    higher_is_better=False,
    parent_interval=(0.06, 0.16),
    candidate_interval=(0.19, 0.32),
    agreed=0.71,
)
TYPOS = RobustnessRow(
    name="typos",
    description="letters change places",
    rows=150,
    clean=CLEAN,
    changed=Change(name="accuracy", parent=0.81, candidate=0.68, low=-0.2, high=-0.06),
    answers=ANSWERS,
)
DENIED = RobustnessRow(
    name="negation", description="denied", rows=120, clean=CLEAN, capability="negation", keeps_answer=False, answers=ANSWERS
)
OLD = RobustnessRow(name="upper case", description="capitals", rows=9, clean=CLEAN, changed=CLEAN)


def compared(*rows: RobustnessRow) -> Comparison:
    return Comparison(
        parent=ParentInfo(model="m", version="1", digest="a" * 64),
        primary="accuracy",
        metrics=(CLEAN,),
        rows=RowChanges(rows=200, changed=0.0),
        before=SIDE,
        after=SIDE,
        robustness=rows,
    )


def page(*rows: RobustnessRow) -> str:
    return "".join(robustness_section(compared(*rows)))


def terminal(*rows: RobustnessRow) -> str:
    written = io.StringIO()
    for table in comparison_tables(compared(*rows)):
        Console(file=written, width=80).print(table)
    return written.getvalue()


def test_both_tell_rates_of_failure_of_both_models_their_difference_and_the_metric() -> None:
    for told in ("INV", "150", "10.0%", "25.0%", "+15.0%", "+5.0% to +24.0%", "0.8100", "0.6800", "-0.1300"):
        assert told in page(TYPOS)
        assert told in terminal(TYPOS)
    assert "6.0% to 16.0%" in page(TYPOS)
    assert "as it is 0.9000" in page(TYPOS)
    assert "▼ +15.0%" in page(TYPOS), "more answers that change are worse"


def test_answers_to_denied_texts_are_told_without_a_judgement() -> None:
    assert "▼" not in page(DENIED)
    assert "both agree on 71.0%" in page(DENIED)
    assert "change rate" in page(DENIED)
    assert "25.0%" in page(DENIED)
    line = next(line for line in terminal(DENIED).splitlines() if "negation" in line)
    assert [cell.strip() for cell in line.split("│")[2:6]] == ["rate", "120", "10.0%", "25.0%"]


def test_reports_from_before_answers_were_counted_can_be_shown() -> None:
    read = RobustnessRow.model_validate(OLD.model_dump(mode="json", exclude={"answers", "keeps_answer", "capability"}))
    assert read == OLD
    assert "not counted" in page(read)
    assert "0.8900" in terminal(read)
    assert "INV" not in terminal()
