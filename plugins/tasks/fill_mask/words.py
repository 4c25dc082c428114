"""Where the words of a text begin, in Chinese and English and what is mixed of them.

Chinese is written without blanks: jieba's dictionary and its hidden Markov model for words that are not in it say which
characters belong together. Numerals, Latin words, numbers and marks are words by themselves.
"""

from __future__ import annotations

import re

import rjieba

HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
"""The characters that BERT's tokenizer makes tokens of one by one, and the round zero."""
NUMERALS = "〇零一二三四五六七八九十百千万亿萬億两兩"
PIECE = re.compile(
    f"(?P<han>[{HAN}]+)"
    r"|\d+(?:[.,]\d+)*(?=\W|_|$|[" + HAN + "])"  # 8.67 and 1,024; what has letters behind it is the next kind
    f"|[^\\W_{HAN}](?:[^\\W_{HAN}]|[\u0300-\u036f])*"
    r"|[^\s]"
)
ONE_HAN = re.compile(f"[{HAN}]")
NUMERAL = re.compile(f"[{NUMERALS}]{{2,}}")


def is_han(character: str) -> bool:
    return ONE_HAN.match(character) is not None


def word_starts(text: str) -> list[int]:
    """The code points at which words start, in order; blanks belong to the word before.

    >>> text = "第十二届iPhone大会,8.67亿"
    >>> starts = word_starts(text)
    >>> [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)])]
    ['第', '十二', '届', 'iPhone', '大会', ',', '8.67', '亿']
    """
    found: list[int] = []
    for piece in PIECE.finditer(text):
        if piece["han"] is None:
            found.append(piece.start())
        else:
            _han(piece["han"], piece.start(), found)
    return found


def _han(run: str, at: int, found: list[int]) -> None:
    """A single numeral may be part of a word (一些, 统一); two together are a number."""
    end = 0
    for number in NUMERAL.finditer(run):
        _cut(run[end : number.start()], at + end, found)
        found.append(at + number.start())
        end = number.end()
    _cut(run[end:], at + end, found)


def _cut(run: str, at: int, found: list[int]) -> None:
    if len(run) == 1:
        found.append(at)
    elif run:
        for word in rjieba.cut(run, True):
            found.append(at)
            at += len(word)
