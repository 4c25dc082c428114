"""What a search is made on: a version's passages as they were, and the indexes that find them. Never changed once made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from taskloom.plugins.retrieval.dense import Floats, VectorSource, flat
from taskloom.plugins.retrieval.filters import Bools, Condition, FactColumns, Ints
from taskloom.plugins.retrieval.segments import DenseSearch, Segment
from taskloom.plugins.retrieval.sparse import SparseSearch, block_of, merged

MOST_MASKS = 32
"""Filters whose masks a state keeps."""


@dataclass(frozen=True)
class Catalog:
    """The passages that are in memory, each in a slot, with the indexes over them. `rows` and `documents` [slots] are the
    passages' and their documents' rows in the database, both ascending. Growing makes another catalog, with the same slots and
    more; compaction makes one with other slots."""

    rows: Ints
    documents: Ints
    spaces: Mapping[str, DenseSearch]
    sparse: SparseSearch

    def grown(self, new: NewPassages, *, half: bool) -> Catalog:
        slots = np.arange(len(self.rows), len(self.rows) + len(new.rows))
        spaces = dict(self.spaces)
        for name, (space, source, vectors, places) in new.vectors.items():
            known = spaces.get(name, DenseSearch(space, source.dimensions, None, ()))
            spaces[name] = known.with_segment(Segment(flat(source, vectors, half=half), slots[places]), half=half)
        blocks, block = list(self.sparse.blocks), block_of(slots, new.tokens)
        while blocks and len(blocks[-1]) <= 2 * len(block):
            block = merged(blocks.pop(), block)
        return Catalog(
            np.concatenate([self.rows, new.rows]),
            np.concatenate([self.documents, new.documents]),
            spaces,
            SparseSearch(self.sparse.index, (*blocks, block) if len(block) else tuple(blocks)),
        )

    def alive(self, documents: Ints) -> Bools:
        """Which slots [slots] belong to some documents (rows, ascending)."""
        if not len(documents):
            return np.zeros(len(self.rows), np.bool_)
        at = np.minimum(np.searchsorted(documents, self.documents), len(documents) - 1)
        return np.asarray(documents[at] == self.documents)

    @property
    def unindexed(self) -> int:
        """Passages that no index file has."""
        return sum(len(block) for block in self.sparse.blocks)


@dataclass(frozen=True)
class NewPassages:
    """What is added to a catalog: by space, its id, the source of its vectors, these [n, D], and the passages' places."""

    rows: Ints
    documents: Ints
    tokens: Sequence[Sequence[str]]
    vectors: Mapping[str, tuple[int, VectorSource, Floats, Ints]]


@dataclass(frozen=True)
class Mask:
    """The slots that a search may find; None stands for all of them."""

    allowed: Bools | None
    count: int


@dataclass(frozen=True)
class State:
    """A version: a catalog, and which of its slots are alive. Shared by the views of the version."""

    version: int
    catalog: Catalog
    alive: Bools
    columns: FactColumns
    languages: Mapping[str, int]
    """Passages by language."""
    _masks: dict[tuple[Condition, ...], Mask] = field(default_factory=dict)

    @cached_property
    def spaces(self) -> frozenset[str]:
        """Those in which a passage that is alive has a vector."""
        return frozenset(name for name, search in self.catalog.spaces.items() if search.has(self.alive))

    def mask(self, conditions: tuple[Condition, ...]) -> Mask:
        known = self._masks.get(conditions)
        if known is None:
            known = self._mask(conditions)
            if len(self._masks) >= MOST_MASKS:
                self._masks.clear()
            self._masks[conditions] = known
        return known

    def _mask(self, conditions: tuple[Condition, ...]) -> Mask:
        allowed = self.alive
        if conditions:
            newest = int(self.catalog.documents[-1]) if len(self.catalog.documents) else 0
            allowed = allowed & self.catalog.alive(self.columns.matching(conditions, newest))
        count = int(np.count_nonzero(allowed))
        return Mask(None if count == len(allowed) else allowed, count)
