"""Tokens of both languages, and BM25 over them, in the index and beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.plugins.retrieval.sparse import SparseIndex, SparseSearch, block_of, merged, write_sparse
from taskloom.plugins.retrieval.tokens import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def test_forms_of_a_word_are_one_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.tokens("Connecting") == tokenizer.tokens("connected") == tokenizer.tokens("ＣＯＮＮＥＣＴＳ")


@pytest.mark.parametrize("code", ["r7000", "wifi-6", "10.0.0.1", "c++", "e1002"])
def test_codes_are_kept_whole(tokenizer: Tokenizer, code: str) -> None:
    assert code in tokenizer.tokens(f"型号{code.upper()}，ok")


def test_parts_of_a_code_are_found_too(tokenizer: Tokenizer) -> None:
    assert set(tokenizer.tokens("wifi 6")) <= set(tokenizer.tokens("WiFi-6"))


def test_chinese_is_words_and_bigrams_without_marks(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.tokens("南京市长江大桥，你好。")
    assert {"南京", "长江", "大桥", "长江大桥", "市长"} <= set(tokens)
    assert not {"，", "。", "桥，"} & set(tokens)


def test_both_chinese_scripts_have_the_same_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.tokens("重設路由器的密碼，後台資料庫") == tokenizer.tokens("重设路由器的密码，后台资料库")


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_has_tokens_that_can_be_written(tokenizer: Tokenizer, text: str) -> None:
    for token in tokenizer.tokens(text):
        assert token
        assert not any(letter.isspace() for letter in token)


def written(folder: Path, texts: list[list[str]]) -> SparseIndex:
    folder.mkdir()
    count, length = write_sparse(folder, ((row + 1, tokens) for row, tokens in enumerate(texts)))
    assert count == len(texts)
    return SparseIndex(folder, len(texts), length)


def drawn_texts(count: int = 200) -> list[list[str]]:
    rng = np.random.default_rng(0)
    return [[f"w{int(n)}" for n in rng.zipf(1.5, size=int(rng.integers(5, 30))) % 60] for _ in range(count)]


def found(search: SparseSearch, tokens: list[str], total: int, count: int = 10, allowed: Any = None) -> dict[int, float]:
    some = total if allowed is None else int(allowed.sum())
    slots, scores = search.search(tokens, count, np.arange(1, total + 1), allowed, some)
    order = np.lexsort((slots, -scores))[:count]
    return dict(zip(slots[order].tolist(), scores[order].tolist(), strict=True))


def bm25(texts: list[list[str]], tokens: list[str]) -> Any:
    """Robertson and Zaragoza, written out."""
    average = sum(map(len, texts)) / len(texts)
    scores = np.zeros(len(texts))
    for token in set(tokens):
        having = sum(token in text for text in texts)
        idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for at, text in enumerate(texts):
            times = text.count(token)
            scores[at] += idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(text) / average))
    return scores


@pytest.mark.parametrize("indexed", [0, 120, 200])
def test_scores_are_bm25_wherever_a_passage_is(tmp_path: Path, indexed: int) -> None:
    texts = drawn_texts()
    index = written(tmp_path / "index", texts[:indexed]) if indexed else None
    beside = [block_of(np.arange(at, at + 20), texts[at : at + 20]) for at in range(indexed, 200, 20)]
    search = SparseSearch(index, tuple(beside))
    for tokens in (["w1", "w2"], ["w7"], ["w3", "w3", "w40", "nowhere"]):
        truth = bm25(texts, tokens)
        hits = found(search, tokens, 200)
        assert len(hits) == min(10, np.count_nonzero(truth))
        assert np.allclose(list(hits.values()), np.sort(truth)[::-1][: len(hits)], rtol=0.02)
        assert np.allclose(list(hits.values()), truth[list(hits)], rtol=0.02)


@pytest.mark.parametrize("every", [2, 40])
def test_masks_leave_out_what_is_not_allowed_and_find_the_rest(tmp_path: Path, every: int) -> None:
    texts = drawn_texts()
    search = SparseSearch(written(tmp_path / "index", texts[:150]), (block_of(np.arange(150, 200), texts[150:]),))
    allowed = np.arange(200) % every == 0
    hits = found(search, ["w1", "w2"], 200, allowed=allowed)
    truth = np.where(allowed, bm25(texts, ["w1", "w2"]), 0.0)
    assert set(hits) <= set(np.flatnonzero(allowed).tolist())
    assert len(hits) == min(10, np.count_nonzero(truth))
    assert np.allclose(list(hits.values()), np.sort(truth)[::-1][: len(hits)], rtol=0.02)


@pytest.mark.parametrize("every", [2, 40])
def test_no_more_is_asked_of_the_index_than_there_is(tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It allocates for as many as it is asked for."""
    asked: list[int] = []
    search = SparseIndex.search

    def watched(self: SparseIndex, boosts: Any, limit: int, only: Any) -> Any:
        asked.append(limit)
        assert limit <= (len(self) if only is None else len(only))
        return search(self, boosts, limit, only)

    monkeypatch.setattr(SparseIndex, "search", watched)
    texts = drawn_texts()
    allowed = np.arange(200) % every == 0
    found(SparseSearch(written(tmp_path / "index", texts), ()), ["w1", "w2"], 200, allowed=allowed)
    assert asked


def test_merged_blocks_find_what_they_found_apart() -> None:
    texts = drawn_texts(50)
    parts = block_of(np.arange(20), texts[:20]), block_of(np.arange(20, 50), texts[20:])
    apart = found(SparseSearch(None, parts), ["w1", "w5"], 50)
    assert found(SparseSearch(None, (merged(*parts),)), ["w1", "w5"], 50) == pytest.approx(apart)


def test_nothing_asked_finds_nothing(tmp_path: Path) -> None:
    search = SparseSearch(written(tmp_path / "index", drawn_texts(20)), ())
    assert found(search, [], 20) == {}
    assert found(search, ["nowhere"], 20) == {}
    assert found(SparseSearch(None, ()), ["w1"], 0) == {}
