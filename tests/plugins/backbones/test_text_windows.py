"""Long texts in windows: every token of the text is in one, its offsets are the text's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.core.errors import InvalidInputError
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.backbones.tokenizer import TextTokenizer

TEXT = st.text(st.sampled_from("where is my card? 银行卡在哪里 e\u0301 👩‍👧 \n\x00"), max_size=60)


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: str) -> TextTokenizer:
    return load_backbone(tiny_bert).tokenizer


@given(texts=st.lists(TEXT, min_size=1, max_size=4), overlap=st.integers(0, 3), longest=st.integers(9, 40))
@settings(deadline=None, max_examples=60)
def test_windows_cover_the_text(tokenizer: TextTokenizer, texts: list[str], overlap: int, longest: int) -> None:
    found = tokenizer.windows(texts, overlap=overlap, max_length=longest)
    assert found.lengths.sum() == len(found.input_ids) == len(found.offsets) == len(found.words)
    assert int(found.lengths.max()) <= longest
    owner = torch.repeat_interleave(found.owner, found.lengths)
    for i, text in enumerate(texts):
        mine = found.offsets[(owner == i) & (found.words >= 0)]
        whole = tokenizer.windows([text], max_length=128)
        expected = {tuple(pair) for pair in whole.offsets[whole.words >= 0].tolist()}
        assert {tuple(pair) for pair in mine.tolist()} == expected
        for start, end in expected:
            assert 0 <= start <= end <= len(text)
    assert set(found.owner.tolist()) == set(range(len(texts)))


def test_a_question_stands_before_every_window(tokenizer: TextTokenizer) -> None:
    context = "my card is lost " * 10
    found = tokenizer.windows([context], ["where is my card?"], overlap=2, max_length=20)
    assert len(found.lengths) > 1
    for ids, words in zip(
        found.input_ids.split(found.lengths.tolist()), found.words.split(found.lengths.tolist()), strict=True
    ):
        assert tokenizer.processor.decode(ids[:7]) == "[CLS] where is my card ? [SEP]"
        assert (words[:7] == -1).all()
        assert (words[7:-1] >= 0).all()


def test_offsets_are_code_points(tokenizer: TextTokenizer) -> None:
    text = "👩‍👧 银行 card"
    found = tokenizer.windows([text])
    kept = {text[start:end] for start, end in found.offsets[found.words >= 0].tolist()}
    assert {"银", "行", "card"} <= kept


def test_a_long_question_leaves_half_of_the_window(tokenizer: TextTokenizer) -> None:
    found = tokenizer.windows(["my card is lost"], ["where " * 100], max_length=21)
    assert int((found.words >= 0).sum()) >= 4
    assert int(found.lengths.max()) <= 21


def test_overlaps_that_stand_still_and_broken_unicode_are_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InvalidInputError, match="overlap"):
        tokenizer.windows(["my card"], overlap=8, max_length=10)
    with pytest.raises(InvalidInputError, match="surrogate"):
        tokenizer.windows(["a\ud800"])
