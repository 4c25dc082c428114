"""The caller's own terms: where they are found, and who is right when the model says otherwise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from taskloom.plugins.tasks.ner.dictionary import Gazetteer, reconcile
from taskloom.plugins.tasks.ner.schema import Entity, NerParams


def found(text: str, *terms: str, **options: Any) -> list[str]:
    return [entity.text for entity in Gazetteer(dict.fromkeys(terms, "X"), **options).find(text)]


def entity(start: int, end: int, source: Any = "model") -> Entity:
    return Entity(label="X", start=start, end=end, text="x" * (end - start), score=0.5, source=source)


def test_the_longest_term_is_found_and_none_in_another() -> None:
    assert found("New York City and New York", "New York", "New York City", "York") == ["New York City", "New York"]


def test_words_are_matched_whole_where_blanks_part_them() -> None:
    assert found("Berlin, Berliner and berlin", "Berlin") == ["Berlin"]
    assert found("Москва и Москвабад", "Москва") == ["Москва"]
    assert found("x1 x12", "x1") == ["x1"]
    assert found("C++ and C", "C++", "C") == ["C++", "C"]


def test_chinese_terms_are_found_anywhere() -> None:
    assert found("我在北京市工作,用iPhone拍照", "北京", "iPhone") == ["北京", "iPhone"]
    assert found("ไปกรุงเทพฯนะ", "กรุงเทพ") == ["กรุงเทพ"]


def test_a_mark_belongs_to_the_letter_before_it() -> None:
    assert found("e\u0301 e", "e") == ["e"]
    assert Gazetteer({"e": "X"}).find("e\u0301 e")[0].start == 3
    assert found("葛\U000e0100 葛", "葛") == ["葛"]
    assert found("👩‍👧 👩", "👩") == ["👩"]
    assert found("e\u0301a", "a") == []


def test_letter_case_is_ignored_on_request_and_moves_no_offset() -> None:
    text = "İstanbul, TASKLOOM and TaskLoom"
    assert found(text, "taskloom") == []
    places = [(e.start, e.end, e.text) for e in Gazetteer({"taskloom": "X"}, ignore_case=True).find(text)]
    assert places == [(10, 18, "TASKLOOM"), (23, 31, "TaskLoom")]


@given(st.text("ab 好\u0301.", max_size=20), st.lists(st.text("ab好.", min_size=1, max_size=3), max_size=5))
def test_places_are_the_terms(text: str, terms: list[str]) -> None:
    places = Gazetteer(dict.fromkeys(terms, "X")).find(text)
    assert all(text[e.start : e.end] == e.text and e.text in terms for e in places)
    assert all(one.end <= other.start for one, other in pairwise(places))


def test_the_dictionary_is_right() -> None:
    term = entity(5, 10, "dictionary")
    flat = reconcile([entity(0, 5), entity(3, 6), entity(6, 8), entity(5, 10), entity(10, 12)], [term], nested=False)
    assert [(e.start, e.end, e.source) for e in flat] == [(0, 5, "model"), (5, 10, "dictionary"), (10, 12, "model")]
    nested = reconcile([entity(3, 6), entity(6, 8), entity(5, 10), entity(0, 20)], [term], nested=True)
    assert [(e.start, e.end, e.source) for e in nested] == [(0, 20, "model"), (5, 10, "dictionary"), (6, 8, "model")]


TOO_MANY = {f"t{i}": "X" for i in range(10_001)}


@pytest.mark.parametrize("terms", [{"": "X"}, {" a": "X"}, {"a" * 201: "X"}, {"a": " "}, {"a": 1}, TOO_MANY])
def test_terms_that_make_no_sense_are_refused(terms: Any) -> None:
    with pytest.raises(ValidationError):
        NerParams(dictionary=terms)
