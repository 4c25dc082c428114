"""Plain text as rows: a document each, read from its file when it is asked for, so that files may be larger than memory.

`.txt`: documents are blocks between blank lines, by custom with the title in the first line. `.jsonl`: a line is one
`{"text": ...}`.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from taskloom.core.digest import sha256_hex
from taskloom.core.errors import DataError
from taskloom.core.task import Example
from taskloom.plugins._shared.datasets import bad_row
from taskloom.plugins.tasks.fill_mask.schema import MASK, FillMaskInput, FillMaskTarget
from taskloom.plugins.tasks.fill_mask.words import is_han, word_starts

FORMATS = ("txt", "jsonl")
PASSAGE_CHARACTERS = 120
"""Of each document, so much is what evaluation reads: no more than 128 tokens, the special ones among them."""
SHORT_LINE = 20
"""Characters; no passage starts with a line that is shorter, such as a title, if there is a longer one."""
HIDDEN_SHARE = 0.15
LONGEST_HIDDEN = 10
ENDS = "。！？!?；;\n"

Row = Example[FillMaskInput]


class DocumentRows(Sequence[Row]):
    """The documents of a file. In memory is where each begins, 16 bytes a document; a file that is changed meanwhile raises
    `DataError`. The whole file is read once at the start: raises `DataError` with the line of the first bad row."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(f"there is no data file {path}", path=str(path))
        if path.suffix[1:] not in FORMATS:
            raise DataError(f"{path} has an unknown format; use a file that ends in .txt or .jsonl", path=str(path))
        self._path = path
        self._starts, self._lines = array("Q"), array("Q")
        self._size = path.stat().st_size
        for start, line, raw in _blocks(path):
            _text(path, line, raw)
            self._starts.append(start)
            self._lines.append(line)
        if not self._starts:
            raise DataError(f"{path} has no rows", path=str(path))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        end = self._starts[place + 1] if place + 1 < len(self) else self._size
        with self._path.open("rb") as stream:
            stream.seek(self._starts[place])
            raw = stream.read(end - self._starts[place])
        return _row(self._path, self._lines[place], raw)

    def __iter__(self) -> Iterator[Row]:
        found = 0
        for _, line, raw in _blocks(self._path):
            found += 1
            yield _row(self._path, line, raw)
        if found != len(self):
            raise DataError(f"{self._path} was changed while it was read: it had {len(self)} documents, now {found}")


def _blocks(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(byte offset, line number, bytes) of each document."""
    single = path.suffix == ".jsonl"
    with path.open("rb") as stream:
        at = first = line = 0
        block: list[bytes] = []
        for number, raw in enumerate(stream, start=1):
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                at, raw = 3, raw[3:]  # noqa: PLW2901 - a byte-order mark is no text
            blank = not raw.strip()
            if block and (blank or single):
                yield first, line, b"".join(block)
                block = []
            if not blank:
                if not block:
                    first, line = at, number
                block.append(raw)
            at += len(raw)
        if block:
            yield first, line, b"".join(block)


def _text(path: Path, line: int, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        inside = raw.count(b"\n", 0, exc.start)
        raise bad_row(str(path), line + inside, "not UTF-8; save the file as UTF-8") from exc
    if path.suffix == ".jsonl":
        text = _json_text(path, line, text)
    while MASK in text:  # what stands around one may become one
        text = text.replace(MASK, "")
    text = text.strip()
    if not text:
        raise bad_row(str(path), line, "the document holds no text")
    return text


def _json_text(path: Path, line: int, content: str) -> str:
    try:
        values = json.loads(content)
    except json.JSONDecodeError as exc:
        raise bad_row(str(path), line, f"not JSON ({exc.msg} at column {exc.colno}); expected one object a line") from exc
    if not isinstance(values, dict) or set(values) != {"text"} or not isinstance(values["text"], str):
        raise bad_row(str(path), line, 'expected {"text": "..."} and no other field')
    text: str = values["text"]
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise bad_row(str(path), line, "the text holds half of a surrogate pair, which is no character") from exc
    return text


def _row(path: Path, line: int, raw: bytes) -> Row:
    text = _text(path, line, raw)
    shown, hidden = hide_words(passage_of(text))
    return Example(input=FillMaskInput(text=shown), target=FillMaskTarget(text=text, hidden=hidden), path=str(path), line=line)


def passage_of(text: str) -> str:
    """A part of a document of at most 120 characters, from the start of a line; the same for the same text."""
    lines, at = [], 0
    for line in text.split("\n"):
        lines.append((at, len(line.strip())))
        at += len(line) + 1
    starts = [start for start, size in lines if size >= SHORT_LINE] or [start for start, size in lines if size]
    chance = random.Random(f"passage:{sha256_hex(text.encode())}")
    start = chance.choice(starts)
    found = text[start : start + PASSAGE_CHARACTERS]
    if start + len(found) < len(text):
        end = max(found.rfind(mark) for mark in ENDS)
        if end >= PASSAGE_CHARACTERS // 2:
            found = found[: end + 1]
    return found.strip()


def hide_words(passage: str) -> tuple[str, tuple[str, ...]]:
    """The passage with about 15% of its words hidden, and what is hidden: `[MASK]` in the place of each Chinese character, and
    of each other word as a whole. Which words is drawn from the passage alone, so it is the same for every model; at least
    one."""
    starts = word_starts(passage)
    spans = [(start, start + len(passage[start:end].rstrip())) for start, end in zip(starts, [*starts[1:], None], strict=True)]
    chance = random.Random(f"hidden:{sha256_hex(passage.encode())}")
    drawn = [chance.random() for _ in spans]
    short = [i for i, (start, end) in enumerate(spans) if end - start <= LONGEST_HIDDEN or not is_han(passage[start])]
    chosen = [i for i in short if drawn[i] < HIDDEN_SHARE] or [min(short or range(len(spans)), key=drawn.__getitem__)]
    parts: list[str] = []
    hidden: list[str] = []
    at = 0
    for start, end in (spans[i] for i in chosen):
        word = passage[start:end]
        own = list(word) if is_han(word[0]) else [word]
        parts += [passage[at:start], MASK * len(own)]
        hidden += own
        at = end
    return "".join(parts) + passage[at:], tuple(hidden)
