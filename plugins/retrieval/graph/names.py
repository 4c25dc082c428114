"""Names in one form, and those that stand in a question."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping

from taskloom.plugins._shared.sentences import WIDE_LETTER

PIECE = re.compile(rf"[{WIDE_LETTER}]|[^\W_{WIDE_LETTER}]+")
"""What names are made of: runs of letters and digits, and single characters of scripts without blanks."""
ENDS = re.compile(r"^[\W_]+|[\W_]+$")
POSSESSIVE = re.compile(r"['’]s$")
ARTICLE = re.compile(r"^the\s+")
MOST_PIECES = 12
"""Of one name in a question."""
READ_PIECES = 512
"""Of a question; its end is what was asked last."""
SHORT = 3
"""A word of so many small letters is rather "us" than the "US" that the graph knows."""


def normalised(name: str) -> str:
    """A name without what makes no difference: width, case, blanks, marks at its ends, the article and a genitive's ending.
    Empty where nothing is left.

    >>> normalised("The  Vatican's"), normalised("ＩＢＭ Corp."), normalised("--")
    ('vatican', 'ibm corp', '')
    """
    text = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    text = POSSESSIVE.sub("", ENDS.sub("", text))
    return ENDS.sub("", ARTICLE.sub("", text))


class Spoken:
    """The stretches of a text that could be names, in the form that the graph has names in."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pieces = [(piece.start(), piece.end()) for piece in PIECE.finditer(text)][-READ_PIECES:]
        self._forms = dict(self._stretches())

    def _stretches(self) -> Iterator[tuple[tuple[int, int], str]]:
        for first, (start, _) in enumerate(self._pieces):
            for last in range(first, min(first + MOST_PIECES, len(self._pieces))):
                stretch = self._text[start : self._pieces[last][1]]
                if (last > first or not _is_small(stretch)) and (form := normalised(stretch)):
                    yield (first, last), form

    @property
    def forms(self) -> set[str]:
        return set(self._forms.values())

    def known(self, names: Collection[str]) -> list[str]:
        """Those of some names that stand in the text, in its order: the longest at each place, none within another."""
        found: dict[str, None] = {}
        at = 0
        while at < len(self._pieces):
            ends = range(min(at + MOST_PIECES, len(self._pieces)) - 1, at - 1, -1)
            longest = next((last for last in ends if self._forms.get((at, last)) in names), None)
            if longest is None:
                at += 1
                continue
            found[self._forms[at, longest]] = None
            at = longest + 1
        return list(found)


def _is_small(word: str) -> bool:
    return len(word) <= SHORT and word.isascii() and word.islower()


def names_asked(text: str, entities: Collection[str], known: Mapping[str, object]) -> list[str]:
    """The names of a question that a graph knows: those that a model found in it, and those that simply stand there."""
    given = [form for form in map(normalised, entities) if form in known]
    return list(dict.fromkeys([*given, *Spoken(text).known(known)]))
