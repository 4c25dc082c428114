"""Token files: made once, mapped, checked, and cut into rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskloom.core.errors import DataError
from taskloom.plugins.tasks.fill_mask.corpus import TokenFile, TokenRows, tokenised
from taskloom.plugins.tasks.fill_mask.words import word_starts


@pytest.fixture
def file(processor: Any, texts: list[str], tmp_path: Path) -> TokenFile:
    return TokenFile.build(tmp_path, "print", texts, processor)


def test_documents_lie_end_to_end_with_a_separator_behind_each(file: TokenFile, processor: Any, texts: list[str]) -> None:
    expected: list[int] = []
    for text in texts:
        expected += [*processor(text, add_special_tokens=False, verbose=False)["input_ids"], processor.sep_token_id]
    assert file.ids.tolist() == expected
    assert file.description.tokens == len(expected)
    assert file.description.documents == len(texts)
    assert file.description.unknown == expected.count(processor.unk_token_id)
    assert isinstance(file.ids, np.memmap)
    assert file.ids.dtype == np.uint16


def test_tokens_begin_words_where_the_text_does(processor: Any, texts: list[str]) -> None:
    for text, (ids, starts) in zip(texts, tokenised(texts, processor), strict=True):
        words = word_starts(text)
        offsets = processor(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        assert len(ids) == len(offsets) + 1 == len(starts)
        assert starts[0] == starts[-1] == 1
        word = [sum(start <= first for start in words) for first, _ in offsets]
        tokens = processor.convert_ids_to_tokens(ids.tolist())
        for i in range(1, len(offsets)):
            assert starts[i] == (word[i] != word[i - 1] and not tokens[i].startswith("##"))


def test_it_is_made_once_and_found_again(file: TokenFile, tmp_path: Path) -> None:
    again = TokenFile.open(tmp_path, "print")
    assert again is not None
    assert np.array_equal(again.ids, file.ids)
    assert TokenFile.open(tmp_path, "other") is None
    assert TokenFile.open(tmp_path / "empty", "print") is None


@pytest.mark.parametrize("name", ["tokens.bin", "starts.bin", "corpus.json"])
def test_an_altered_file_is_made_anew(file: TokenFile, tmp_path: Path, name: str) -> None:
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(content)
    assert TokenFile.open(tmp_path, "print") is None


def test_a_row_is_a_stretch_between_special_tokens(file: TokenFile) -> None:
    rows = TokenRows(file, 32)
    assert len(rows) == len(file.ids) // 30
    ids, starts = rows.read([0, 3], 2, 3)
    assert ids[:, 0].tolist() == [2, 2]
    assert ids[:, -1].tolist() == [3, 3]
    assert ids[1, 1:-1].tolist() == file.ids[90:120].tolist()
    assert starts[1, 1:].tolist() == file.starts[90:121].astype(bool).tolist()
    assert starts[:, 0].all()


def test_some_rows_are_drawn_over_the_whole_file(file: TokenFile) -> None:
    rows = TokenRows(file, 32, count=50, seed=1)
    numbers = [row.input.row for row in rows]
    whole = len(file.ids) // 30
    assert len(rows) == len(set(numbers)) == 50
    assert numbers == sorted(numbers)
    assert numbers[0] < whole / 5
    assert numbers[-1] > whole * 4 / 5
    assert [row.input.row for row in TokenRows(file, 32, count=50, seed=1)] == numbers
    assert len(TokenRows(file, 32, count=10**6)) == whole


def test_too_little_text_is_refused(processor: Any, tmp_path: Path) -> None:
    file = TokenFile.build(tmp_path, "short", ["短"], processor)
    with pytest.raises(DataError, match="2 tokens, and a row needs 126"):
        TokenRows(file, 128)
