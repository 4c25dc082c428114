"""What a writer is given, and what of the passages is found again in what it wrote."""

from __future__ import annotations

from typing import Any

import pytest

from taskloom.core.knowledge import Hit, Passage
from taskloom.core.knowledge_calls import AnswerConfig
from taskloom.server.knowledge import writing
from taskloom.server.knowledge.writing import evidence_of, prompt_of, quoted, written_source


def hit(text: str, *, question: str = "", **fields: Any) -> Hit:
    place = {"start": 100, "end": 100 + len(text)}
    passage = Passage(passage_id="p", document_id="d", text=text, title="Title", question=question, **place)
    return Hit(passage=passage, **{"score": 0.1, **fields})


def test_passages_stand_in_the_prompt_whole_and_numbered_as_long_as_there_is_room() -> None:
    hits = [hit("a" * 40), hit("b" * 40), hit("c" * 40), hit("d")]
    config = AnswerConfig(prompt="{question}|{passages}", passage="[{number}] {title}: {text}", passage_characters=110)
    prompt, given = prompt_of(config, "why?", hits)
    assert prompt == f"why?|[1] Title: {'a' * 40}\n[2] Title: {'b' * 40}"
    assert given == hits[:2]


def test_braces_of_passages_and_questions_are_text() -> None:
    prompt, _ = prompt_of(AnswerConfig(passage="{{{text}}}"), "what is {passages}?", [hit("{question} {0}")])
    assert prompt == "question: what is {passages}?\ncontext:\n{{question} {0}}"


def test_a_first_passage_that_is_too_long_is_cut_and_a_faq_entry_has_its_question() -> None:
    config = AnswerConfig(passage="{text}", passage_characters=100)
    prompt, given = prompt_of(config, "q", [hit("很长" * 80), hit("more")])
    assert prompt.endswith("\n" + "很长" * 50)
    assert len(given) == 1
    assert prompt_of(config, "q", [hit("At nine.", question="When?")])[0].endswith("When?\nAt nine.")
    assert prompt_of(config, "q", [])[1] == []


@pytest.mark.parametrize(
    ("text", "passage", "found"),
    [
        ("The reset takes ten seconds to finish.", "Press it: the RESET takes ten seconds.", "the RESET takes ten seconds"),
        ("Paris.", "It is in Paris, France.", "Paris"),
        ("It is Rome.", "It is in Paris, France.", None),
        ("", "It is in Paris.", None),
        ("...", "It is in Paris.", None),
        ("请按住复位按钮十秒钟。", "按住复位按钮十秒钟即可恢复出厂设置。", "按住复位按钮十秒钟"),
        ("按钮在后面", "按住复位按钮十秒钟", None),
    ],
)
def test_what_a_text_has_from_a_passage_is_found_word_for_word(text: str, passage: str, found: str | None) -> None:
    span = quoted(text, passage)
    assert (None if span is None else passage[slice(*span)]) == found
    source = written_source(hit(passage), text)
    assert source.answer == (found or "")
    if found:
        assert passage[source.start - 100 : source.end - 100] == found
    else:
        assert (source.start, source.end) == (100, 100 + len(passage))


def test_evidence_is_of_the_strongest_kind_that_there_is() -> None:
    assert evidence_of([], [hit("a", dense=0.9)], read=True) == (0.0, "reader")
    assert evidence_of([], [hit("a", score=0.4, fused=0.01, dense=0.9)], read=False) == (0.4, "reranker")
    assert evidence_of([], [hit("a", dense=0.3), hit("b", dense=0.6), hit("c")], read=False) == (0.6, "similarity")
    assert evidence_of([], [hit("a", dense=-0.3)], read=False) == (0.0, "similarity")
    assert evidence_of([], [hit("a", sparse=9.0)], read=False) == (0.0, "")


def test_examples_in_docstrings() -> None:
    import doctest

    assert doctest.testmod(writing).failed == 0
