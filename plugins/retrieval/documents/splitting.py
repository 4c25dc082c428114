"""A document into passages: by its headings, paragraphs and sentences, each passage about as long as models read well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, model_validator

from taskloom.core.digest import sha256_hex
from taskloom.core.knowledge import Document, Passage
from taskloom.core.types import Frozen
from taskloom.plugins._shared.sentences import split_sentences
from taskloom.plugins.retrieval.documents.blocks import Block, blocks_of
from taskloom.plugins.retrieval.documents.cutting import pieces_of, tokens_of
from taskloom.plugins.retrieval.documents.language import language_of


class SplitConfig(Frozen):
    """How long passages are, in estimated tokens (`estimated_tokens`: a Chinese character, or four Latin letters).

    The defaults fit what reads them. all-MiniLM-L6-v2 was trained on texts cut at 128 tokens (its model card), and the
    extractive reader takes windows of 96 to 128: 96 leaves room for the title and headings that are embedded with a passage,
    and for the question. A table, a code block or a sentence says little when it is cut, and the encoder reads 512 tokens: up
    to 192 they stay whole. 24 tokens of overlap are a sentence: what the next one most often refers to."""

    size: int = Field(default=96, ge=16, le=2048)
    """What passages of whole sentences are filled up to."""
    maximum: int = Field(default=192, ge=16, le=4096)
    """No passage is longer, but for the answer of a FAQ pair."""
    overlap: int = Field(default=24, ge=0, le=1024)
    """Where a paragraph is cut, whole sentences of up to so many tokens in all are repeated from the end of the passage
    before."""

    @model_validator(mode="after")
    def _fits(self) -> SplitConfig:
        if self.maximum < self.size:
            raise ValueError(
                f"maximum is {self.maximum}, less than size, {self.size}; no passage could be as long as asked for"
            )
        if self.overlap > self.size // 2:
            raise ValueError(f"overlap is {self.overlap}, more than half of size, {self.size}: passages would be repetition")
        return self


@dataclass(frozen=True, slots=True)
class Unit:
    """What is not cut: `text[start:end]`. `tokens` counts the blanks before it too. `first` is set where a block begins."""

    start: int
    end: int
    tokens: int
    first: bool
    kind: Literal["sentence", "heading", "other"]
    """Sentences that are whole may be repeated as overlap."""


@dataclass
class Section:
    """Headings and what stands under them, up to the next heading."""

    headings: tuple[str, ...] = ()
    units: list[Unit] = field(default_factory=list)
    has_body: bool = False


def split(document: Document, config: SplitConfig) -> list[Passage]:
    """The passages of a document that `clean_document` has cleaned, in its order: `document.text[start:end]` is a passage's
    text, and every character that is no blank is in one at least. A FAQ pair is one passage, as long as it may be.

    No passage goes on beyond the next heading; a heading that nothing stands under goes with the one that follows. `headings`
    are those above the passage's last line. The language is the document's if it says one; else it is told from the passage,
    and where the passage doesn't say, from the document.

    >>> document = Document(document_id="a", text="# Reset\\n\\nHold the button. Wait.")
    >>> [(passage.text, passage.headings) for passage in split(document, SplitConfig())]
    [('# Reset\\n\\nHold the button. Wait.', ('Reset',))]
    """
    if document.question:
        whole = (0, len(document.text))
        told = document.language or language_of(f"{document.question}\n{document.text}")
        return [_passage(document, *whole, (), told)]
    language = document.language or language_of(document.text)
    passages = []
    for section in _sections(document.text, config):
        for start, end in _packed(section.units, config):
            own = document.language or language_of(document.text[start:end], guess=False) or language
            passages.append(_passage(document, start, end, section.headings, own))
    return passages


def _sections(text: str, config: SplitConfig) -> Iterator[Section]:
    path: list[tuple[int, str]] = []
    section = Section()
    for block in blocks_of(text):
        if block.kind == "heading":
            if section.has_body:
                yield section
                section = Section()
            path = [entry for entry in path if entry[0] < block.level]
            path.append((block.level, block.heading))
            section.headings = tuple(heading for _, heading in path)
        else:
            section.has_body = True
        section.units += _units(text, block, config, section.units[-1].end if section.units else block.start)
    if section.units:
        yield section


def _units(text: str, block: Block, config: SplitConfig, previous_end: int) -> Iterator[Unit]:
    room = config.maximum - 2
    first = True
    for start, end in _stretches(text, block, room):
        whole = tokens_of(text[start:end], 4 * config.maximum) <= room
        for piece_start, piece_end in [(start, end)] if whole else pieces_of(text, start, end, config.size - 2):
            tokens = tokens_of(text[previous_end:piece_end], 4 * config.maximum)
            kind: Literal["sentence", "heading", "other"] = "heading" if block.kind == "heading" else "other"
            yield Unit(piece_start, piece_end, tokens, first, "sentence" if whole and block.kind == "paragraph" else kind)
            first, previous_end = False, piece_end


def _stretches(text: str, block: Block, room: int) -> Iterator[tuple[int, int]]:
    """A paragraph's sentences; a table, a code block or a heading as it is, or its lines where it is too long."""
    if block.kind == "paragraph":
        content = text[block.start : block.end]
        for sentence in split_sentences(content, longest=len(content) + 1):
            yield block.start + sentence.start, block.start + sentence.end
    elif tokens_of(text[block.start : block.end], room + 1) <= room:
        yield block.start + _indentation(text[block.start : block.end]), block.end
    else:
        start = block.start
        for line in text[block.start : block.end].split("\n"):
            if line.strip():
                yield start + _indentation(line), start + len(line)
            start += len(line) + 1


def _indentation(text: str) -> int:
    return len(text) - len(text.lstrip())


def _packed(units: Sequence[Unit], config: SplitConfig) -> Iterator[tuple[int, int]]:
    """Consecutive units as passages: `(start, end)` in the text."""
    runs: list[tuple[int, int, int]] = []  # first unit, the one behind the last, tokens of those that are new in it
    begin, first, tokens, fresh = 0, 0, 0, 0
    for place, unit in enumerate(units):
        if fresh and tokens + unit.tokens > _room(units, first, place, tokens, config):
            runs.append((begin, place, fresh))
            begin, tokens = _overlap(units, first, place, config)
            first, fresh = place, 0
        tokens += unit.tokens
        fresh += unit.tokens
    runs.append((begin, len(units), fresh))
    if len(runs) > 1 and 4 * runs[-1][2] < config.size:
        begin = runs[-2][0]
        if sum(unit.tokens for unit in units[begin:]) <= config.maximum - 2:
            runs[-2:] = [(begin, len(units), 0)]
    for begin, stop, _ in runs:
        yield units[begin].start, units[stop - 1].end


def _room(units: Sequence[Unit], first: int, place: int, tokens: int, config: SplitConfig) -> int:
    """The tokens that a passage of `tokens`, whose own units are `units[first:place]`, may have with the unit at `place`.

    What follows a heading stays with it. A passage that is half full ends where a block begins that would not fit in whole."""
    unit = units[place]
    if units[place - 1].kind == "heading" and all(one.kind == "heading" for one in units[first:place]):
        return config.maximum - 2
    if unit.first and 2 * tokens >= config.size:
        whole = unit.tokens
        following = place + 1
        while following < len(units) and not units[following].first and tokens + whole <= config.size - 2:
            whole += units[following].tokens
            following += 1
        if tokens + whole > config.size - 2:
            return 0
    return config.size - 2


def _overlap(units: Sequence[Unit], first: int, place: int, config: SplitConfig) -> tuple[int, int]:
    """Where a passage begins whose first new unit is at `place`, and the tokens that it repeats: whole sentences from the end
    of the passage before, never its first, which was at `first`. None where a block begins: that cut parts no thought."""
    begin, repeated = place, 0
    if units[place].first:
        return begin, repeated
    room = min(config.overlap, config.size - 2 - units[place].tokens)
    while begin - 1 > first and units[begin - 1].kind == "sentence" and repeated + units[begin - 1].tokens <= room:
        begin -= 1
        repeated += units[begin].tokens
    return begin, repeated


def _passage(document: Document, start: int, end: int, headings: tuple[str, ...], language: str) -> Passage:
    text = document.text[start:end]
    identity = [document.document_id, start, document.title, list(headings), document.question, text]
    return Passage(
        passage_id=sha256_hex(json.dumps(identity).encode())[:32],
        document_id=document.document_id,
        text=text,
        start=start,
        end=end,
        title=document.title,
        headings=headings,
        question=document.question,
        language=language,
        source=document.source,
        metadata=document.metadata,
    )
