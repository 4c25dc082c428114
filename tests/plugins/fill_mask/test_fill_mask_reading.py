"""Documents as rows: read one by one, without the file in memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from taskloom.core.errors import DataError
from taskloom.plugins._shared.datasets import ChosenRows, JoinedRows, joined_rows
from taskloom.plugins.commands.training import read_files
from taskloom.plugins.tasks.fill_mask.plugin import FillMaskTask
from taskloom.plugins.tasks.fill_mask.reading import DocumentRows, hide_words, passage_of
from taskloom.plugins.tasks.fill_mask.schema import MASK


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_documents_are_blocks_between_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf\n" + "标题\n第一段。\n\n \t\n第二篇\r\n正文。\r\n\r\n\n尾".encode())
    rows = DocumentRows(path)
    assert [row.target.text for row in rows] == ["标题\n第一段。", "第二篇\r\n正文。", "尾"]
    assert [rows[i] for i in range(len(rows))] == list(rows) == rows[0:3]
    assert [row.line for row in rows] == [2, 6, 10]
    assert rows[-1] == rows[2]
    with pytest.raises(IndexError):
        rows[3]


def test_a_line_of_json_is_a_document(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=i > 0) for i, text in enumerate(["第一篇\n\n还是第一篇", "第二篇"])]
    rows = DocumentRows(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert [row.target.text for row in rows] == ["第一篇\n\n还是第一篇", "第二篇"]
    assert rows[1].line == 2


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"good\n\nbad \xff\n", "line 3: not UTF-8"),
        ("a.txt", b"one\ntwo \xff\n", "line 2: not UTF-8"),
        ("a.txt", b" \n\n", "no rows"),
        ("a.txt", b"x\n\n[MASK]\n", "line 3: the document holds no text"),
        ("a.txt", b"x\n\n[MA[MASK]SK]\n", "line 3: the document holds no text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 1}\n', "line 2: expected"),
        ("a.jsonl", b'{"text": "x", "title": "y"}\n', "line 1: expected"),
        ("a.jsonl", b"{text}\n", "line 1: not JSON"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "surrogate"),
        ("a.csv", b"text\nx\n", "ends in .txt or .jsonl"),
    ],
)
def test_bad_files_say_where(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        DocumentRows(write(tmp_path / name, content))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file"):
        DocumentRows(tmp_path / "absent.txt")


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "一\n\n二\n")
    rows = DocumentRows(path)
    write(path, "一\n")
    with pytest.raises(DataError, match="was changed"):
        list(rows)


def test_files_are_not_held_in_memory(tmp_path: Path, texts: list[str]) -> None:
    block = "\n\n".join(texts) + "\n\n"
    path = write(tmp_path / "large.txt", block * 150)
    size = path.stat().st_size
    tracemalloc.start()
    rows, counts = read_files(FillMaskTask(), [path, path])
    assert len(rows) == sum(counts) == 2 * 150 * len(texts)
    assert rows[len(texts) * 150].target.text == texts[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 6_000_000
    assert peak < size / 4


def test_lists_stay_lists_and_others_are_not_copied() -> None:
    assert joined_rows([[1], [2, 3]]) == [1, 2, 3]
    assert joined_rows([]) == []
    lazy = joined_rows([range(3), [7], range(0), range(10, 12)])
    assert isinstance(lazy, JoinedRows)
    assert list(lazy) == [lazy[i] for i in range(len(lazy))] == [0, 1, 2, 7, 10, 11]
    assert lazy[-1] == 11
    assert lazy[2:5] == [2, 7, 10]
    with pytest.raises(IndexError):
        lazy[6]


def test_some_rows_are_a_view() -> None:
    some = ChosenRows(range(10, 20), [1, 5, 7])
    assert list(some) == [11, 15, 17]
    assert (len(some), some[-1], some[1:]) == (3, 17, [15, 17])
    with pytest.raises(IndexError):
        some[3]


def test_the_same_words_of_a_passage_are_hidden_each_time(sample: Path) -> None:
    for row in DocumentRows(sample):
        passage = passage_of(row.target.text)
        assert passage in row.target.text
        assert 0 < len(passage) <= 120
        shown, hidden = hide_words(passage)
        assert (shown, hidden) == (row.input.text, row.target.hidden)
        assert len(hidden) == shown.count(MASK) >= 1
        for word in hidden:
            shown = shown.replace(MASK, word, 1)
        assert shown == passage


def test_about_15_per_cent_of_words_are_hidden(sample: Path) -> None:
    rows = DocumentRows(sample)
    hidden = sum(len("".join(row.target.hidden)) for row in rows)
    assert 0.11 < hidden / sum(len(passage_of(row.target.text)) for row in rows) < 0.19
