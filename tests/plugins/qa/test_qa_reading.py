"""SQuAD files, JSONL, and what is said of rows that can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.errors import DataError
from taskloom.plugins.tasks.qa.reading import read_examples

CONTEXT = "👍🏽 该公司1999年起总部设在约克。"


def squad(tmp_path: Path, qas: list[Any], context: str = CONTEXT) -> Path:
    path = tmp_path / "data.json"
    articles = [{"title": "t", "domain": "news", "paragraphs": [{"context": context, "qas": qas}]}]
    path.write_text(json.dumps({"version": "v2.0", "data": articles}), encoding="utf-8")
    return path


def jsonl(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_squad_files_with_and_without_answers(tmp_path: Path, sample: Path) -> None:
    start = CONTEXT.index("约克")
    marked = [{"text": "约克", "answer_start": start}] * 2
    path = squad(
        tmp_path,
        [
            {"id": "1", "question": "在哪?", "answers": marked},
            {"id": "2", "question": "谁?", "answers": [], "is_impossible": True, "plausible_answers": marked},
        ],
    )
    one, two = read_examples(path)
    assert [(a.text, a.start, a.end) for a in one.target.answers] == [("约克", start, start + 2)] * 2
    assert (one.target.id, one.target.domain, one.input.context) == ("1", "news", CONTEXT)
    assert two.target.answers == ()
    rows = list(read_examples(sample))
    assert {row.target.domain for row in rows} == {"new_wiki", "reddit", "amazon"}
    assert all(row.input.context[a.start : a.end] == a.text for row in rows for a in row.target.answers)


def test_jsonl_keeps_the_line(tmp_path: Path) -> None:
    good = {"question": "where?", "context": "in York", "answers": [{"text": "York", "answer_start": 3}]}
    rows = list(read_examples(jsonl(tmp_path, good, {**good, "id": "7", "domain": "web", "answers": []})))
    assert [(row.line, row.target.id, row.target.domain, len(row.target.answers)) for row in rows] == [
        (1, "", "", 1),
        (2, "7", "web", 0),
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answers": [{"text": "York", "answer_start": 2}]}, "does not stand at 2"),
        ({"answers": [{"text": "York", "answer_start": -1}]}, "does not stand at -1"),
        ({"answers": [{"text": "York"}]}, "answer_start"),
        ({"answers": ["York"]}, "expected an object"),
        ({"answers": "York"}, "expected a list"),
        ({"question": "  "}, "question: .*blank"),
        ({"context": 5}, "context"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    good = {"id": "q1", "question": "where?", "context": "in York", "answers": [{"text": "York", "answer_start": 3}]}
    with pytest.raises(DataError, match=told) as caught:
        list(read_examples(jsonl(tmp_path, good, {**good, **change})))
    assert caught.value.line == 2
    row = {**good, **change}
    with pytest.raises(DataError, match=f"question q1: .*{told}"):
        list(read_examples(squad(tmp_path, [row], row["context"])))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ('{"rows": []}', "'data' is missing"),
        ('{"data": []}', "no questions"),
        ('{"data": [{"paragraphs": [{"qas": [{"question": "?"}]}]}]}', "'context' is missing"),
        ('{"data": [{"paragraphs": [{"context": "x", "qas": ["?"]}]}]}', "SQuAD's form"),
        ("[1]", "SQuAD's form"),
    ],
)
def test_what_is_not_squad_is_said(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        list(read_examples(path))


def test_other_formats_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("question,context,answers\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"\.jsonl"):
        list(read_examples(tmp_path / "data.csv"))
    with pytest.raises(DataError, match="no data file"):
        list(read_examples(tmp_path / "nothing.json"))
