"""Vectors of one space by inner product: a FAISS index that is built once and never changed.

Adding is done with further, small indexes beside it, and deleting with masks (`segments.py`): so every search sees one state,
and HNSW, which cannot take vectors out, is treated like the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.filters import Bools, Ints

Floats = NDArray[np.float32]

library: Any = faiss
"""Its stubs are those of the C++ classes, without what its Python layer adds."""

CHUNK = 20_000
"""Vectors read at a time."""
SAMPLE = 100
"""Vectors whose neighbours the recall is measured on."""
NEIGHBOURS = 32
CONSTRUCTION = 80
"""HNSW: links of a node, and how widely they are sought (Malkov and Yashunin 2016: M, efConstruction)."""
POOL = 100
"""Candidates of a coarse code that are scored exactly."""
SPARSE_SHARE = 0.25
"""Where fewer than this share of the vectors are allowed, HNSW's walk finds too few: those that are allowed are scanned, which
takes no longer (100 000 vectors, a tenth allowed: the walk found 0.95 of ten in three times the time of the scan)."""
NEW_QUESTIONS = 2
"""A graph finds the neighbours of its own vectors, which the effort is chosen on, more easily than those of new ones (0.993 and
0.981 of ten, at 100 000): it is walked this much wider."""
MARGIN = 8
"""Candidates beyond the count, so that ties at its end are seen."""


@dataclass(frozen=True)
class VectorSource:
    """Vectors as they are stored: `read` gives those [n, D] of some rows."""

    rows: Ints
    dimensions: int
    read: Callable[[Ints], Floats]

    def chunks(self) -> Iterator[Floats]:
        for at in range(0, len(self.rows), CHUNK):
            yield self.read(self.rows[at : at + CHUNK])


class DenseIndex:
    """The vectors of `rows`, by place. Thread-safe. `effort` is efSearch of HNSW and the number of lists that IVF probes;
    `trained` how many vectors it was built of, before others were added."""

    def __init__(
        self,
        kind: str,
        index: Any,
        source: VectorSource,
        *,
        effort: int = 0,
        recall: float = 1.0,
        half: bool = True,
        trained: int = 0,
    ) -> None:
        self.kind = kind
        self.index = index
        self.source = source
        self.effort = effort
        self.recall = recall
        self._codes = library.downcast_index(index.storage) if kind == "hnsw" else index
        self._half = half
        self.trained = trained or len(source.rows)

    def __len__(self) -> int:
        return len(self.source.rows)

    @property
    def memory_bytes(self) -> int:
        size, count = self.source.dimensions, len(self)
        if self.kind in {"flat", "hnsw"}:
            links = (2 * NEIGHBOURS + NEIGHBOURS // 16) * 4 + 12 if self.kind == "hnsw" else 0
            return count * (size * (2 if self._half else 4) + links)
        lists = library.extract_index_ivf(self.index)
        return int(count * (lists.code_size + 8) + lists.nlist * size * 4)

    def vectors(self, places: Ints) -> Floats:
        """Those at some places [n, D], exactly as they are stored."""
        if self.kind in {"flat", "hnsw"}:
            return np.asarray(self._codes.reconstruct_batch(places), np.float32).reshape(len(places), -1)
        return self.source.read(self.source.rows[places])

    def search(self, vector: Floats, count: int, allowed: Bools | None = None) -> tuple[Ints, Floats]:
        """At least the `count` best places for a vector [D], among those allowed [places], fewer where there are fewer; their
        cosines are exact, each summed in the same order whatever it was found with."""
        total = len(self) if allowed is None else int(np.count_nonzero(allowed))
        wanted = min(count + MARGIN, total)
        if wanted == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        selector = None if allowed is None else library.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        query = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
        places = self._candidates(query, wanted, selector, total / len(self))
        while len(places) == wanted < total and self.kind == "flat":
            scores = exact_scores(self.vectors(places[[count - 1, -1]]), query[0])
            if scores[1] < scores[0]:
                break
            wanted = min(wanted * 4, total)
            places = self._candidates(query, wanted, selector, total / len(self))
        return places, exact_scores(self.vectors(places), query[0])

    def _candidates(self, query: Floats, count: int, selector: Any, share: float) -> Ints:
        if self.kind == "flat" or (self.kind == "hnsw" and share < SPARSE_SHARE):
            return self._scan(query, count, selector)
        if self.kind == "hnsw":
            parameters = library.SearchParametersHNSW(efSearch=max(self.effort, 2 * count), sel=selector)
            places = self.index.search(query, count, params=parameters)[1][0]
            found = places[places >= 0].astype(np.int64)
            return found if len(found) == count else self._scan(query, count, selector)
        lists = library.extract_index_ivf(self.index).nlist
        probes = min(lists, math.ceil(self.effort / share))
        pool = max(POOL, 4 * count) if self.kind == "ivf-rabitq" else 2 * count
        places = self._probe(query, pool, probes, selector)
        if len(places) < count and probes < lists:
            places = self._probe(query, pool, lists, selector)
        return places

    def _scan(self, query: Floats, count: int, selector: Any) -> Ints:
        places = self._codes.search(query, count, params=library.SearchParameters(sel=selector))[1][0]
        return np.asarray(places[places >= 0], np.int64)

    def _probe(self, query: Floats, count: int, probes: int, selector: Any) -> Ints:
        if self.kind == "ivf":
            parameters = library.SearchParametersIVF(nprobe=probes, sel=selector)
        else:
            inner = library.IVFRaBitQSearchParameters(nprobe=probes, qb=8, sel=selector)
            parameters = library.SearchParametersPreTransform(index_params=inner)
        places = self.index.search(query, count, params=parameters)[1][0]
        return np.asarray(places[places >= 0], np.int64)

    def with_effort(self, effort: int, recall: float) -> DenseIndex:
        return DenseIndex(
            self.kind, self.index, self.source, effort=effort, recall=recall, half=self._half, trained=self.trained
        )


def exact_scores(vectors: Floats, query: Floats) -> Floats:
    """Cosines [n] of unit vectors. Not a matrix product: that adds up in an order that depends on how many there are. Half
    precision makes lengths of 1 to within 1e-3: no cosine is beyond 1 for that."""
    return np.asarray(np.clip((vectors * query).sum(axis=1, dtype=np.float64), -1.0, 1.0), np.float32)


def kind_for(count: int, config: KnowledgeConfig) -> str:
    if config.index != "auto":
        return config.index
    if count <= config.flat_limit:
        return "flat"
    return "hnsw" if count <= config.hnsw_limit else "ivf-rabitq"


def flat(source: VectorSource, vectors: Floats, *, half: bool) -> DenseIndex:
    """An exact index of some vectors [n, D], without measuring anything."""
    index = _empty("flat", source, half=half)
    index.train(vectors)
    index.add(vectors)
    return DenseIndex("flat", index, source, half=half)


def build(source: VectorSource, config: KnowledgeConfig) -> DenseIndex:
    """An index of the kind that suits the number of vectors, its search effort set for the recall that is wanted."""
    kind, half = kind_for(len(source.rows), config), config.dtype == "float16"
    index = _empty(kind, source, half=half)
    if not index.is_trained:
        index.train(_training_set(source, library.extract_index_ivf(index).nlist if kind.startswith("ivf") else 1))
    for vectors in source.chunks():
        index.add(vectors)
    return _tuned(DenseIndex(kind, index, source, half=half), config.recall)


def extended(index: DenseIndex, source: VectorSource, config: KnowledgeConfig) -> DenseIndex:
    """An index with the vectors of `source` that it hasn't got; it begins with those that it has. Takes the index over."""
    fresh = VectorSource(source.rows[len(index) :], source.dimensions, source.read)
    for vectors in fresh.chunks():
        index.index.add(vectors)
    return _tuned(
        DenseIndex(index.kind, index.index, source, half=config.dtype == "float16", trained=index.trained), config.recall
    )


def _empty(kind: str, source: VectorSource, *, half: bool) -> Any:
    size, metric = source.dimensions, library.METRIC_INNER_PRODUCT
    if kind == "flat":
        codes = library.ScalarQuantizer.QT_fp16
        return library.IndexScalarQuantizer(size, codes, metric) if half else library.IndexFlat(size, metric)
    if kind == "hnsw":
        codes = library.ScalarQuantizer.QT_fp16
        index = (
            library.IndexHNSWSQ(size, codes, NEIGHBOURS, metric) if half else library.IndexHNSWFlat(size, NEIGHBOURS, metric)
        )
        index.hnsw.efConstruction = CONSTRUCTION
        return index
    count = len(source.rows)
    lists = max(1, min(4096, int(2 * math.sqrt(count)), count))
    name = f"IVF{lists},SQ8" if kind == "ivf" else f"RR{size},IVF{lists},RaBitQ"
    index = library.index_factory(size, name, metric)
    clustering = library.extract_index_ivf(index).cp
    clustering.niter, clustering.min_points_per_centroid = 8, 1
    return index


def _training_set(source: VectorSource, lists: int) -> Floats:
    count = min(len(source.rows), max(1000, 40 * lists))
    chosen = np.sort(np.random.default_rng(0).choice(len(source.rows), count, replace=False))
    return source.read(source.rows[chosen])


def _tuned(index: DenseIndex, wanted: float) -> DenseIndex:
    """The index with the least effort that finds `wanted` of the exact search's ten, on a sample of its own vectors; with the
    most there is, where none does."""
    efforts = [0]
    if index.kind == "hnsw":
        efforts = [32, 64, 128, 256, 512]
    elif index.kind != "flat":
        lists = library.extract_index_ivf(index.index).nlist
        efforts = [probes for probes in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if probes < lists] + [lists]
    chosen = np.sort(np.random.default_rng(1).choice(len(index), min(SAMPLE, len(index)), replace=False))
    queries = index.source.read(index.source.rows[chosen])
    truth = exact_neighbours(index.source, queries, 11)
    recall = 0.0
    for effort in efforts:
        index = index.with_effort(effort, recall)
        recall = _recall(index, queries, chosen, truth)
        if recall >= wanted:
            break
    wider = NEW_QUESTIONS if index.kind == "hnsw" else 1
    return index.with_effort(wider * index.effort, recall)


def _recall(index: DenseIndex, queries: Floats, own: Ints, truth: Ints) -> float:
    """Recall@10, each vector's own place aside."""
    shares = []
    for query, place, nearest in zip(queries, own, truth, strict=True):
        places, scores = index.search(query, 11)
        best = [one for one in places[np.lexsort((places, -scores))][:11] if one != place][:10]
        right = [one for one in nearest if one != place and one >= 0][:10]
        shares.append(len(set(best) & set(right)) / len(right) if right else 1.0)
    return float(np.mean(shares))


def exact_neighbours(source: VectorSource, queries: Floats, count: int) -> Ints:
    """The places [queries, count] of the nearest vectors, the best first; -1 where there are fewer."""
    best = np.full((len(queries), count), -np.inf, np.float32)
    places = np.full((len(queries), count), -1, np.int64)
    start = 0
    for vectors in source.chunks():
        scores = np.concatenate([best, queries @ vectors.T], axis=1)
        here = np.broadcast_to(np.arange(start, start + len(vectors)), (len(queries), len(vectors)))
        all_places = np.concatenate([places, here], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        best, places = np.take_along_axis(scores, order, 1), np.take_along_axis(all_places, order, 1)
        start += len(vectors)
    return places
