"""What a word is: the unit that tags, spans and dictionary terms begin and end at, whatever the tokenizer.

A run of letters, digits and the marks on them is a word; so is each punctuation mark and symbol (an emoji with its joiners,
skin tones and variation selectors is one), and each letter of a script that is written without blanks. Tokenizers cut finer
or coarser; a word is judged by the first of the tokens that it shares characters with.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from enum import IntEnum

from taskloom.plugins._shared.emoji import ZERO_WIDTH_JOINER, half_a_flag, modifies_emoji

ASCII_WORD = re.compile(r"[A-Za-z0-9]+|[!-~]")
UNSPACED_FROM, UNSPACED_TO = zip(
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark, zero
    (0x3040, 0x30FF),  # kana
    (0x3100, 0x312F),  # bopomofo
    (0x31F0, 0x31FF),  # kana extensions
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width kana
    (0x1B000, 0x1B16F),  # kana supplement
    (0x20000, 0x3FFFF),  # ideographs beyond the basic plane
    strict=True,
)
JOINERS = frozenset("\u00ad\u200c\u200d\u2060")
"""Format characters inside words: soft hyphen, zero-width non-joiner, joiner, word joiner."""


class Kind(IntEnum):
    """What a character does to the word before it."""

    GAP = 0
    """Blanks, controls and format characters: in no word."""
    LETTER = 1
    """Goes on with a word of letters."""
    SINGLE = 2
    """A word of its own."""
    EXTENDER = 3
    """Belongs to the character before it."""
    FLAG = 4
    """A regional indicator: two of them are one flag."""


def unspaced(character: str) -> bool:
    """Whether it is a letter of a script that is written without blanks between words.

    >>> unspaced("好"), unspaced("h")
    (True, False)
    """
    place = bisect_right(UNSPACED_FROM, ord(character)) - 1
    return place >= 0 and ord(character) <= UNSPACED_TO[place]


def kind_of(character: str) -> Kind:
    category = unicodedata.category(character)
    if category[0] == "M" or character in JOINERS or modifies_emoji(character):
        return Kind.EXTENDER
    if category[0] in "LN":
        return Kind.SINGLE if unspaced(character) else Kind.LETTER
    if category[0] in "ZC":
        return Kind.SINGLE if category == "Co" else Kind.GAP
    return Kind.FLAG if half_a_flag(character) else Kind.SINGLE


def words_of(text: str) -> list[tuple[int, int]]:
    """Where the words are, as code points `(start, end)`, in order; they never overlap.

    >>> words_of("I'm in 北京")
    [(0, 1), (1, 2), (2, 3), (4, 6), (7, 8), (8, 9)]
    """
    if text.isascii():
        return [match.span() for match in ASCII_WORD.finditer(text)]
    found: list[tuple[int, int]] = []
    before = Kind.GAP
    for place, character in enumerate(text):
        kind = kind_of(character)
        if kind == Kind.EXTENDER:
            if found and found[-1][1] == place:
                found[-1] = (found[-1][0], place + 1)
            elif unicodedata.category(character)[0] == "M":
                found.append((place, place + 1))
                before = Kind.SINGLE
            continue
        joined = bool(found) and found[-1][1] == place
        goes_on = kind == before and kind in {Kind.LETTER, Kind.FLAG}
        glued = (
            text[place - 1] == ZERO_WIDTH_JOINER and kind == Kind.SINGLE and before == Kind.SINGLE and not unspaced(character)
        )
        if kind != Kind.GAP:
            if joined and (goes_on or glued):
                found[-1] = (found[-1][0], place + 1)
                kind = Kind.SINGLE if kind == Kind.FLAG else kind  # the flag is whole
            else:
                found.append((place, place + 1))
        before = kind
    return found


class Shape(IntEnum):
    """How a word is written. `NONE` is no word: beyond the ends of the text."""

    NONE = 0
    LOWER = 1
    CAPITALISED = 2
    ONE_CAPITAL = 3
    CAPITALS = 4
    MIXED = 5
    NUMBER = 6
    LETTERS_AND_DIGITS = 7
    CASELESS = 8
    STOP = 9
    COMMA = 10
    AT = 11
    HASH = 12
    QUOTE = 13
    HYPHEN = 14
    BRACKET = 15
    PUNCTUATION = 16
    SYMBOL = 17


MARKS = {
    **dict.fromkeys(".!?\u3002\uff01\uff1f\u2026", Shape.STOP),
    **dict.fromkeys(",;:\uff0c\uff1b\uff1a\u3001", Shape.COMMA),
    "@": Shape.AT,
    "#": Shape.HASH,
    **dict.fromkeys("\"'`“”‘’«»「」", Shape.QUOTE),
    **dict.fromkeys("-–—_/", Shape.HYPHEN),
    **dict.fromkeys("()[]{}\uff08\uff09【】《》", Shape.BRACKET),
}


def shape_of(word: str) -> Shape:
    """
    >>> [shape_of(word).name for word in ("iPhone", "Berlin", "A", "NATO", "北")]
    ['MIXED', 'CAPITALISED', 'ONE_CAPITAL', 'CAPITALS', 'CASELESS']
    """
    first = word[0]
    if not first.isalnum():
        return MARKS.get(first, Shape.PUNCTUATION if unicodedata.category(first)[0] == "P" else Shape.SYMBOL)
    letters = [character for character in word if character.isalpha()]
    if not letters:
        return Shape.NUMBER
    if len(letters) < len(word) and any(character.isdigit() for character in word):
        return Shape.LETTERS_AND_DIGITS
    upper = sum(character.isupper() for character in letters)
    if upper == 0:
        return Shape.LOWER if any(character.islower() for character in letters) else Shape.CASELESS
    if upper == len(letters):
        return Shape.ONE_CAPITAL if len(letters) == 1 else Shape.CAPITALS
    return Shape.CAPITALISED if upper == 1 and letters[0].isupper() else Shape.MIXED
