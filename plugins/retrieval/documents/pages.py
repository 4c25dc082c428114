"""The lines of pages to paragraphs: headers and footers go, lines that were broken where the page ended are joined, and words
that were hyphenated there are whole again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import median

from taskloom.plugins._shared.sentences import is_wide

HYPHEN = "\x02"
"""What stands for the hyphen of a word that goes on in the next `Line`."""
EDGE = 2
"""Lines at the top and at the bottom of a page that may be its header or footer."""
DIGITS = re.compile(r"\d+")
ENDS = ".!?。！？…:：;；"
ITEM = re.compile(r"[-*•·▪◦‣–]\s|\(?\w{1,3}[.)）、]\s?|第.{1,4}[章节条]")
BROKEN_WORD = re.compile(f"([^\\W\\d_]+){HYPHEN}([^\\W\\d_]+)")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page and its box, in points from the page's lower left corner; `size` is that of its
    letters."""

    text: str
    left: float
    right: float
    bottom: float
    size: float


def text_of_pages(pages: Sequence[Sequence[Line]]) -> str:
    """The text of a document's pages: paragraphs, with what is set larger than the body as headings."""
    pages = _without_edges(pages)
    lines = [line for page in pages for line in page]
    if not lines:
        return ""
    body = _body_size(lines)
    levels = _heading_levels(lines, body)
    parts: list[str] = []
    previous: Line | None = None
    for page in pages:
        full = 0.8 * median(line.right - line.left for line in page) if page else 0.0
        pitch = _pitch(page)
        for place, line in enumerate(page):
            level = levels.get(line.size, 0)
            if previous is not None and _goes_on(previous, line, full, pitch if place else None):
                parts.append(_between(previous.text, line.text) + line.text)
            else:
                parts.append("\n\n" + "#" * level + " " * bool(level) + line.text)
            previous = line
    return _with_whole_words("".join(parts).strip())


def _without_edges(pages: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """The pages without what stands at the top or the bottom of at least three of them, and of two in five, but for its
    numbers."""
    counts: Counter[str] = Counter()
    for page in pages:
        counts.update({_shape(line) for line in [*page[:EDGE], *page[-EDGE:]]})
    often = max(3, ceil(0.4 * len(pages)))
    kept = []
    for page in pages:
        last = len(page) - EDGE
        kept.append([x for i, x in enumerate(page) if EDGE <= i < last or counts[_shape(x)] < often])
    return kept


def _shape(line: Line) -> str:
    return DIGITS.sub("#", " ".join(line.text.split()).lower())


def _body_size(lines: Sequence[Line]) -> float:
    """The size that most letters are set in."""
    letters: Counter[float] = Counter()
    for line in lines:
        letters[line.size] += len(line.text)
    return max(letters, key=lambda size: (letters[size], -size))


def _heading_levels(lines: Sequence[Line], body: float) -> dict[float, int]:
    """The level of each size that headings are set in: at least a sixth larger than the body, and together a quarter of the
    letters at most, since a page of large print has no headings for that."""
    large = [line for line in lines if line.size >= body * 7 / 6 and len(line.text) <= 150]
    if 4 * sum(len(line.text) for line in large) > sum(len(line.text) for line in lines):
        return {}
    sizes = sorted({line.size for line in large}, reverse=True)
    return {size: min(6, rank) for rank, size in enumerate(sizes, start=1)}


def _pitch(page: Sequence[Line]) -> float:
    """The usual distance from one line of a page to the next, in points."""
    steps = [above.bottom - below.bottom for above, below in pairwise(page)]
    steps = [step for step in steps if step > 0]
    return median(steps) if steps else 0.0


def _goes_on(previous: Line, line: Line, full: float, pitch: float | None) -> bool:
    """Whether a line goes on with the paragraph of the one before. `pitch` is None where a page begins."""
    if previous.text.endswith(HYPHEN):
        return True
    if abs(previous.size - line.size) > 0.1 * previous.size or ITEM.match(line.text):
        return False
    if previous.right - previous.left < full:
        return False
    if pitch is None:
        return previous.text[-1] not in ENDS and (line.text[0].islower() or is_wide(line.text[0]))
    step = previous.bottom - line.bottom
    if step > 1.4 * pitch:
        return False
    return step < 0 or line.left <= previous.left + 0.8 * line.size


def _between(before: str, after: str) -> str:
    """What joins two lines: nothing between Chinese characters, a blank between words; a hyphen at the end is marked."""
    if before.endswith(HYPHEN) or (is_wide(before[-1]) and is_wide(after[0])):
        return ""
    return " "


def _with_whole_words(text: str) -> str:
    """Hyphens at line ends away, unless the document has the word with its hyphen somewhere else."""
    hyphenated = {word.lower() for word in re.findall(r"[^\W\d_]+-[^\W\d_]+", text)}

    def whole(match: re.Match[str]) -> str:
        with_hyphen = f"{match[1]}-{match[2]}"
        return with_hyphen if with_hyphen.lower() in hyphenated or match[2][0].isupper() else match[1] + match[2]

    return BROKEN_WORD.sub(whole, text).replace(HYPHEN, "-")
