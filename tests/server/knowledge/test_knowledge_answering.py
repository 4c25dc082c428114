"""Which of what was read becomes the answer, how sure it is, and when there is none."""

from __future__ import annotations

import pytest

from taskloom.core.knowledge import Hit, Passage
from taskloom.core.settings import Calibration
from taskloom.server.knowledge.answering import (
    Asked,
    answer,
    candidates,
    faq_confidence,
    faq_similarity,
    logistic,
    plain,
    relevance,
    span_odds,
)
from taskloom.server.knowledge.models import Reading

ASKED = Asked(language="en", understood_as="", version=3, threshold=0.5, models=("embed-en@1", "qa-en@1"))
PLAIN = Calibration(intercept=0.0, reader=1.0, dense=0.0, agreement=0.0)


def hit(number: int, text: str, *, question: str = "", dense: float | None = 0.5, start: int = 100) -> Hit:
    passage = Passage(
        passage_id=f"p{number}",
        document_id=f"d{number}",
        text=text,
        start=start,
        end=start + len(text),
        question=question,
        title=f"Title {number}",
    )
    return Hit(passage=passage, score=1 / (1 + number), dense=dense)


def reading(text: str, score: float, start: int = 0) -> Reading:
    return Reading(text, start, start + len(text), score, 1 - score)


def test_the_surest_span_is_the_answer_and_offsets_are_those_of_the_document() -> None:
    hits = [hit(0, "It opens at 9."), hit(1, "We close at 18:00 on Fridays.")]
    found = candidates(hits, [reading("9", 0.2, 12), reading("18:00", 0.8, 12)], PLAIN)
    told = answer(ASKED, None, 0.0, found, hits)
    assert (told.kind, told.answer, told.version) == ("span", "18:00", 3)
    assert told.confidence == pytest.approx(0.8)
    assert [source.document_id for source in told.sources] == ["d1", "d0"]
    assert (told.sources[0].start, told.sources[0].end) == (112, 117)
    assert told.models == ASKED.models


def test_below_the_threshold_there_is_no_answer_but_what_came_nearest() -> None:
    hits = [hit(0, "It opens at 9."), hit(1, "Nothing of the kind.")]
    found = candidates(hits, [reading("9", 0.4, 12), reading("", 0.0)], PLAIN)
    told = answer(ASKED, None, 0.0, found, hits)
    assert (told.kind, told.answer) == ("none", "")
    assert told.confidence == pytest.approx(0.4)
    assert [source.passage for source in told.sources] == ["It opens at 9.", "Nothing of the kind."]
    assert all(source.answer == "" for source in told.sources)


def test_nothing_found_is_no_answer() -> None:
    told = answer(ASKED, None, 0.0, candidates([], [], PLAIN), [])
    assert (told.kind, told.confidence, told.sources) == ("none", 0.0, ())


def test_a_faq_entry_answers_where_it_is_surer_than_the_text() -> None:
    entry = hit(0, "Write to support.", question="How do I get help?", dense=0.95)
    texts = [hit(1, "Help is on page 9.")]
    found = candidates(texts, [reading("page 9", 0.6)], PLAIN)
    sure = faq_confidence(0.95, PLAIN)
    told = answer(ASKED, entry, sure, found, [entry, *texts])
    assert (told.kind, told.answer) == ("faq", "Write to support.")
    assert told.sources[0].answer == "Write to support."
    assert told.confidence == sure > 0.9
    far = answer(ASKED, entry, faq_confidence(0.5, PLAIN), found, [entry, *texts])
    assert (far.kind, far.answer) == ("span", "page 9")


def test_passages_that_agree_make_an_answer_surer() -> None:
    calibration = Calibration(intercept=0.0, reader=1.0, dense=0.0, agreement=2.0)
    hits = [hit(i, "x") for i in range(3)]
    together = candidates(hits, [reading("The Nile", 0.5), reading("nile.", 0.5), reading("Oslo", 0.55)], calibration)
    assert [one.reading.text for one in together] == ["The Nile", "nile.", "Oslo"]
    assert together[0].agreement == 0.5
    assert together[0].confidence == pytest.approx(logistic(span_odds(reading("", 0.5), 0.5, 0.5, calibration)))


def test_where_a_passage_stands_says_which_answer_is_best_and_not_how_sure_it_is() -> None:
    hits = [hit(0, "x", dense=0.5), hit(1, "y", dense=0.5)]
    readings = [reading("York", 0.5), reading("Leeds", 0.6)]
    plain = candidates(hits, readings, PLAIN)
    assert [one.reading.text for one in plain] == ["Leeds", "York"]
    placed = candidates(hits, readings, PLAIN.model_copy(update={"place": 3.0}))
    assert [one.reading.text for one in placed] == ["York", "Leeds"]
    assert {one.reading.text: one.confidence for one in placed} == {one.reading.text: one.confidence for one in plain}
    sure = candidates(hits, [reading("York", 0.5), reading("Leeds", 0.95)], PLAIN.model_copy(update={"place": 3.0}))
    assert sure[0].reading.text == "Leeds"
    told = answer(ASKED, None, 0.0, placed, hits)
    assert (told.answer, told.confidence) == ("York", pytest.approx(0.5))
    unsure = candidates(hits, [reading("York", 0.4), reading("Leeds", 0.6)], PLAIN.model_copy(update={"place": 3.0}))
    told = answer(ASKED, None, 0.0, unsure, hits)
    assert (told.kind, told.confidence) == ("none", pytest.approx(0.4)), "it is the best one that must reach the threshold"


def test_a_readers_doubt_that_there_is_an_answer_makes_it_less_sure() -> None:
    calibration = Calibration(intercept=0.0, reader=0.0, answerable=1.0)
    doubts = [Reading("York", 0, 4, 0.3, 0.2), Reading("Leeds", 0, 5, 0.6, 0.9)]
    found = candidates([hit(0, "x"), hit(1, "y")], doubts, calibration)
    assert [(one.reading.text, one.confidence) for one in found] == [
        ("York", pytest.approx(0.8)),
        ("Leeds", pytest.approx(0.1)),
    ]


def test_certain_readings_have_finite_odds() -> None:
    assert logistic(span_odds(reading("", 1.0), None, 0.0, PLAIN)) == pytest.approx(1.0, abs=1e-5)
    assert logistic(span_odds(reading("", 0.0), None, 0.0, PLAIN)) == pytest.approx(0.0, abs=1e-5)


def test_without_vectors_a_faq_entry_answers_its_own_question_alone() -> None:
    entry = hit(0, "点击“忘记密码”。", question="如何重置密码?", dense=None)
    assert faq_similarity("如何重置密码？", entry) == 1.0
    assert faq_similarity("如何重置路由器密码?", entry) == 0.0
    returns = hit(1, "Within 30 days.", question="Can I return an unopened product?", dense=None)
    assert faq_similarity("Can I return an opened product?", returns) == 0.0
    assert faq_similarity("anything", hit(0, "x", question="y", dense=0.4)) == 0.4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Nile", "nile."),
        ("18:00", "18:00"),
        ("约克", "约克。"),
        ("「约克」", "约克"),
        ("台灣", "台湾"),
        ("An apple", "apple"),
    ],
)
def test_what_makes_no_difference_to_an_answer(one: str, other: str) -> None:
    assert plain(one) == plain(other) != ""


def test_the_search_has_a_say_beside_the_model_that_re_ranks() -> None:
    assert relevance(0.7, 1) == pytest.approx(0.7), "of what the search puts first the model alone decides"
    assert relevance(0.7, 9) < relevance(0.7, 2) < 0.7
    assert relevance(0.99, 5) > relevance(0.5, 1), "a model that is sure wins over the search"
    assert relevance(0.6, 2) < relevance(0.5, 1), "one that is not does not"
    assert 0 < relevance(0.0, 100) < relevance(1.0, 1) < 1
