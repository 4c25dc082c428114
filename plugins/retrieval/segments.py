"""The dense side of one state: an index of most vectors, and exact ones of those that came later."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from taskloom.plugins.retrieval.dense import DenseIndex, Floats, VectorSource, flat
from taskloom.plugins.retrieval.filters import Bools, Ints


@dataclass(frozen=True)
class Segment:
    """An index, and the slot of each of its places; -1 for a passage that no kept version has any more."""

    index: DenseIndex
    slots: Ints

    def __len__(self) -> int:
        return len(self.slots)

    @cached_property
    def _there(self) -> Bools | None:
        there = self.slots >= 0
        return None if there.all() else there

    def search(self, vector: Floats, count: int, allowed: Bools | None) -> tuple[Ints, Floats]:
        """At least the `count` best slots among those allowed [slots of the state]; None allows all."""
        here = self._there if allowed is None else allowed[self.slots] & (self.slots >= 0)
        if here is not None and here.all():
            here = None
        places, scores = self.index.search(vector, count, here)
        return self.slots[places], scores


@dataclass(frozen=True)
class DenseSearch:
    """The vectors of one space in one state. `base` is None until there is an index file."""

    space: int
    dimensions: int
    base: Segment | None
    later: tuple[Segment, ...]

    def has(self, alive: Bools) -> bool:
        """Whether there is a vector of a slot that is alive [slots of the state]."""
        segments = (*((self.base,) if self.base else ()), *self.later)
        return any(bool(alive[segment.slots[segment.slots >= 0]].any()) for segment in segments)

    def search(self, vector: Floats, count: int, allowed: Bools | None) -> tuple[Ints, Floats]:
        segments = (*((self.base,) if self.base else ()), *self.later)
        if not segments:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        found = [segment.search(vector, count, allowed) for segment in segments]
        return np.concatenate([slots for slots, _ in found]), np.concatenate([scores for _, scores in found])

    def with_segment(self, segment: Segment, *, half: bool) -> DenseSearch:
        """With some more vectors. Small segments are merged with those before them that are no larger than twice their size, so
        that there are few and each vector is moved a logarithmic number of times."""
        later = list(self.later)
        while later and len(later[-1]) <= 2 * len(segment):
            segment = _joined(later.pop(), segment, half=half)
        return DenseSearch(self.space, self.dimensions, self.base, (*later, segment))


def _joined(first: Segment, second: Segment, *, half: bool) -> Segment:
    one, other = first.index, second.index
    vectors = np.concatenate([index.vectors(np.arange(len(index))) for index in (one, other)])
    rows = np.concatenate([one.source.rows, other.source.rows])
    source = VectorSource(rows, one.source.dimensions, one.source.read)
    return Segment(flat(source, vectors, half=half), np.concatenate([first.slots, second.slots]))
