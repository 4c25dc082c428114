"""Where a character stands in its word, for languages that are written without blanks."""

from __future__ import annotations

import numpy as np
import rjieba
from numpy.typing import NDArray

PLACES = ("begins", "continues", "ends", "alone")
"""What a character is in its word, numbered from 1; 0 is for what is in no word."""
BEGINS, CONTINUES, ENDS, ALONE = range(1, len(PLACES) + 1)


def places_in_words(text: str) -> NDArray[np.int64]:
    """The place of each code point of a text in its word, as jieba cuts it.

    >>> places_in_words("马云在杭州 ok").tolist()
    [1, 3, 4, 1, 3, 0, 1, 3]
    """
    found = np.zeros(len(text), dtype=np.int64)
    at = 0
    for word in rjieba.cut(text, True):
        end = at + len(word)
        if not word.isspace():
            found[at:end] = CONTINUES
            found[at], found[end - 1] = (BEGINS, ENDS) if len(word) > 1 else (ALONE, ALONE)
        at = end
    return found
