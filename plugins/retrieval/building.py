"""The way from the store to the indexes: which files there are, which are missing, and what is in memory of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from taskloom.plugins.retrieval.dense import DenseIndex, VectorSource, build, extended, flat, kind_for
from taskloom.plugins.retrieval.files import SPARSE, DamagedIndexError, IndexFiles
from taskloom.plugins.retrieval.filters import Ints
from taskloom.plugins.retrieval.incoming import vector_source
from taskloom.plugins.retrieval.segments import DenseSearch, Segment
from taskloom.plugins.retrieval.sparse import SparseIndex, SparseSearch, block_of
from taskloom.plugins.retrieval.state import Catalog
from taskloom.plugins.retrieval.store import IndexRecord, PassageStore
from taskloom.plugins.retrieval.tokens import Tokenizer

logger = logging.getLogger(__name__)

Index = DenseIndex | SparseIndex

MOST_GROWTH = 2
"""How many times as many vectors as it was built of an index may have: its clusters are those of the first ones."""


class IndexBuilder:
    """Used by one thread at a time. Targets are `sparse` and `dense:` with a space's id."""

    def __init__(self, store: PassageStore, tokenizer: Tokenizer) -> None:
        self._store = store
        self._tokenizer = tokenizer
        self._files = IndexFiles(store.folder)

    def open(self) -> Catalog:
        """The catalog with the index files as they were written; those that are not are refused, and built anew."""
        records, indexes = self._store.indexes(), {}
        for target, record in records.items():
            try:
                indexes[target] = self._read(record)
            except DamagedIndexError as exc:
                logger.warning("index refused: %s; it is built anew from the stored passages", exc)
        sound = {target: records[target] for target in indexes}
        if len(indexes) < len(records):
            self._build_missing(sound, indexes)
            self._store.record_indexes(list(sound.values()))
        self._files.keep_only(sound.values())
        return self._catalog(indexes)

    def build(self, catalog: Catalog) -> dict[str, tuple[IndexRecord, Index]]:
        """New index files where they are worth it, over everything that is stored now; those that still fit are kept. The
        records are not in the store yet."""
        records = {target: record for target, record in self._store.indexes().items() if self._fits(record)}
        indexes: dict[str, Index] = {}
        for target in records:
            indexes[target] = self._loaded(target, catalog)
        self._build_missing(records, indexes)
        return {target: (records[target], indexes[target]) for target in records}

    def replace(self, built: Mapping[str, tuple[IndexRecord, Index]], old: Catalog) -> Catalog:
        """Makes what was built the indexes, and returns the catalog with them and with what came in meanwhile."""
        self._store.record_indexes([record for record, _ in built.values()])
        catalog = self._catalog({target: index for target, (_, index) in built.items()})
        self._files.keep_only(record for record, _ in built.values())
        return catalog

    def reread(self, catalog: Catalog) -> Catalog:
        """What is stored, with the indexes of a catalog that is behind. Touches no file: another thread may be building."""
        indexes: dict[str, Index] = {
            f"dense:{search.space}": search.base.index for search in catalog.spaces.values() if search.base
        }
        if catalog.sparse.index is not None:
            indexes[SPARSE] = catalog.sparse.index
        return self._catalog(indexes)

    def _build_missing(self, records: dict[str, IndexRecord], indexes: dict[str, Index]) -> None:
        config = self._store.config
        for space, size in self._store.spaces().values():
            target = f"dense:{space}"
            rows = self._store.vector_rows(space)
            if target not in records and len(rows) > config.delta_limit:
                source = vector_source(self._store, space, rows, size)
                index = self._extended(target, source) or build(source, config)
                records[target], indexes[target] = self._files.write_dense(target, index), index
        rows, _ = self._store.catalog()
        if SPARSE not in records and len(rows) > config.delta_limit:
            records[SPARSE] = self._files.write_sparse(self._tokens(0, int(rows[-1])), rows)
            indexes[SPARSE] = self._read(records[SPARSE])

    def _extended(self, target: str, source: VectorSource) -> DenseIndex | None:
        """The index file there is, read anew and added to: where nothing went that it has, and its kind and training still suit
        the number of vectors. It costs what came in."""
        record = self._store.indexes().get(target)
        if record is None or not len(record.rows) <= len(source.rows) <= MOST_GROWTH * record.facts["trained"]:
            return None
        suits = record.facts["kind"] == kind_for(len(source.rows), self._store.config)
        if not suits or not np.array_equal(source.rows[: len(record.rows)], record.rows):
            return None
        try:
            index = self._read(record)
        except DamagedIndexError:
            return None
        return extended(index, source, self._store.config) if isinstance(index, DenseIndex) else None

    def _tokens(self, after: int, upto: int | None = None) -> Iterator[tuple[int, Sequence[str]]]:
        for row, text in self._store.texts(after):
            if upto is not None and row > upto:
                return
            yield row, self._tokenizer.tokens(text)

    def _fits(self, record: IndexRecord) -> bool:
        """Whether an index file has just what is stored now, in the kind that suits it."""
        if record.target == SPARSE:
            rows, _ = self._store.catalog()
            return len(rows) == record.facts["passages"] and len(rows) > 0 and int(rows[-1]) == int(record.rows[-1])
        rows = self._store.vector_rows(int(record.target.removeprefix("dense:")))
        return np.array_equal(rows, record.rows) and record.facts["kind"] == kind_for(len(rows), self._store.config)

    def _read(self, record: IndexRecord) -> Index:
        if record.target == SPARSE:
            return self._files.read_sparse(record)
        space = int(record.target.removeprefix("dense:"))
        sizes = dict(self._store.spaces().values())
        return self._files.read_dense(record, vector_source(self._store, space, record.rows, sizes[space]), self._store.config)

    @staticmethod
    def _loaded(target: str, catalog: Catalog) -> Index:
        index: Index | None
        if target == SPARSE:
            index = catalog.sparse.index
        else:
            space = int(target.removeprefix("dense:"))
            index = next(search.base.index for search in catalog.spaces.values() if search.space == space and search.base)
        if index is None:
            raise LookupError(target)
        return index

    def _catalog(self, indexes: Mapping[str, Index]) -> Catalog:
        """What is stored, with the index files as far as they go and exact ones for the rest."""
        rows, documents = self._store.catalog()
        half = self._store.dtype == np.float16
        spaces = {}
        for name, (space, size) in self._store.spaces().items():
            base = indexes.get(f"dense:{space}")
            covered = base.source.rows if isinstance(base, DenseIndex) else np.empty(0, np.int64)
            later = self._store.vector_rows(space, int(covered[-1]) if len(covered) else 0)
            segments: tuple[Segment, ...] = ()
            if len(later):
                source = vector_source(self._store, space, later, size)
                segments = (Segment(flat(source, source.read(later), half=half), _slots(rows, later)),)
            held = Segment(base, _slots(rows, covered)) if isinstance(base, DenseIndex) else None
            spaces[name] = DenseSearch(space, size, held, segments)
        sparse = indexes.get(SPARSE)
        text_index = sparse if isinstance(sparse, SparseIndex) else None
        late = list(self._tokens(text_index.last_row if text_index else 0))
        blocks = (block_of(_slots(rows, np.array([row for row, _ in late])), [tokens for _, tokens in late]),) if late else ()
        return Catalog(rows, documents, spaces, SparseSearch(text_index, blocks))


def _slots(rows: Ints, wanted: Ints) -> Ints:
    """Where some rows are among all of them; -1 for one that isn't."""
    if not len(rows):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    return np.where(rows[at] == wanted, at, -1)
