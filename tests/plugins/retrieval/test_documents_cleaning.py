from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.core.knowledge import Document
from taskloom.core.testing.conformance import EDGE_TEXTS
from taskloom.plugins.retrieval.documents.cleaning import clean, clean_document, clean_line

PIECES = [
    *(
        "a",
        "é",
        "e\u0301",
        "好",
        "Ａ",
        "𠮷",
        "👩‍👩‍👧‍👦",
        "\ud800",
        "\u0301",
        "#",
        "|",
        "```",
        "\u202e",
        "\u00ad",
        "\x00",
        "\ufeff",
    ),
    *(" ", "  ", "\t", "\n", "\r\n", "\r", "\u3000", "\u00a0", "\u2028"),
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@settings(max_examples=120, deadline=None)
@given(TEXTS)
def test_cleaning_again_changes_nothing(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once
    assert "\n\n\n" not in once
    once.encode()  # a lone surrogate could not be stored


@pytest.mark.parametrize("name", EDGE_TEXTS)
def test_edge_texts_are_cleaned(name: str) -> None:
    once = clean(EDGE_TEXTS[name])
    assert clean(once) == once
    once.encode()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("ＡＢＣ １２３ ﬁ ²", "ＡＢＣ １２３ ﬁ ²"),  # not NFKC
        ("cafe\u0301", "café"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("one\n\n\n\n\ntwo", "one\n\ntwo"),
        ("one \t \n \n two", "one\n\n two"),
        ("\u3000\u3000第一段\n\u3000\u3000第二段", "  第一段\n  第二段"),
        ("im\u00adpor\u00ad\ntant", "important"),
        ("a\x00b\x07c\x1b[31m", "abc[31m"),
        ("\ufeffhello\u200b", "hello"),
        ("user\u202etxt.exe", "usertxt.exe"),
        ("a\ud800b", "a\ufffdb"),
        ("👩‍👩‍👧‍👦 می‌خواهم", "👩‍👩‍👧‍👦 می‌خواهم"),  # joiners stay
        ("wide      gap", "wide gap"),
        ("if x:\n    y", "if x:\n    y"),
    ],
)
def test_what_is_cleaned_and_what_stays(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_a_title_is_one_line() -> None:
    document = Document(document_id="a", text=" x\r\n", title=" The\nhand\u00adbook ", question="How?\n")
    cleaned = clean_document(document)
    assert (cleaned.text, cleaned.title, cleaned.question) == (" x", "The handbook", "How?")
    assert clean_line("\u3000怎么\n重置？ ") == "怎么 重置？"


@pytest.mark.parametrize("part", [" ", "\n", "\t", "\u00ad", "\u0301", "a ", " \n", "\x00", "\u00ad\n"])
def test_long_runs_take_linear_time(part: str) -> None:
    clean("a" + part * 300_000 + "b")  # quadratic time would run into the test's time limit
