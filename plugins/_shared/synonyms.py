"""Words exchanged for synonyms, in English and Chinese, from two short lists that were made by hand for it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

LANGUAGES = ("en", "zh")
SHARE = 0.5
"""Of the words that have a synonym; at least one is exchanged."""
LATIN_WORD = re.compile(r"(?<![\w'-])[A-Za-z]+(?:-[a-z]+)?(?![\w'-])")
SENTENCE_STARTS = re.compile(r"(?:^|[.!?]\s+)$")
ARTICLES = re.compile(r"\b(a|an)\s+$", re.IGNORECASE)
VOWELS = "aeiou"
LOOKED_BACK = 6
"""Characters before a word that may say that a sentence starts with it, or be its article."""

Place = tuple[int, int]
"""Where a part of a text starts and ends, in code points."""


@dataclass(frozen=True)
class Lexicon:
    """Words and what each may be exchanged for. `han` finds the Chinese ones in a text, the longest first."""

    words: Mapping[str, Sequence[str]]
    han: re.Pattern[str]


def read_lexicon() -> Lexicon:
    """Both lists. Raises `ValueError` for a line that has not as many words on one side as on the other."""
    words: dict[str, list[str]] = {}
    for language in LANGUAGES:
        text = files(__package__).joinpath(f"synonyms_{language}.txt").read_text(encoding="utf-8")
        for one, other in _pairs(text):
            own = words.setdefault(one, [])
            if other not in own:
                own.append(other)
    han = sorted((word for word in words if not word.isascii()), key=len, reverse=True)
    return Lexicon(words, re.compile("|".join(map(re.escape, han))))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        left, sign, right = re.split(r" ([=>]) ", line, maxsplit=1)
        for one, other in zip(left.split(), right.split(), strict=True):
            yield one, other
            if sign == "=":
                yield other, one


def with_synonyms(
    text: str, chance: random.Random, lexicon: Lexicon, *, fixed: Sequence[Place] = (), same_length: bool = False
) -> str:
    """The text with about half of the words that have synonyms exchanged; the same text if none has. Nothing that touches a
    `fixed` place changes; with `same_length`, every character keeps its place.

    A capital inside a sentence is a name's, and stays. An English word behind "a" or "an" keeps that article right.

    >>> with_synonyms("They will buy a Big Apple.", random.Random(1), read_lexicon())
    'They will purchase a Big Apple.'
    """
    found = []
    for (start, end), options in _exchangeable(text, lexicon):
        fitting = [word for word in options if not same_length or len(word) == end - start]
        if fitting and not any(start < last and first < end for first, last in fixed):
            found.append((start, end, fitting))
    if not found:
        return text
    for start, end, options in reversed([one for one in found if chance.random() < SHARE] or [chance.choice(found)]):
        text = text[:start] + chance.choice(options) + text[end:]
    return text


def _exchangeable(text: str, lexicon: Lexicon) -> list[tuple[Place, list[str]]]:
    """The places of words, from left to right, and what could stand there."""
    found = [(match.span(), list(lexicon.words[match[0]])) for match in lexicon.han.finditer(text)]
    for match in LATIN_WORD.finditer(text):
        word, before = match[0], text[max(0, match.start() - LOOKED_BACK) : match.start()]
        options = lexicon.words.get(word.lower(), ())
        if not options or not (word.islower() or (word.istitle() and SENTENCE_STARTS.search(before))):
            continue
        if ARTICLES.search(before):
            options = [other for other in options if (other[0] in VOWELS) == (word[0].lower() in VOWELS)]
        found.append((match.span(), [other if word.islower() else other[0].upper() + other[1:] for other in options]))
    return sorted(found)
