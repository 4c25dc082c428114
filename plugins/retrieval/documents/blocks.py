"""What a cleaned text is made of: headings, paragraphs, tables and code, each a stretch of its lines.

The marks are those of Markdown, which is how every kind of document is read into text: `## Heading`, `| cell | cell |` rows
and fences of three back-ticks or tildes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

HEADING = re.compile(r" {0,3}(#{1,6}) +(\S.*)")
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
ROW = re.compile(r" {0,3}\|")
LONGEST_HEADING = 200
"""Characters of a heading that passages carry."""


@dataclass(frozen=True, slots=True)
class Block:
    """`text[start:end]`, whole lines without the last one's line feed. `level` is a heading's, from 1 to 6."""

    kind: Literal["heading", "paragraph", "table", "code"]
    start: int
    end: int
    level: int = 0
    heading: str = ""


def blocks_of(text: str) -> Iterator[Block]:
    """The blocks of a cleaned text in its order; together they hold every line that is not blank. A fence that nobody closes
    goes to the end of the text, as CommonMark has it."""
    start = end = 0
    kind: Literal["paragraph", "table", "code"] = "paragraph"
    fence = ""
    for line_start, line in _lines(text):
        line_end = line_start + len(line)
        if fence:
            end = line_end
            if _closes(line, fence):
                yield Block("code", start, end)
                fence, start = "", end
            continue
        opening = FENCE.match(line)
        heading = None if opening else HEADING.match(line)
        if opening or heading or not line.strip():
            if start < end:
                yield Block(kind, start, end)
            start = end = line_end
            if opening:
                fence, start, kind = opening[1], line_start, "code"
            elif heading:
                yield Block("heading", line_start, line_end, len(heading[1]), _plain(heading[2]))
            continue
        is_row: Literal["paragraph", "table"] = "table" if ROW.match(line) else "paragraph"
        if start < end and kind != is_row:
            yield Block(kind, start, end)
            start = end
        if start >= end:
            start, kind = line_start, is_row
        end = line_end
    if start < end:
        yield Block(kind, start, end)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1


def _closes(line: str, fence: str) -> bool:
    return len(line) <= len(fence) + 40 and line.strip(" " + fence[0]) == "" and line.count(fence[0]) >= len(fence)


def _plain(heading: str) -> str:
    """The words of a heading, without the closing marks that it may have."""
    words = heading[:LONGEST_HEADING].rstrip()
    bare = words.rstrip("#")
    return bare.rstrip() if bare.endswith(" ") else words
