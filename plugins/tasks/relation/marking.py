"""Texts with two marked entities as token ids: markers between the text's own pieces, long texts cut around both entities.

Markers go in between the pieces of the text as it is, so that they change none of them, wherever the entities lie: at the ends,
one in the other, or in the middle of a word, which then is marked whole (Baldini Soares et al. 2019,
https://arxiv.org/abs/1906.03158, section 3.2; Wu & He 2019, https://arxiv.org/abs/1905.08284, section 3.2).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from taskloom.core.errors import InvalidInputError
from taskloom.plugins.backbones.tokenizer import Pieces, TextTokenizer

Span = tuple[int, int]
"""From the first to before the last of some pieces; empty, it lies between two."""


@dataclass(frozen=True)
class Marked:
    """A text as it is read: the tokens and their types, where the head and the tail lie among them, each with the marker that
    opens it, and whether some of the text was left out."""

    ids: list[int]
    types: list[int]
    head: Span
    tail: Span
    truncated: bool


@dataclass(frozen=True)
class MarkedBatch:
    """Texts laid end to end: `input_ids` and `token_type_ids` [T], `lengths` and `truncated` [N]. `head_at` are the places of
    all heads' tokens, one head after the other, and `head_sizes` [N] how many each has; `tail_at` and `tail_sizes` likewise."""

    input_ids: Tensor
    token_type_ids: Tensor
    lengths: Tensor
    truncated: Tensor
    head_at: Tensor
    head_sizes: Tensor
    tail_at: Tensor
    tail_sizes: Tensor

    @classmethod
    def of(cls, rows: Sequence[Marked]) -> MarkedBatch:
        starts = list(accumulate((len(row.ids) for row in rows), initial=0))
        heads = [(at + row.head[0], at + row.head[1]) for at, row in zip(starts, rows, strict=False)]
        tails = [(at + row.tail[0], at + row.tail[1]) for at, row in zip(starts, rows, strict=False)]
        return cls(
            input_ids=torch.tensor([i for row in rows for i in row.ids], dtype=torch.long),
            token_type_ids=torch.tensor([i for row in rows for i in row.types], dtype=torch.long),
            lengths=torch.tensor([len(row.ids) for row in rows], dtype=torch.long),
            truncated=torch.tensor([row.truncated for row in rows], dtype=torch.bool),
            head_at=_places(heads),
            head_sizes=_sizes(heads),
            tail_at=_places(tails),
            tail_sizes=_sizes(tails),
        )


def _places(spans: Sequence[Span]) -> Tensor:
    return torch.tensor([i for a, b in spans for i in range(a, b)], dtype=torch.long)


def _sizes(spans: Sequence[Span]) -> Tensor:
    return torch.tensor([b - a for a, b in spans], dtype=torch.long)


class Marking:
    """Marks the entities of texts for one tokenizer. `markers` stand on both sides of the head, and of the tail."""

    def __init__(self, tokenizer: TextTokenizer, markers: tuple[str, str]) -> None:
        self._tokenizer = tokenizer
        self._markers = [pieces.ids for pieces in tokenizer.pieces(markers)]
        self._before, self._behind = tokenizer.frame()
        self.room = tokenizer.max_length - len(self._before) - len(self._behind) - 2 * sum(map(len, self._markers))

    def mark(self, texts: Sequence[str], heads: Sequence[Span], tails: Sequence[Span]) -> list[Marked]:
        """Raises `InvalidInputError` for entities that are together longer than what the model reads, and for a text that is
        no Unicode."""
        return [
            self._marked(pieces, (covered(pieces.offsets, head), covered(pieces.offsets, tail)))
            for pieces, head, tail in zip(self._tokenizer.pieces(texts), heads, tails, strict=True)
        ]

    def _marked(self, pieces: Pieces, entities: tuple[Span, Span]) -> Marked:
        kept = self._kept(len(pieces.ids), entities)
        writer = _Writer(entities, self._markers)
        writer.write(self._before)
        for first, end in kept:
            for i in range(first, end):
                writer.boundary(i)
                writer.write([pieces.ids[i]], pieces.types[i])
            writer.boundary(end)
        writer.write(self._behind)
        return Marked(writer.ids, writer.types, *writer.places(), truncated=sum(b - a for a, b in kept) < len(pieces.ids))

    def _kept(self, count: int, entities: tuple[Span, Span]) -> list[Span]:
        """The pieces that are read: all of them; or a stretch with both entities; or, where they lie too far apart for one, a
        stretch around each."""
        if count <= self.room:
            return [(0, count)]
        low, high = min(a for a, _ in entities), max(b for _, b in entities)
        if high - low <= self.room:
            first = max(0, min(low - (self.room - (high - low)) // 2, count - self.room))
            return [(first, first + self.room)]
        one, other = sorted(entities)
        together = (one[1] - one[0]) + (other[1] - other[0])
        if together > self.room or one[1] > other[0]:
            raise InvalidInputError(
                f"the two entities have {max(together, high - low)} tokens, and this model reads {self.room} with their "
                "surroundings; mark shorter parts, such as a name or its main word",
                field="input.head",
            )
        spare = (self.room - together) // 4
        return [(max(0, one[0] - spare), one[1] + spare), (other[0] - spare, min(count, other[1] + spare))]


def covered(offsets: Sequence[Span], entity: Span) -> Span:
    """The pieces that have a character of an entity; between two where none has, as for a variation selector."""
    first = bisect_right(offsets, entity[0], key=lambda place: place[1])
    end = bisect_left(offsets, entity[1], key=lambda place: place[0])
    return first, max(first, end)


@dataclass
class _Writer:
    """Writes markers at the boundaries between pieces: what ends there is closed before anything opens, the inner one first."""

    entities: tuple[Span, Span]
    markers: list[list[int]]
    ids: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    _opened: dict[int, int] = field(default_factory=dict)
    _closed: dict[int, int] = field(default_factory=dict)

    def write(self, ids: Sequence[int], type_: int = 0) -> None:
        self.ids += ids
        self.types += [type_] * len(ids)

    def boundary(self, i: int) -> None:
        """Between the pieces i - 1 and i."""
        inner_first = sorted((0, 1), key=lambda k: (self.entities[k][0], k), reverse=True)
        for k in inner_first:
            if self.entities[k][1] == i and k in self._opened and k not in self._closed:
                self._close(k)
        outer_first = sorted((0, 1), key=lambda k: (self.entities[k][1] > i, -self.entities[k][1], k))  # behind what is empty
        for k in outer_first:
            if self.entities[k][0] == i and k not in self._opened:
                self._opened[k] = len(self.ids)
                self.write(self.markers[k])
                if self.entities[k][1] == i:
                    self._close(k)

    def _close(self, k: int) -> None:
        self._closed[k] = len(self.ids)
        self.write(self.markers[k])

    def places(self) -> tuple[Span, Span]:
        """Where each entity lies in what was written: from its opening marker to before its closing one."""
        return (self._opened[0], self._closed[0]), (self._opened[1], self._closed[1])
