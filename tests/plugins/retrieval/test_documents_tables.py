from __future__ import annotations

import json
from typing import Any

import pytest

from taskloom.core.knowledge import Document, Refused
from taskloom.plugins.retrieval.documents.tables import documents_of_table


def read(text: str, ending: str = "csv") -> list[Document | Refused]:
    return list(documents_of_table(text, ending, f"t.{ending}"))


def one(text: str, ending: str = "csv") -> Document:
    [document] = read(text, ending)
    assert isinstance(document, Document), document
    return document


def refusal(row: Any) -> str:
    [refused] = read(row if isinstance(row, str) else json.dumps(row), "jsonl")
    assert isinstance(refused, Refused)
    return refused.reason


def test_the_named_columns_and_metadata() -> None:
    document = one("ID,Title,text,language,source,year,Empty\nA-1,T,Body.,zh-CN,http://x,2026,\n")
    assert document == Document(
        document_id="A-1", title="T", text="Body.", language="zh", source="http://x", metadata={"year": "2026"}
    )


def test_of_two_columns_for_the_same_the_one_that_says_something_is_taken() -> None:
    assert one("text,内容\nBody.,\n").text == one("Text,text\n,Body.\n").text == "Body."
    [refused] = read("答案,回答\n七天,八天\n")
    assert isinstance(refused, Refused)
    assert "two columns say what its answer is, '回答' and one before it" in refused.reason


def test_rows_without_an_id_are_numbered() -> None:
    assert [row.document_id for row in read("id,text\n,One.\nx,Two.\n\n,Three.\n")] == ["t.csv#1", "x", "t.csv#3"]


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("question,answer\nHow?,So.\n", "csv"),
        ("question;answer\nHow?;So.\n", "csv"),
        ("question\tanswer\nHow?\tSo.\n", "tsv"),
        ("问题,答案\nHow?,So.\n", "csv"),
        ("question,text\nHow?,So.\n", "csv"),
        ('{"question": "How?", "answer": "So."}', "jsonl"),
    ],
)
def test_faq_pairs(text: str, ending: str) -> None:
    document = one(text, ending)
    assert (document.question, document.text, document.title) == ("How?", "So.", "")


def test_an_answer_and_a_text_are_both_kept() -> None:
    assert one("question,answer,text\nHow?,So.,Because.\n").text == "So.\n\nBecause."


def test_quoted_fields_keep_their_lines_and_may_be_long() -> None:
    document = one('text,note\n"One, two.\n\nThree.",' + "x" * 200_000 + "\n")
    assert document.text == "One, two.\n\nThree."
    assert len(str(document.metadata["note"])) == 200_000


def test_bad_rows_are_refused_one_by_one() -> None:
    found = read("text,year\nOne.,1,2\nTwo.,2\n,3\nFour.,4\n")
    assert [type(row).__name__ for row in found] == ["Refused", "Document", "Refused", "Document"]
    assert [row.document_id for row in found] == ["t.csv#1", "t.csv#2", "t.csv#3", "t.csv#4"]
    assert isinstance(found[0], Refused)
    assert "3 fields where the first line names 2: text, year" in found[0].reason


def test_a_quote_that_is_never_closed_is_told() -> None:
    found = read('text\nOne.\n"Two\nThree.\n')
    assert isinstance(found[0], Document)
    assert isinstance(found[-1], Refused)
    assert "not valid CSV" in found[-1].reason


def test_json_values_become_metadata() -> None:
    row = {
        "text": "x",
        "year": 2026,
        "new": True,
        "price": 1.5,
        "tags": ["a", "b"],
        "maker": {"name": "N", "none": None},
        "no": [],
    }
    document = one(json.dumps(row), "jsonl")
    assert document.metadata == {"year": 2026, "new": True, "price": 1.5, "tags": ("a", "b"), "maker.name": "N"}
    assert document.metadata["new"] is True
    assert one('{"text": "a\\ud800b", "id": 7, "k": [{"z": 1}]}', "jsonl").metadata == {"k": ('{"z": 1}',)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("nonsense", "not JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('{"text": "x", "v": NaN}', "NaN"),
        ('{"text": "x", "v": 1e999}', "v is inf"),
        ("[" * 100_000, "not JSON"),
        ({"title": "T"}, "needs a text, or a question and an answer. It has: title"),
        ({"question": "How?", "answer": " \u200b"}, "needs an answer"),
        ({"text": ["x"]}, "text is list, not text"),
        ({"text": "x", "id": "i" * 513}, "513 characters; 512 are the most"),
        ({"text": "x"} | {f"k{i}": i for i in range(201)}, "more than 200 fields"),
        ({"text": "x", "a": json.loads('{"a":' * 9 + "1" + "}" * 9)}, "nested more than 8 deep"),
    ],
)
def test_a_row_that_is_no_document_says_why(row: Any, reason: str) -> None:
    assert reason in refusal(row)
