"""A vocabulary from text, and the tokenizer files that are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taskloom.core.errors import DataError
from taskloom.plugins.tasks.fill_mask.schema import NetworkSettings
from taskloom.plugins.tasks.fill_mask.vocabulary import (
    SPECIAL,
    build_vocabulary,
    count_words,
    merged_pieces,
    symbols,
    write_vocabulary,
)


def test_it_has_special_tokens_characters_and_pieces(tokens: list[str], settings: NetworkSettings) -> None:
    assert tuple(tokens[:5]) == SPECIAL
    assert len(tokens) == len(set(tokens)) <= settings.vocabulary
    assert {"的", "。", "，", "a", "##a", "7", "##7", "@"} <= set(tokens)
    pieces = [token for token in tokens[5:] if len(token.removeprefix("##")) > 1]
    assert pieces
    assert all(token.removeprefix("##").isascii() or token.removeprefix("##").isalpha() for token in pieces)
    assert not any("\u4e00" <= character <= "\u9fff" for token in pieces for character in token)


def test_the_same_texts_give_the_same_tokens_in_any_order(
    texts: list[str], tokens: list[str], settings: NetworkSettings
) -> None:
    assert build_vocabulary(reversed(texts), settings) == tokens


def test_frequent_words_become_one_piece() -> None:
    found = build_vocabulary(["the network the network of networks"] * 3, NetworkSettings(vocabulary=200))
    assert {"the", "network"} <= set(found)


def test_pieces_are_merged_by_frequency() -> None:
    words = {"low": (symbols("low"), 5), "lower": (symbols("lower"), 2), "newest": (symbols("newest"), 6)}
    assert merged_pieces(words, set(), 3) == ["##we", "lo", "##ewe"]  # 8, 7 and 6 times; ties by name


def test_characters_that_are_everywhere_come_before_rare_ones() -> None:
    found = build_vocabulary(["好" * 10 + "坏" * 2 + "罕"], NetworkSettings(vocabulary=64, characters=0.9))
    assert "好" not in found  # Latin letters and digits alone fill this vocabulary
    found = build_vocabulary(["好" * 10 + "坏" * 2 + "罕"], NetworkSettings(vocabulary=130, characters=0.9))
    assert found.index("好") < found.index("坏")


def test_words_are_counted_as_the_tokenizer_splits_them() -> None:
    assert count_words(["Hello, 世界 hello"], lowercase=True) == {"hello": 2, ",": 1, "世": 1, "界": 1}
    assert count_words(["Hello hello"], lowercase=False) == {"Hello": 1, "hello": 1}


def test_texts_without_a_word_are_refused(settings: NetworkSettings) -> None:
    with pytest.raises(DataError, match="no word"):
        build_vocabulary(["  ", "\n"], settings)


def test_the_files_load_as_any_bert_tokenizer(processor: Any, tokens: list[str], tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertTokenizerFast

    processor.save_pretrained(tmp_path)
    write_vocabulary(processor, tmp_path)
    text = "北京大学在1898年成立。New York, 8.67亿 [MASK]"
    expected = processor(text)["input_ids"]
    for kind in (AutoTokenizer, BertTokenizerFast):
        loaded = kind.from_pretrained(tmp_path)
        assert loaded(text)["input_ids"] == expected
        assert loaded.mask_token_id == 4
        assert loaded.model_max_length == 128
    assert (tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines() == tokens


def test_each_token_is_what_the_text_has_there(processor: Any, texts: list[str]) -> None:
    fold = processor.backend_tokenizer.normalizer.normalize_str
    for text in texts:
        found = processor(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        tokens = processor.convert_ids_to_tokens(found["input_ids"])
        for token, (start, end) in zip(tokens, found["offset_mapping"], strict=True):
            assert token in ("[UNK]", fold(text[start:end]).strip(), f"##{fold(text[start:end]).strip()}")
