"""Where a text may be cut that has no sentence's end: at a clause, at a blank, between words, never inside a character."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from taskloom.plugins._shared.sentences import is_wide
from taskloom.plugins._shared.text_cost import estimated_tokens

CLAUSE = re.compile(r"[,;:—–][\"'”’)\]]*\s+|[，；：、][”’」』】》）]*")
BLANKS = re.compile(r"\s+")

ZERO_WIDTH_JOINER = "\u200d"


def tokens_of(text: str, most: int) -> int:
    """The estimated tokens of a text without those that mark its ends; about `most` for all that is longer."""
    return estimated_tokens(text, limit=most + 3) - 2


def pieces_of(text: str, start: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """Cuts `text[start:end]` into stretches of at most `most` estimated tokens each, without blanks around them; together they
    hold every character that is no blank."""
    while True:
        while start < end and text[start].isspace():
            start += 1
        if start >= end:
            return
        limit = _furthest(text, start, end, most) if end - start > most else end
        cut = end if limit >= end else _place(text, start, limit)
        stop = cut
        while text[stop - 1].isspace():
            stop -= 1
        yield start, stop
        start = cut


def _furthest(text: str, start: int, end: int, most: int) -> int:
    """How far a stretch that begins at `start` can go."""
    window = text[start : min(end, start + 4 * most)]
    if tokens_of(window, most) <= most:
        return start + len(window)
    low, high = most, len(window)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tokens_of(window[:middle], most) <= most else (low, middle)
    return start + low


def _place(text: str, start: int, limit: int) -> int:
    """The best place to cut at, from the middle of what is allowed to its end."""
    if text[limit].isspace():
        return limit
    middle = (start + limit) // 2
    for pattern in (CLAUSE, BLANKS):
        places = [match.end() for match in pattern.finditer(text, middle, limit)]
        if places:
            return places[-1]
    for allowed in (between_words, between_characters):
        for place in range(limit, max(middle, start), -1):
            if allowed(text, place):
                return place
    return limit


def between_words(text: str, place: int) -> bool:
    """Whether a cut there parts no word: Chinese and Japanese characters are words of their own here."""
    before, after = text[place - 1], text[place]
    inside = _in_word(before) and _in_word(after) and not (is_wide(before) or is_wide(after))
    return not inside and between_characters(text, place)


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter in "_'’-." or unicodedata.category(letter).startswith("M")


def between_characters(text: str, place: int) -> bool:
    """Whether a cut there leaves whole what is seen as one character: a letter with its combining marks, an emoji with its
    joiners, its skin tone and its variation, a flag of two letters (Unicode Standard Annex 29, without its rules for Hangul
    and Indic conjuncts, which clean text has composed or which are drawn apart without harm)."""
    before, after = text[place - 1], text[place]
    if before == ZERO_WIDTH_JOINER or after in (ZERO_WIDTH_JOINER, "\u200c"):
        return False
    if unicodedata.category(after) in ("Mn", "Me", "Mc") or "\U0001f3fb" <= after <= "\U0001f3ff":
        return False
    if "\U000e0020" <= after <= "\U000e007f":  # tags: the flags of England, Scotland and Wales
        return False
    if _is_regional(before) and _is_regional(after):
        run = 1
        while run < 64 and place - 1 - run >= 0 and _is_regional(text[place - 1 - run]):
            run += 1
        return run % 2 == 0
    return True


def _is_regional(letter: str) -> bool:
    return "\U0001f1e6" <= letter <= "\U0001f1ff"
