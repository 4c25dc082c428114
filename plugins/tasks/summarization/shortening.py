"""Leaving out the beginning and the end of a sentence where they say little, at places where it can be cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLAUSE_MARKS = frozenset(",;:–()")
"""Where a blank is beside one of these, a sentence may begin behind it or end before it: 50,000 is a number."""
WIDE_MARKS = frozenset("，；：—（）")
"""The same without a blank."""
PHRASE_STARTS = frozenset(
    """
    about according after against ahead alongside although amid among around as at because before behind below beside
    between beyond but by despite due during following for from in into near on outside over pending since so than though
    through throughout toward towards under unless until upon versus via what when where whereas whether which while who
    whom whose with within without
    """.split()  # noqa: SIM905
)
"""English words before which a sentence may end: what follows says more about what was said."""
NEVER_FIRST = PHRASE_STARTS | frozenset({"and", "or", "nor", "to", "of", "that", "is", "are", "was", "were"})
"""Words with which nothing begins that was cut out of a sentence: they lean on what stood before them."""
NEVER_LAST = NEVER_FIRST | frozenset(
    {"the", "a", "an", "its", "his", "her", "their", "not", "be", "has", "have", "had", "will"}
)
"""Words with which nothing ends."""
OPENERS = frozenset({"that"})
"""Words behind which a sentence may begin: what was said, without who said it."""
SHORTEST = 5
"""Words that are left at least."""
LEAST = 1e-9
"""What is divided by at least."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word or mark of a sentence: where it lies in the document, and how likely a summary has it."""

    text: str
    start: int
    end: int
    keep: float

    @property
    def counts(self) -> bool:
        """Marks don't count."""
        return any(letter.isalnum() for letter in self.text)


def shortened(words: Sequence[Word], unsaid: float) -> tuple[int, int] | None:
    """The part of a sentence that is worth most, as `(start, end)` in the document; None for the whole of it.

    It is worth the F1 of unigrams (ROUGE-1) that it is expected to have: 2 * sum(keep) / (its words + words of a summary).
    How many words a summary has is not known; `unsaid` for each that the sentence is expected to have in common with it is
    what the training texts say.
    """
    number = [0]
    gain = [0.0]
    for word in words:
        number.append(number[-1] + word.counts)
        gain.append(gain[-1] + (word.keep if word.counts else 0.0))
    expected = unsaid * gain[-1]
    begins, ends = np.array(_beginnings(words)), np.array(_endings(words))
    values = _values(np.array(gain), np.array(number), begins, ends, expected)
    best = int(values.argmax())  # the first of the best; the whole is the very first
    if not values.flat[best] > _value(gain[-1], number[-1], expected):
        return None
    first, last = divmod(best, len(ends))
    return words[begins[first]].start, words[ends[last] - 1].end


def _values(
    gain: NDArray[np.float64], number: NDArray[np.int64], begins: NDArray[np.int64], ends: NDArray[np.int64], expected: float
) -> NDArray[np.float64]:
    """What the part from each beginning to each end is worth [begins, ends]; nothing where too few words are left."""
    left = number[ends] - number[begins][:, None]
    found = 2 * (gain[ends] - gain[begins][:, None]) / np.maximum(left + expected, LEAST)
    worth: NDArray[np.float64] = np.where(left < SHORTEST, -np.inf, found)
    return worth


def _value(gain: float, number: int, expected: float) -> float:
    return 2 * gain / max(number + expected, LEAST)


def _beginnings(words: Sequence[Word]) -> list[int]:
    inner = (i for i in range(1, len(words)) if words[i].counts and words[i].text.lower() not in NEVER_FIRST)
    return [0, *(i for i in inner if _is_cut(words, i - 1) or words[i - 1].text.lower() in OPENERS)]


def _endings(words: Sequence[Word]) -> list[int]:
    """Places before which the sentence may end; no mark is left at its end."""
    inner = (i for i in range(1, len(words)) if words[i - 1].counts and words[i - 1].text.lower() not in NEVER_LAST)
    return [len(words), *(i for i in inner if _is_cut(words, i) or words[i].text.lower() in PHRASE_STARTS)]


def _is_cut(words: Sequence[Word], i: int) -> bool:
    """Whether word `i` is a mark between clauses."""
    if words[i].text in WIDE_MARKS:
        return True
    blank_before = i > 0 and words[i - 1].end < words[i].start
    blank_behind = i + 1 == len(words) or words[i].end < words[i + 1].start
    return words[i].text in CLAUSE_MARKS and (blank_before or blank_behind)
