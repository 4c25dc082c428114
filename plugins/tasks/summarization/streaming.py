"""Tokens to text while they come: only whole words leave, so that what was sent never has to be taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from taskloom.plugins._shared.sentences import is_wide

UNFINISHED = "\ufffd"
"""What tokenizers put for bytes that are no whole character yet."""


class WordPieces:
    """The text of growing token ids. `text_of` decodes ids; `longest` is the most characters that may be given, and what is
    over is left out from a word on. For one answer: it remembers what it has given."""

    def __init__(self, text_of: Callable[[Sequence[int]], str], longest: int | None = None) -> None:
        self._text_of = text_of
        self._longest = longest
        self._sent = ""
        self.full = False
        """Nothing that is written from now on would be given."""

    def more(self, tokens: Sequence[int]) -> str:
        """What can be given now, beyond what was given: words that no further token can change. Perhaps nothing."""
        text = self._text_of(tokens).lstrip()
        sure = text[: finished(text)]
        if self._longest is not None and len(sure) > self._longest:
            self.full = True
            sure = cut_at_word(sure, self._longest)
        return self._give(sure)

    def rest(self, tokens: Sequence[int]) -> str:
        """What is left when all tokens are there."""
        return self._give(self.whole(tokens))

    def whole(self, tokens: Sequence[int]) -> str:
        """The text as one."""
        text = self._text_of(tokens).strip()
        return text if self._longest is None else cut_at_word(text, self._longest)

    def _give(self, text: str) -> str:
        if len(text) <= len(self._sent) or not text.startswith(self._sent):
            return ""
        given, self._sent = text[len(self._sent) :], text
        return given


def cut_at_word(text: str, longest: int) -> str:
    """The text's beginning in at most `longest` characters, to the end of a word; a part of the first word if even that is
    too long."""
    if len(text) <= longest:
        return text
    end = longest if _parts(text[longest - 1], text[longest]) else _last_end(text[:longest])
    return text[:end].rstrip() or text[:longest]


def finished(text: str) -> int:
    """How many characters of a text that still grows are certain: all before its last word. A word ends before a blank and
    beside a character that is written without blanks."""
    unfinished = text.find(UNFINISHED)
    return _last_end(text if unfinished < 0 else text[:unfinished])


def _last_end(text: str) -> int:
    return next((len(text[:i].rstrip()) for i in range(len(text) - 1, 0, -1) if _parts(text[i - 1], text[i])), 0)


def _parts(before: str, after: str) -> bool:
    """Whether a word ends between two characters. Marks belong to what stands before them."""
    if after.isspace() or before.isspace():
        return True
    return after.isalnum() and (is_wide(before) or is_wide(after))
