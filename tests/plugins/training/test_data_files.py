"""Reading data files, holding rows out, reading classification rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.core.errors import DataError
from taskloom.plugins._shared.datasets import describe_data, read_rows, stratified_split
from taskloom.plugins.tasks.classification.train import read_examples


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_table_with_byte_order_mark_quotes_and_blank_lines_is_read_with_its_lines(tmp_path: Path) -> None:
    content = '\ufefftext,label\r\n"one, two",a\r\n\r\n"over\r\ntwo lines",b\r\n我的卡,丢失\r\n'
    rows = list(read_rows(write(tmp_path / "d.csv", content), columns=("text", "label"), required=("text",)))
    assert [(row.values["text"], row.values["label"], row.line) for row in rows] == [
        ("one, two", "a", 2),
        ("over\r\ntwo lines", "b", 4),
        ("我的卡", "丢失", 6),
    ]


def test_json_lines_and_tab_separated_rows_give_the_same_examples(tmp_path: Path) -> None:
    lines = write(
        tmp_path / "d.jsonl",
        '{"text": "x", "text_pair": "y", "labels": ["a", "b"]}\n\n{"text": "z", "text_pair": "w", "labels": []}\n',
    )
    table = write(tmp_path / "d.tsv", "text\ttext_pair\tlabels\nx\ty\ta|b\nz\tw\t\n")
    assert [(e.input, e.target) for e in read_examples(lines)] == [(e.input, e.target) for e in read_examples(table)]
    assert [e.target for e in read_examples(table)] == [("a", "b"), ()]


def test_quotes_in_a_tab_separated_file_take_no_other_row_in(tmp_path: Path) -> None:
    rows = ['"好吃"，推荐\t好评', '"open\t差评', 'end"\t好评', '"a ""quoted"" field"\t差评', '"\t 好评　']
    found = list(read_examples(write(tmp_path / "d.tsv", "\n".join(["text\tlabel", *rows]))))
    assert [(e.input.text, e.target, e.line) for e in found] == [
        ('"好吃"，推荐', "好评", 2),
        ('"open', "差评", 3),
        ('end"', "好评", 4),
        ('a "quoted" field', "差评", 5),
        ('"', "好评", 6),
    ]


BAD = [
    ("d.jsonl", '{"text": "x", "label": "a"}\n{"text": "x"\n', 2, "not JSON"),
    ("d.jsonl", '{"text": "x", "label": "a"}\n[1]\n', 2, "expected a JSON object"),
    ("d.jsonl", '{"text": "x", "label": 3}\n', 1, "non-empty string"),
    ("d.jsonl", '{"text": "x"}\n', 1, "no label"),
    ("d.jsonl", '{"text": "  ", "label": "a"}\n', 1, "text"),
    ("d.jsonl", '{"text": "x", "label": "a"}\n{"text": "x", "labels": ["a"]}\n', 2, "throughout"),
    ("d.jsonl", '{"text": "x", "label": "a", "labels": ["a"]}\n', 1, "both"),
    ("d.jsonl", '{"text": "x", "label": "a", "intent": 1}\n', 1, "unknown field 'intent'"),
    ("d.jsonl", b'{"text": "x", "label": "a"}\n{"text": "\xff"}\n', 2, "not UTF-8"),
    ("d.csv", "text,category\nx,a\n", 1, "unknown column 'category'"),
    ("d.csv", "label\na\n", 1, "'text' is missing"),
    ("d.csv", "text,label\nx,a\n\nx,a,b\n", 4, "3 fields"),
    ("d.csv", 'text,label\nx,a\n"open,a\n', 3, "a quote at the beginning of a field is not closed"),
    ("d.csv", "text,label\nx,a\ny,\n", 3, "`label` is missing or empty"),
    ("d.jsonl", '{"text": "x", "labels": ["a", " "]}\n', 1, "non-empty strings"),
]


@pytest.mark.parametrize(("name", "content", "line", "told"), BAD)
def test_a_bad_row_is_reported_with_path_and_line(tmp_path: Path, name: str, content: str, line: int, told: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=f"line {line}: ") as caught:
        list(read_examples(path))
    assert told in str(caught.value)
    assert (caught.value.path, caught.value.line) == (str(path), line)


def test_files_without_rows_or_of_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        list(read_examples(write(tmp_path / "d.csv", "text,label\n")))
    with pytest.raises(DataError, match=r"\.jsonl, \.csv or \.tsv"):
        list(read_examples(write(tmp_path / "d.txt", "x")))
    with pytest.raises(DataError, match="no data file"):
        list(read_examples(tmp_path / "absent.csv"))


@given(st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=200), st.floats(0, 0.9), st.integers(0, 5))
def test_a_stratified_split_keeps_every_item_and_every_class(labels: list[str], fraction: float, seed: int) -> None:
    items = list(enumerate(labels))
    kept, held = stratified_split(items, lambda item: item[1], fraction, seed)
    assert sorted(kept + held) == items
    assert {label for _, label in kept} == set(labels)
    size, taken = Counter(labels), Counter(label for _, label in held)
    assert all(abs(taken[label] - count * fraction) <= 1 for label, count in size.items())
    assert (kept, held) == stratified_split(items, lambda item: item[1], fraction, seed)


def test_another_seed_holds_other_rows_out() -> None:
    items = [f"{i}" for i in range(100)]
    assert stratified_split(items, lambda _: "", 0.1, 1)[1] != stratified_split(items, lambda _: "", 0.1, 2)[1]


def test_a_data_file_is_known_by_its_content(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", json.dumps({"text": "x", "label": "a"}))
    second = write(tmp_path / "b.jsonl", first.read_bytes())
    assert describe_data(first, 1).sha256 == describe_data(second, 1).sha256
    second.write_text("other")
    assert describe_data(first, 1).sha256 != describe_data(second, 1).sha256
