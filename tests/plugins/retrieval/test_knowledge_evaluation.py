"""The figures of a knowledge base, on questions whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from taskloom.core.errors import DataError
from taskloom.core.knowledge import Hit, Mode, Passage
from taskloom.core.knowledge_calls import KnowledgeAnswer
from taskloom.plugins.retrieval.evaluation import (
    KnownQuestion,
    Tried,
    answer_figures,
    calibration_error,
    judge_answers,
    judge_search,
    rank_of_right,
    read_questions,
    reader_f1,
    risk_coverage,
    threshold_for,
)


def hit(document: str, text: str) -> Hit:
    passage = Passage(passage_id=f"{document}-{text}", document_id=document, text=text, start=0, end=len(text))
    return Hit(passage=passage, score=1.0)


def tried(confidence: float, f1: float, *, answerable: bool = True) -> Tried:
    return Tried(confidence=confidence, f1=f1, exact=float(f1 == 1), answerable=answerable, kind="span", took_s=0.1)


def test_the_right_passage_is_one_of_the_right_document_that_holds_an_answer() -> None:
    question = KnownQuestion(question="How long?", document_id="nile", answers=("6650 km", "6,650 km"))
    hits = [hit("danube", "2850 km"), hit("nile", "It flows north."), hit("nile", "Its length is 6650 km.")]
    assert rank_of_right(question, hits) == 3
    assert rank_of_right(question.model_copy(update={"answers": ()}), hits) == 2
    assert rank_of_right(question, hits[:2]) is None


def test_ranks_make_the_figures_of_the_field() -> None:
    found = {"a": ["x", "a"], "b": ["b"], "c": [*"pqrstuvwxyz", "c"], "d": []}

    def search(question: str, mode: Mode, limit: int) -> Sequence[Hit]:
        assert (mode, limit) == ("dense", 20)
        return [hit(name, name) for name in found[question]]

    questions = [KnownQuestion(question=name, document_id=name) for name in found]
    figures = judge_search(search, [*questions, KnownQuestion(question="?")], "dense")
    assert figures.metrics["recall@1"] == 0.25
    assert figures.metrics["recall@5"] == 0.5
    assert figures.metrics["recall@20"] == 0.75
    assert figures.metrics["mrr"] == pytest.approx((1 / 2 + 1 + 1 / 12 + 0) / 4)
    assert figures.metrics["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1) / 4)
    low, high = figures.intervals["recall@5"]
    assert low < 0.5 < high
    with pytest.raises(DataError, match="nothing to measure"):
        judge_search(search, [KnownQuestion(question="?")], "dense")


def test_answers_are_scored_against_every_true_one_in_both_languages() -> None:
    said = {"q1": "in York", "q2": "约克市", "q3": "anything"}

    def ask(question: str) -> KnowledgeAnswer:
        return KnowledgeAnswer(kind="span", answer=said[question], confidence=0.5, language="en", version=1)

    rows = [
        KnownQuestion(question="q1", document_id="d", answers=("Leeds", "York")),
        KnownQuestion(question="q2", document_id="d", answers=("约克",)),
        KnownQuestion(question="q3"),
    ]
    first, second, third = judge_answers(ask, rows)
    assert first.f1 == pytest.approx(2 / 3)
    assert second.f1 == pytest.approx(0.8)
    assert not third.answerable
    assert not third.right
    figures = answer_figures([first, second, third], reader_f1=0.9)
    assert figures.metrics["f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert figures.reader_f1 == 0.9


def test_answering_less_is_wrong_less() -> None:
    rows = [tried(0.9, 1.0), tried(0.8, 1.0), tried(0.6, 0.0), tried(0.6, 1.0), tried(0.2, 0.9, answerable=False)]
    points = list(risk_coverage(rows))
    assert [(point.coverage, point.risk) for point in points] == [(0.2, 0.0), (0.4, 0.0), (0.8, 0.25), (1.0, 0.4)]
    chosen = threshold_for(points, 0.25)
    assert chosen is not None
    assert (chosen.threshold, chosen.coverage) == (0.6, 0.8)
    assert threshold_for(list(risk_coverage([tried(0.9, 0.0)])), 0.1) is None


def test_confidence_is_held_against_what_was_right() -> None:
    sure_and_wrong = [tried(0.95, 0.0) for _ in range(4)]
    assert calibration_error(sure_and_wrong) == pytest.approx(0.95)
    fitting = [tried(0.75, 1.0), tried(0.75, 1.0), tried(0.75, 1.0), tried(0.75, 0.0)]
    assert calibration_error(fitting) == pytest.approx(0.0)


def test_the_reader_is_measured_on_the_passages_that_hold_the_answer() -> None:
    rows = [
        KnownQuestion(question="a", document_id="d", answers=("York",)),
        KnownQuestion(question="b", document_id="d", answers=("Leeds",)),
        KnownQuestion(question="c"),
    ]
    passages = {"a": "It is in York.", "b": None}
    assert reader_f1(lambda q, p: "York", rows, lambda row: passages[row.question]) == 1.0
    with pytest.raises(DataError):
        reader_f1(lambda q, p: "York", rows, lambda row: None)


def test_a_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "a", "document_id": "d"}\n\n{"document_id": "d"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"questions\.jsonl, line 3: Field required"):
        list(read_questions(path))
    path.write_text('{"question": "a"\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        list(read_questions(path))
