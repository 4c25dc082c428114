"""Data files: every form gives the same examples, and a bad row is named by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.errors import DataError
from taskloom.plugins.tasks.ner.reading import read_examples

SAMPLE = Path(__file__).parents[2] / "data" / "wikigold-sample.jsonl"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows))
    return path


def test_entities_tags_and_columns_give_the_same_examples(tmp_path: Path) -> None:
    text = "Ada met Alan Turing in 北京 ."
    target = ((0, 3, "PER"), (8, 19, "PER"), (23, 25, "LOC"))
    entities = [{"start": start, "end": end, "label": label} for start, end, label in target]
    tokens = ["Ada", "met", "Alan", "Turing", "in", "北", "京", "."]
    tags = ["B-PER", "O", "B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]
    files = [
        write(tmp_path / "a.jsonl", {"text": text, "entities": entities, "id": 7}),
        write(tmp_path / "b.jsonl", {"tokens": tokens, "tags": tags}),
        write(tmp_path / "c.conll", "-DOCSTART- O", "", *(f"{t} NNP {g}" for t, g in zip(tokens, tags, strict=True)), ""),
        write(tmp_path / "d.iob", *(f"{t}\t{g.replace('B-', 'I-')}" for t, g in zip(tokens, tags, strict=True))),
    ]
    found = [list(read_examples(path)) for path in files]
    assert all(len(rows) == 1 for rows in found)
    assert {rows[0].input.text for rows in found} == {text}
    assert {rows[0].target for rows in found} == {target}


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (list("1986年1月，在ABC公司；"), "1986年1月，在ABC公司；"),
        (["我", "用", "iPhone", "15", "，", "很", "好", "。"], "我用 iPhone 15 ，很好。"),
        (["I", "a", "m"], "I a m"),
    ],
)
def test_tokens_become_the_text_that_they_were_cut_from(tmp_path: Path, tokens: list[str], text: str) -> None:
    tags = ["B-X", *["O"] * (len(tokens) - 2), "B-X"]
    (row,) = read_examples(write(tmp_path / "a.jsonl", {"tokens": tokens, "tags": tags}))
    assert row.input.text == text
    assert row.target == ((0, len(tokens[0]), "X"), (len(text) - len(tokens[-1]), len(text), "X"))


def test_tokens_are_found_in_the_text_that_a_row_has(tmp_path: Path) -> None:
    rows = [
        {"tokens": list("AB银行"), "tags": ["B-ORG", "I-ORG", "I-ORG", "I-ORG"], "text": "AB银行"},
        {"tokens": ["in", "Berlin", "!"], "tags": ["O", "B-LOC", "O"], "text": " in  Berlin! "},
    ]
    found = list(read_examples(write(tmp_path / "a.jsonl", *rows)))
    assert [(row.input.text, row.target) for row in found] == [
        ("AB银行", ((0, 4, "ORG"),)),
        (" in  Berlin! ", ((5, 11, "LOC"),)),
    ]


def test_nested_entities_and_rows_without_any_are_kept(tmp_path: Path) -> None:
    inner = {"start": 14, "end": 20, "label": "LOC", "text": "Berlin"}
    outer = {"start": 0, "end": 20, "label": "ORG"}
    path = write(
        tmp_path / "n.jsonl", {"text": "University of Berlin", "entities": [inner, outer]}, "", {"text": "x", "entities": []}
    )
    assert [(example.target, example.line) for example in read_examples(path)] == [
        (((0, 20, "ORG"), (14, 20, "LOC")), 1),
        ((), 3),
    ]


def test_a_hash_is_a_token_where_it_has_a_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "t.conll", "# a comment about the file", "#\tO", "Gateshead\tB-LOC", "", "ok\tO")
    assert [example.input.text for example in read_examples(path)] == ["# Gateshead", "ok"]


GOOD = {"text": "in Berlin", "entities": [{"start": 3, "end": 9, "label": "LOC"}]}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "in Berlin", "entities": [{"start": 3, "end": 10, "label": "LOC"}]}, "outside the text, which has 9"),
        ({"text": "in Berlin", "entities": [{"start": 3, "end": 3, "label": "LOC"}]}, "has no characters"),
        ({"text": "in Berlin", "entities": [{"start": 3, "end": 9}]}, "needs `start` and `end`"),
        ({"text": "in Berlin", "entities": [{"start": True, "end": 9, "label": "LOC"}]}, "needs `start`"),
        (
            {"text": "in Berlin", "entities": [{"start": 2, "end": 8, "label": "LOC", "text": "Berlin"}]},
            "said to be",
        ),
        ({"text": "in Berlin", "entities": {}}, "expected a list"),
        ({"text": "in Berlin", "entities": ["Berlin"]}, "expected an object"),
        ({"text": " ", "entities": []}, "`text`.*blank"),
        ({"text": 5, "entities": []}, "`text`"),
        ({"text": "in Berlin"}, "no `entities`"),
        ({"tokens": ["in", "Berlin"], "tags": ["O"]}, "2 tokens but 1 tags"),
        ({"tokens": ["in", "Berlin"], "tags": ["O", "LOC"]}, "'LOC' is no tag"),
        ({"tokens": [], "tags": []}, "`tokens`"),
        ({"tokens": ["in"]}, "`tags`"),
        ({"tokens": ["in", "Berlin"], "tags": ["O", "O"], "text": "in East Berlin"}, "not its tokens with nothing but blanks"),
        ({"text": "x", "entites": []}, "unknown field 'entites'"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: Any, told: str) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, row)
    with pytest.raises(DataError, match=rf"line 2: .*{told}") as caught:
        list(read_examples(path))
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [("in O\nBerlin\n", "line 2: expected a token and its tag"), ("in O\nBerlin LOC\n", "line 2: "), ("\n\n", "no rows")],
)
def test_bad_columns_are_named_by_their_line(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "rows.conll"
    path.write_text(content)
    with pytest.raises(DataError, match=told):
        list(read_examples(path))


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown format.*\.conll"):
        list(read_examples(write(tmp_path / "rows.xml", "<x/>")))
    with pytest.raises(DataError, match="no data file"):
        list(read_examples(tmp_path / "absent.conll"))
    (tmp_path / "latin.conll").write_bytes(b"caf\xe9 O\n")
    with pytest.raises(DataError, match="line 1: byte 4 is not UTF-8"):
        list(read_examples(tmp_path / "latin.conll"))


def test_the_sample_of_open_data_is_read() -> None:
    rows = list(read_examples(SAMPLE))
    assert len(rows) == 40
    assert {label for row in rows for _, _, label in row.target} == {"PER", "LOC", "ORG", "MISC"}
