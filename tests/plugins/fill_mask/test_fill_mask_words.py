"""Where words begin."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.plugins.tasks.fill_mask.words import word_starts


def words(text: str) -> list[str]:
    starts = word_starts(text)
    return [text[a:b].strip() for a, b in pairwise([*starts, len(text)])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("北京大学的学生来自中国各地", ["北京大学", "的", "学生", "来自", "中国", "各地"]),
        ("一九七二年第十二届", ["一九七二", "年", "第", "十二", "届"]),
        ("有一些问题需要统一", ["有", "一些", "问题", "需要", "统一"]),
        ("售价8.67亿元,1,024台", ["售价", "8.67", "亿元", ",", "1,024", "台"]),
        ("iPhone 15发布会", ["iPhone", "15", "发布会"]),
        ("R7000路由器", ["R7000", "路由器"]),
        ("Don't panic!", ["Don", "'", "t", "panic", "!"]),
        ("cafe\u0301在巴黎", ["cafe\u0301", "在", "巴黎"]),
        ("東京のカメラ", ["東京", "のカメラ"]),
        ("snake_case", ["snake", "_", "case"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(max_size=200))
def test_nothing_but_blanks_is_outside_of_words(text: str) -> None:
    starts = word_starts(text)
    assert starts == sorted(set(starts))
    assert not text[: starts[0] if starts else len(text)].strip()
    assert all(not text[start].isspace() for start in starts)
