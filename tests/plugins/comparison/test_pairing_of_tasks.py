"""What evaluations carry for a comparison: replicates drawn alike for every model, and scores of rows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from taskloom.core.comparing import class_changes
from taskloom.core.comparison import ParetoPoint, difference_interval
from taskloom.core.task import EvaluationResult
from taskloom.plugins._shared.label_metrics import Judged, accuracy, evaluate_labels, macro_f1
from taskloom.plugins._shared.label_scores import LabelScore, chosen_labels
from taskloom.plugins._shared.pareto import draw_pareto, front
from taskloom.plugins.tasks.ner.plugin import NerTask
from taskloom.plugins.tasks.ner.schema import Entity, NerOutput

LABELS = ("card", "order", "other")


def judged(wrong: set[int], rows: int = 300) -> EvaluationResult:
    """Rows of three labels in turn; those in `wrong` get the label behind their own."""
    true = np.zeros((rows, 3), dtype=bool)
    scores = np.full((rows, 3), 0.1)
    for i in range(rows):
        true[i, i % 3] = True
        scores[i, (i + (i in wrong)) % 3] = 0.8
    given = scores == 0.8
    return evaluate_labels(Judged(LABELS, true, given, scores, True), {"accuracy": accuracy, "macro_f1": macro_f1})


def test_two_models_that_answer_alike_differ_by_nothing_in_every_replicate() -> None:
    one, other = judged({1, 5, 9}), judged({1, 5, 9})
    assert one.pairing is not None
    assert other.pairing is not None
    for name, drawn in one.pairing.metrics.items():
        assert len(set(drawn)) > 1
        assert difference_interval(drawn, other.pairing.metrics[name]) == (0.0, 0.0)


def test_a_class_that_lost_is_certain_and_the_others_are_not_touched() -> None:
    dice = random.Random(1)
    wrong = {i for i in range(300) if dice.random() < 0.1}
    worse = wrong | {i for i in range(0, 300, 3) if dice.random() < 0.2}
    changes = {change.name: change for change in class_changes(judged(wrong), judged(worse))}
    assert next(iter(changes)) == "card"
    assert changes["card"].high is not None
    assert changes["card"].high < 0
    assert changes["other"].difference == pytest.approx(0.0, abs=1e-9)
    assert sum(change.support for change in changes.values()) == 300


def test_a_rows_score_is_that_of_its_label() -> None:
    pairing = judged({0}).pairing
    assert pairing is not None
    assert pairing.rows[:2] == (0.1, 0.8)


@pytest.mark.parametrize(
    ("scores", "said"),
    [((0.4, 0.3, 0.2), ("a",)), ((0.9, 0.8, 0.1), ("a", "b")), ((), ())],
)
def test_an_answer_is_its_labels_whatever_the_order_of_the_rest(scores: tuple[float, ...], said: tuple[str, ...]) -> None:
    assert chosen_labels([LabelScore(label=x, score=y) for x, y in zip("abc", scores, strict=False)]) == said


def test_answers_that_differ_in_scores_alone_are_the_same() -> None:
    one, other, moved = (
        NerOutput(entities=(Entity(label="LOC", start=start, end=9, text="x", score=score),))
        for start, score in ((3, 0.9), (3, 0.8), (4, 0.9))
    )
    task = NerTask()
    assert task.answer(one) == task.answer(other) != task.answer(moved)


def test_the_front_holds_what_no_other_version_beats(tmp_path: Path) -> None:
    points = [
        ParetoPoint(name="parent", quality=0.95, latency_s=0.004, size_bytes=90_000_000),
        ParetoPoint(name="small", quality=0.94, latency_s=0.001, size_bytes=20_000_000, newest=True),
        ParetoPoint(name="beaten", quality=0.93, latency_s=0.002, size_bytes=30_000_000),
    ]
    assert front(points) == [0, 1]
    draw_pareto(points, "accuracy", tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
