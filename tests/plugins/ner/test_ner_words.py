"""Words: what tags and terms begin and end at, in any script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.plugins.tasks.ner.words import Shape, shape_of, words_of

FAMILY = "👩‍👩‍👧‍👦"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'm in New-York.", ["I", "'", "m", "in", "New", "-", "York", "."]),
        ("我在Berlin工作", ["我", "在", "Berlin", "工", "作"]),
        ("ラーメン屋", list("ラーメン屋")),
        ("Seoul은 서울", ["Seoul은", "서울"]),
        (f"a{FAMILY}b 👍🏽!", ["a", FAMILY, "b", "👍🏽", "!"]),
        ("🇨🇳🇩🇪", ["🇨🇳", "🇩🇪"]),
        ("Zu\u0308rich e\u0301", ["Zu\u0308rich", "e\u0301"]),
        ("葛\U000e0100飾", ["葛\U000e0100", "飾"]),
        ("\u202eabc\u202c \ufeffx", ["abc", "x"]),
        ("co\u00adop", ["co\u00adop"]),
        ("a\x00b\tc", ["a", "b", "c"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
        ("क्षि", ["क्षि"]),
        ("\u0301", ["\u0301"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in words_of(text)] == words


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(f"ab 好\u0301\u200d🇨👍🏽.{FAMILY}"), max_size=30))
def test_words_are_in_order_apart_and_hold_every_visible_character(text: str) -> None:
    words = words_of(text)
    ends = [0, *(end for _, end in words)]
    assert all(before <= start < end for before, (start, end) in zip(ends, words, strict=False))
    inside = {place for start, end in words for place in range(start, end)}
    assert {place for place, character in enumerate(text) if character.isalnum()} <= inside


@given(st.text(st.characters(max_codepoint=127), max_size=30))
def test_the_short_way_for_ascii_is_the_same(text: str) -> None:
    widened = text + " é"
    assert words_of(text) == [word for word in words_of(widened) if word[1] <= len(text)]


@pytest.mark.parametrize(
    ("word", "shape"),
    [
        ("berlin", Shape.LOWER),
        ("Berlin", Shape.CAPITALISED),
        ("A", Shape.ONE_CAPITAL),
        ("NATO", Shape.CAPITALS),
        ("iPhone", Shape.MIXED),
        ("2026", Shape.NUMBER),
        ("G20", Shape.LETTERS_AND_DIGITS),
        ("北", Shape.CASELESS),
        ("@", Shape.AT),
        ("¿", Shape.PUNCTUATION),
        ("👍", Shape.SYMBOL),
    ],
)
def test_shapes(word: str, shape: Shape) -> None:
    assert shape_of(word) == shape


@pytest.mark.parametrize(
    ("marks", "shape"),
    [
        (".!?\u3002\uff01\uff1f\u2026", Shape.STOP),
        (",;:\uff0c\uff1b\uff1a\u3001", Shape.COMMA),
        ("()[]{}\uff08\uff09\u3010\u3011", Shape.BRACKET),
    ],
)
def test_full_width_marks_are_what_their_narrow_forms_are(marks: str, shape: Shape) -> None:
    assert [shape_of(mark) for mark in marks] == [shape] * len(marks)
