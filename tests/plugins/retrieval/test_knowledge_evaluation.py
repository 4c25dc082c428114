"""The figures of a knowledge base, on questions whose answers are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from taskloom.core.errors import DataError, UnsupportedError
from taskloom.core.knowledge import Hit, Passage, SearchMode
from taskloom.core.knowledge_calls import KnowledgeAnswer
from taskloom.core.knowledge_figures import KnowledgeFigures, KnownQuestion
from taskloom.plugins.retrieval.evaluation import (
    MODES,
    Tried,
    answer_figures,
    calibration_error,
    judge,
    judge_answers,
    judge_search,
    rank_of_right,
    read_questions,
    reader_f1,
    risk_coverage,
    threshold_for,
)

SQUAD = Path(__file__).parents[2] / "data" / "squadshifts-sample.json"


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

    def search(question: str, mode: SearchMode, limit: int) -> Sequence[Hit]:
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
    with pytest.raises(DataError, match=r"questions\.jsonl, line 3: field 'question' is missing"):
        list(read_questions(path))
    path.write_text('{"question": "a"\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        list(read_questions(path))


def test_rows_say_as_much_as_they_know(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [
        '{"question": "a", "document": "d", "answers": ["x", "y"]}',
        '{"question": "b", "context": "In it."}',
        '{"question": "c"}',
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    assert list(read_questions(path)) == [
        KnownQuestion(question="a", document_id="d", answers=("x", "y")),
        KnownQuestion(question="b", context="In it."),
        KnownQuestion(question="c"),
    ]
    path.write_text('{"question": "a", "answers": "x"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1: answers: "):
        list(read_questions(path))
    path.write_text('{"question": "a", "answer": "x"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1: unknown field 'answer'"):
        list(read_questions(path))
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no rows"):
        list(read_questions(path))


def test_questions_of_squad_have_their_paragraph_and_those_without_answers_have_none(tmp_path: Path) -> None:
    sample = list(read_questions(SQUAD))
    assert all(question.answers and question.context and not question.document_id for question in sample)
    path = tmp_path / "two.json"
    asked = [
        {"question": "who?", "answers": [{"text": "Ann", "answer_start": 0}, {"text": "Ann", "answer_start": 0}]},
        {"question": "why?", "answers": [], "is_impossible": True},
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "Ann was here.", "qas": asked}]}]}), encoding="utf-8")
    assert list(read_questions(path)) == [
        KnownQuestion(question="who?", context="Ann was here.", answers=("Ann",)),
        KnownQuestion(question="why?"),
    ]
    path.write_text('{"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "a", "answers": ["x"]}]}]}]}')
    with pytest.raises(DataError, match=r"question number 1: `answers` is"):
        list(read_questions(path))
    path.write_text('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "q7", "question": "", "answers": []}]}]}]}')
    with pytest.raises(DataError, match=r"question q7: question: "):
        list(read_questions(path))


def test_a_passage_is_right_if_it_lies_in_the_paragraph_whatever_cleaning_did() -> None:
    question = KnownQuestion(
        question="How long?", context="Its length  is 6650\u00a0km.\nIt flows north.", answers=("6650\u00a0km",)
    )
    assert rank_of_right(question, [hit("a", "It flows north."), hit("b", "Its length is 6650 km.")]) == 2
    assert rank_of_right(question, [hit("a", "The Nile: its length is 6650 km, they say.")]) is None
    anywhere = KnownQuestion(question="How long?", answers=("6650 km",))
    assert rank_of_right(anywhere, [hit("a", "It is long."), hit("b", "They say 6650 km.")]) == 2


class WordBase:
    """Finds by one word, answers with the first word of what it found, and has no vectors."""

    def __init__(self, *texts: str, modes: tuple[SearchMode, ...] = MODES) -> None:
        self.texts = texts
        self.modes = modes

    def search(self, question: str, mode: SearchMode, limit: int) -> list[Hit]:
        if mode == "dense":
            raise UnsupportedError("there is no embedding model")
        found = [hit(text, text) for text in self.texts if question in text]
        return (found[::-1] if mode == "reranked" else found)[:limit]

    def ask(self, question: str) -> KnowledgeAnswer:
        found = self.search(question, "sparse", 1)
        answer, sure = (found[0].passage.text.split()[0], 0.9) if found else ("", 0.1)
        return KnowledgeAnswer(kind="span" if found else "none", answer=answer, confidence=sure, language="en", version=1)


def test_a_base_is_judged_in_every_way_that_it_has(tmp_path: Path) -> None:
    rows = [
        KnownQuestion(question="york", answers=("ann",)),
        KnownQuestion(question="leeds", answers=("bob",)),
        KnownQuestion(question="paris"),
    ]
    told: list[str] = []
    found = judge(WordBase("ann in york", "tom in leeds"), rows, tmp_path / "risk.png", told.append)
    assert list(found.modes) == ["sparse", "hybrid"]
    assert found.unmeasured == {"dense": "there is no embedding model"}
    assert found.modes["sparse"].metrics["recall@1"] == 0.5
    assert found.answers is not None
    assert found.answers.metrics["f1"] == 0.5
    assert [(point.coverage, point.risk) for point in found.answers.risk] == [(2 / 3, 0.5), (1.0, 2 / 3)]
    assert told == ["dense search", "sparse search", "hybrid search", "answers"]
    with Image.open(tmp_path / "risk.png") as picture:
        assert picture.format == "PNG"
    assert KnowledgeFigures.model_validate_json(found.model_dump_json()) == found


def test_the_re_ranked_order_is_judged_beside_the_fused_one_where_a_base_has_it() -> None:
    rows = [KnownQuestion(question="york", answers=("tom",))]
    base = WordBase("ann in york", "tom in york", modes=("hybrid", "reranked"))
    found = judge(base, rows)
    assert {mode: own.metrics["mrr"] for mode, own in found.modes.items()} == {"hybrid": 0.5, "reranked": 1.0}
    assert found.modes["reranked"].intervals["mrr"] == (1.0, 1.0)


class LinkedBase(WordBase):
    """With the graph the right text comes first, and without it behind another."""

    def search(self, question: str, mode: SearchMode, limit: int) -> list[Hit]:
        right = [hit(text, text) for text in self.texts if question in text]
        return right if mode == "graph" else [hit("none", "none"), *right]


def test_the_gain_of_a_graph_is_of_the_same_questions_with_and_without_it() -> None:
    rows = [KnownQuestion(question=name, document_id=f"ann in {name}") for name in ("york", "leeds", "bath", "paris")]
    base = LinkedBase("ann in york", "ann in leeds", "ann in bath", modes=(*MODES, "graph", "reranked"))
    found = judge(base, rows)
    assert list(found.modes) == ["dense", "sparse", "hybrid", "graph", "reranked"]
    assert found.graph_gain is not None
    assert found.graph_gain.metrics["recall@1"] == 0.75
    assert found.graph_gain.metrics["recall@5"] == 0.0
    assert found.graph_gain.metrics["mrr"] == pytest.approx(0.75 - 0.375)
    low, high = found.graph_gain.intervals["mrr"]
    assert 0 < low < 0.375 < high <= 0.5
    assert judge(WordBase("ann in york"), [KnownQuestion(question="york", document_id="ann in york")]).graph_gain is None


def test_questions_that_say_nothing_of_their_answers_measure_nothing() -> None:
    with pytest.raises(DataError, match="nothing to measure"):
        judge(WordBase("ann in york"), [KnownQuestion(question="york")])
