"""A version to search, and how a search goes: dense and sparse candidates and those that the graph leads to, fused, and then
read from the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from taskloom.core.errors import InvalidInputError, UnsupportedError
from taskloom.core.knowledge import Document, Hit, IndexInfo, KnowledgeStats, Query, View
from taskloom.core.knowledge_graph import Neighbourhood
from taskloom.plugins.retrieval.dense import Floats
from taskloom.plugins.retrieval.files import disk_bytes
from taskloom.plugins.retrieval.filters import Ints, conditions_of
from taskloom.plugins.retrieval.fusion import Ranked, convex_combination, reciprocal_rank_fusion
from taskloom.plugins.retrieval.graph.expansion import Expansion
from taskloom.plugins.retrieval.graph.tables import NO_GRAPH
from taskloom.plugins.retrieval.segments import DenseSearch
from taskloom.plugins.retrieval.state import Mask, State
from taskloom.plugins.retrieval.store import PassageStore
from taskloom.plugins.retrieval.tokens import Tokenizer

UNIT = 1e-2
"""How far from 1 a vector's length may be: half precision and rounding, not a vector that nobody normalised."""


class StoredView(View):
    """Holds a state, and by it the indexes, until it is closed; `release` is called then, once."""

    def __init__(self, state: State, store: PassageStore, tokenizer: Tokenizer, release: Callable[[], None]) -> None:
        self.version = state.version
        self._state: State | None = state
        self._store = store
        self._tokenizer = tokenizer
        self._release = release

    def close(self) -> None:
        if self._state is not None:
            self._state = None
            self._release()

    def __del__(self) -> None:
        self.close()

    def _open_state(self) -> State:
        state = self._state
        if state is None:
            raise UnsupportedError("this view is closed; take another one from the knowledge base")
        return state

    def document(self, document_id: str) -> Document | None:
        self._open_state()
        return self._store.document(document_id, self.version)

    def spaces(self) -> frozenset[str]:
        return self._open_state().spaces

    def stats(self) -> KnowledgeStats:
        state = self._open_state()
        return KnowledgeStats(
            version=self.version,
            documents=self._store.counts(self.version)[0],
            passages=sum(state.languages.values()),
            languages=state.languages,
            disk_bytes=disk_bytes(self._store.folder),
            indexes=tuple(_index_info(name, space) for name, space in state.catalog.spaces.items()),
            graph=self._store.graph.info(self.version) if self._store.graph is not None else None,
        )

    def search(self, query: Query) -> list[Hit]:
        state = self._open_state()
        if query.limit < 1:
            raise InvalidInputError(f"a search for {query.limit} passages finds none; ask for at least one", field="limit")
        mask = state.mask(conditions_of(query.where))
        config = self._store.config
        expansion = self._expansion(state) if query.mode == "graph" else None
        by_words = query.mode == "sparse" or (expansion is not None and not query.vectors)
        vectors = {} if by_words else _checked(query, state.catalog.spaces)
        fused = query.mode in {"hybrid", "graph"} or len(vectors) > 1
        depth = max(query.limit, config.depth) if fused else query.limit
        dense = [self._dense(state, space, vector, depth, mask) for space, vector in vectors.items()]
        sparse = [] if query.mode == "dense" else [self._sparse(state, query.text, depth, mask)]
        led = expansion.scores(query.text, query.entities, mask) if expansion is not None else {}
        if fused:
            weighted: list[Ranked] = [(ranked, config.dense_weight) for ranked in dense]
            weighted += [(ranked, config.sparse_weight) for ranked in sparse]
            scores = self._fused(weighted)
            if led:
                scores = self._fused([*weighted, (self._led(led, scores, depth), config.graph_weight)])
            slots = np.fromiter(scores, np.int64, len(scores))
            best = self._ranked(state, slots, np.fromiter(scores.values(), np.float64, len(scores)), query.limit)
        else:
            best = (dense or sparse or [{}])[0]
        return self._hits(state, best, dense, sparse, led)

    def _fused(self, weighted: Sequence[Ranked]) -> dict[int, float]:
        config = self._store.config
        return convex_combination(weighted) if config.fusion == "scores" else reciprocal_rank_fusion(weighted, config.rrf_k)

    def _led(self, led: Mapping[int, float], fused: Mapping[int, float], depth: int) -> dict[int, float]:
        """The slots that the graph leads to, the strongest first. Many are equal, since they have the same names: what the
        texts' searches think of them comes before their ids then."""
        order = sorted(led, key=lambda slot: (-led[slot], -fused.get(slot, 0.0), slot))
        return {slot: led[slot] for slot in order[:depth]}

    def _expansion(self, state: State) -> Expansion:
        if self._store.graph is None:
            raise UnsupportedError(NO_GRAPH)
        return Expansion(self._store.graph, self._store.config, state.version, state.catalog.rows)

    @property
    def keeps_graph(self) -> bool:
        return self._store.graph is not None

    def neighbourhood(self, name: str, *, hops: int, limit: int) -> Neighbourhood:
        return self._expansion(self._open_state()).neighbourhood(name, hops, limit, self._store.passages)

    def _dense(self, state: State, space: str, vector: Floats, depth: int, mask: Mask) -> dict[int, float]:
        if not mask.count:
            return {}
        slots, scores = state.catalog.spaces[space].search(vector, depth, mask.allowed)
        return self._ranked(state, slots, scores, depth)

    def _sparse(self, state: State, text: str, depth: int, mask: Mask) -> dict[int, float]:
        if not mask.count:
            return {}
        tokens, catalog = self._tokenizer.tokens(text), state.catalog
        slots, scores = catalog.sparse.search(tokens, depth, catalog.rows, mask.allowed, mask.count)
        return self._ranked(state, slots, scores, depth)

    def _ranked(self, state: State, slots: Ints, scores: Any, count: int) -> dict[int, float]:
        """The best slots with their scores, best first, equal ones in the order of passage ids (read for ties only)."""
        order = np.argsort(-scores, kind="stable")
        slots, scores = slots[order], scores[order]
        if len(slots) > count:
            end = int(np.searchsorted(-scores, -scores[count - 1], side="right"))
            slots, scores = slots[:end], scores[:end]
        same = scores[1:] == scores[:-1]
        if same.any():
            tied = np.r_[same, False] | np.r_[False, same]
            rows = state.catalog.rows[slots]
            ids = self._store.passage_ids([int(row) for row in rows[tied]])
            names = [ids.get(int(row), "") for row in rows]
            again = sorted(range(len(slots)), key=lambda at: (-scores[at], names[at]))
            slots, scores = slots[again], scores[again]
        return dict(zip(slots[:count].tolist(), scores[:count].tolist(), strict=True))

    def _hits(
        self,
        state: State,
        best: Mapping[int, float],
        dense: list[dict[int, float]],
        sparse: list[dict[int, float]],
        led: Mapping[int, float],
    ) -> list[Hit]:
        rows = {slot: int(state.catalog.rows[slot]) for slot in best}
        passages = self._store.passages(list(rows.values()))
        return [
            Hit(
                passage=passages[rows[slot]],
                score=score,
                dense=max((found[slot] for found in dense if slot in found), default=None),
                sparse=next((found[slot] for found in sparse if slot in found), None),
                graph=led.get(slot),
            )
            for slot, score in best.items()
        ]


def _checked(query: Query, spaces: Mapping[str, DenseSearch]) -> dict[str, Floats]:
    """The query's vectors, if they are of this knowledge base's spaces. A knowledge base without vectors has no spaces, and
    nothing to find in any."""
    if not query.vectors:
        raise InvalidInputError(
            f"a {query.mode} search needs the query's vector in at least one space; or search with mode 'sparse'",
            field="vectors",
        )
    if not spaces:
        return {}
    checked = {}
    for name, vector in query.vectors.items():
        if name not in spaces:
            raise InvalidInputError(
                f"this knowledge base has no passages in space {name!r}; there are: {', '.join(sorted(spaces))}",
                field="vectors",
            )
        checked[name] = unit_vector(vector, spaces[name].dimensions, name, "vectors")
    return checked


def unit_vector(vector: Any, dimensions: int, space: str, field: str) -> Floats:
    """A float32 array [dimensions] of length 1, or `InvalidInputError`."""
    array = np.asarray(vector, np.float32)
    if array.shape != (dimensions,):
        raise InvalidInputError(f"a vector of space {space!r} has the shape ({dimensions},), not {array.shape}", field=field)
    length = float(np.sqrt((array.astype(np.float64) ** 2).sum()))
    if not abs(length - 1.0) <= UNIT:  # not true of nan either
        raise InvalidInputError(f"a vector of space {space!r} has length {length:.4g}; normalise it to 1", field=field)
    return array


def _index_info(name: str, search: DenseSearch) -> IndexInfo:
    segments = [*([search.base] if search.base else []), *search.later]
    return IndexInfo(
        space=name,
        kind=search.base.index.kind if search.base else "flat",
        vectors=sum(len(segment) for segment in segments),
        dimensions=search.dimensions,
        recall=search.base.index.recall if search.base else 1.0,
        memory_bytes=sum(segment.index.memory_bytes for segment in segments),
    )
