"""The caller's own terms: where they are found, and who is right when the model says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from taskloom.plugins.tasks.ner.dictionary import Gazetteer, folded, in_order, reconcile
from taskloom.plugins.tasks.ner.schema import Entity, NerParams
from taskloom.plugins.tasks.ner.words import Kind, kind_of


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


class PlainGazetteer:
    """What `Gazetteer` finds, the long way: every term at every place."""

    def __init__(self, terms: Mapping[str, str], *, ignore_case: bool) -> None:
        self._fold = folded if ignore_case else str
        self._labels = {self._fold(term): label for term, label in terms.items()}

    def find(self, text: str) -> list[tuple[str, int, int]]:
        found, place, compared = [], 0, self._fold(text)
        while place < len(text):
            ends = [
                place + len(term)
                for term in self._labels
                if compared.startswith(term, place) and may_cut(text, place) and may_cut(text, place + len(term))
            ]
            if ends:
                found.append((self._labels[compared[place : max(ends)]], place, max(ends)))
            place = max(ends, default=place + 1)
        return found


def may_cut(text: str, place: int) -> bool:
    if place in {0, len(text)}:
        return True
    after = kind_of(text[place])
    if after == Kind.EXTENDER:
        return False
    last = place - 1
    while last > 0 and kind_of(text[last]) == Kind.EXTENDER:
        last -= 1
    return not (kind_of(text[last]) == after == Kind.LETTER)


@given(
    st.text("aAb 好\u0301\u200dİ.", max_size=30),
    st.dictionaries(st.text("aAb好. ", min_size=1, max_size=4), st.text("XY"), max_size=12),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_terms_are_those_of_a_search_for_each(text: str, terms: dict[str, str], ignore_case: bool) -> None:
    entities = Gazetteer(terms, ignore_case=ignore_case).find(text)
    assert [(e.label, e.start, e.end) for e in entities] == PlainGazetteer(terms, ignore_case=ignore_case).find(text)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8)), max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=6),
    st.booleans(),
)
def test_the_dictionary_wins_as_when_each_is_held_against_each(
    model: list[tuple[int, int]], gaps: list[tuple[int, int]], nested: bool
) -> None:
    entities = [entity(start, start + size) for start, size in model]
    known, at = [], 0
    for gap, size in gaps:
        known.append(entity(at + gap, at + gap + size, "dictionary"))
        at = known[-1].end

    def dropped(one: Entity, term: Entity) -> bool:
        inside = one.start >= term.start and one.end <= term.end
        around = one.start <= term.start and one.end >= term.end
        return one.end > term.start and term.end > one.start and (not nested or inside == around)

    kept = [one for one in entities if not any(dropped(one, term) for term in known)]
    assert reconcile(entities, known, nested=nested) == in_order([*kept, *known])


def test_many_terms_alike_are_no_more_work_than_few() -> None:
    """Looked for length by length, these took a minute."""
    text = "a" * 100_000 + "好" * 20_000
    terms = {**{"a" * size: "X" for size in range(1, 201)}, **{"好" * size + "x": "X" for size in range(1, 200)}}
    assert Gazetteer(terms).find(text) == []


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
