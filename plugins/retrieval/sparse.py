"""BM25 over tokens: a tantivy index that is built once, and small blocks beside it for what came later.

Both are scored with the statistics of both (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond",
2009, in Lucene's form, which is tantivy's): tantivy's terms are boosted by the ratio of the common inverse document frequency
to its own. So a passage's score does not depend on which of the two it is in, but for tantivy's rounding of lengths from 40
tokens on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tantivy
from numpy.typing import NDArray

from taskloom.plugins.retrieval.filters import Bools, Ints

Floats = NDArray[np.float32]

K1 = 1.2
B = 0.75
"""tantivy's; they are not to be set there."""
WRITER_BYTES = 128_000_000
FEW = 2_000
"""So few allowed passages are put into the query; more are picked from the ranked hits."""
MOST_TIES = 64
"""How many times the count is fetched to see the end of a tie."""
SPACES = "tokens"


def _idf(passages: int, having: int) -> float:
    return math.log(1.0 + (passages - having + 0.5) / (having + 0.5))


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("row", indexed=True, fast=True)
    builder.add_text_field("text", tokenizer_name=SPACES, index_option="freq")
    return builder.build()


def _with_tokenizer(index: Any) -> Any:
    index.register_tokenizer(SPACES, tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
    return index


def write_sparse(folder: Path, passages: Iterable[tuple[int, Sequence[str]]]) -> tuple[int, int]:
    """Writes an index of passages (row, tokens) into an empty folder; returns how many there were, and their tokens."""
    index = _with_tokenizer(tantivy.Index(_schema(), path=str(folder), reuse=False))
    writer = index.writer(WRITER_BYTES, 1)
    count = length = 0
    for row, tokens in passages:
        document = tantivy.Document()
        document.add_integer("row", row)
        document.add_text("text", " ".join(tokens))
        writer.add_document(document)
        count += 1
        length += len(tokens)
    writer.commit()
    writer.wait_merging_threads()
    return count, length


class SparseIndex:
    """What `write_sparse` wrote, opened. Thread-safe."""

    def __init__(self, folder: Path, last_row: int, length: int) -> None:
        self.last_row = last_row
        self.length = length
        self._index = _with_tokenizer(tantivy.Index.open(str(folder)))
        self._index.config_reader("manual", 0)  # else a thread watches the folder for ever
        self._index.reload()
        self._schema = self._index.schema
        self._searcher = self._index.searcher()

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def having(self, token: str) -> int:
        return int(self._searcher.doc_freq("text", token))

    def search(self, boosts: Mapping[str, float], limit: int, only: Sequence[int] | None = None) -> tuple[Ints, Floats]:
        """The rows that score best, best first, and their scores."""
        query, should = tantivy.Query, tantivy.Occur.Should
        terms = [
            (should, query.boost_query(query.term_query(self._schema, "text", token, "freq"), boost))
            for token, boost in boosts.items()
        ]
        asked = query.boolean_query(terms)
        if only is not None:
            among = query.const_score_query(query.term_set_query(self._schema, "row", list(only)), 0.0)
            asked = query.boolean_query([(tantivy.Occur.Must, among), (tantivy.Occur.Must, asked)])
        hits = self._searcher.search(asked, limit, count=False).hits
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        return np.array(rows, np.int64), np.array([score for score, _ in hits], np.float32)


@dataclass(frozen=True)
class Block:
    """A few passages' tokens, inverted: for each token, who has it and how often. Never changed."""

    slots: Ints
    lengths: NDArray[np.float64]
    postings: Mapping[str, tuple[Ints, NDArray[np.float64]]]

    def __len__(self) -> int:
        return len(self.slots)

    def having(self, token: str) -> int:
        return len(self.postings[token][0]) if token in self.postings else 0

    def search(self, idf: Mapping[str, float], average: float, count: int, allowed: Bools | None) -> tuple[Ints, Floats]:
        """At least the `count` best of the allowed slots that have any of the tokens."""
        scores = np.zeros(len(self))
        norms = K1 * (1.0 - B + B * self.lengths / average)
        for token, weight in idf.items():
            if token in self.postings:
                who, times = self.postings[token]
                scores[who] += weight * (K1 + 1.0) * times / (times + norms[who])
        if allowed is not None:
            scores[~allowed[self.slots]] = 0.0
        found = np.flatnonzero(scores)
        if len(found) > count:
            found = found[scores[found] >= np.partition(scores[found], -count)[-count]]
        return self.slots[found], scores[found].astype(np.float32)


def block_of(slots: Ints, tokens: Sequence[Sequence[str]]) -> Block:
    who: dict[str, list[int]] = {}
    times: dict[str, list[int]] = {}
    for place, several in enumerate(tokens):
        for token, number in Counter(several).items():
            who.setdefault(token, []).append(place)
            times.setdefault(token, []).append(number)
    postings = {token: (np.array(places, np.int64), np.array(times[token], np.float64)) for token, places in who.items()}
    return Block(slots, np.array([len(several) for several in tokens], np.float64), postings)


def merged(first: Block, second: Block) -> Block:
    postings = dict(first.postings)
    for token, (who, times) in second.postings.items():
        shifted = who + len(first)
        if token in postings:
            earlier, earlier_times = postings[token]
            postings[token] = (np.concatenate([earlier, shifted]), np.concatenate([earlier_times, times]))
        else:
            postings[token] = (shifted, times)
    return Block(np.concatenate([first.slots, second.slots]), np.concatenate([first.lengths, second.lengths]), postings)


@dataclass(frozen=True)
class SparseSearch:
    """The passages of one state: in the index, if there is one, and in blocks beside it."""

    index: SparseIndex | None
    blocks: tuple[Block, ...]

    def search(self, tokens: Sequence[str], count: int, rows: Ints, allowed: Bools | None, some: int) -> tuple[Ints, Floats]:
        """Slots and scores of the best passages, at least `count` of them where there are as many. `rows` [slots] says which
        passage is in which slot, `allowed` [slots] which may be found, and `some` how many those are."""
        wanted = sorted(set(tokens))
        passages = sum(len(block) for block in self.blocks) + (len(self.index) if self.index else 0)
        if not wanted or not passages:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        length = sum(float(block.lengths.sum()) for block in self.blocks) + (self.index.length if self.index else 0)
        indexed = {token: self.index.having(token) if self.index else 0 for token in wanted}
        idf = {token: _idf(passages, indexed[token] + sum(block.having(token) for block in self.blocks)) for token in wanted}
        parts = [block.search(idf, max(length / passages, 1.0), count, allowed) for block in self.blocks]
        if self.index is not None:
            boosts = {token: idf[token] / _idf(len(self.index), indexed[token]) for token in wanted if indexed[token]}
            if boosts:
                parts.append(_indexed(self.index, boosts, count, rows, allowed=allowed, some=some))
        slots, scores = (np.concatenate(several) for several in zip(*parts, strict=True)) if parts else ([], [])
        return np.asarray(slots, np.int64), np.asarray(scores, np.float32)


def _indexed(
    index: SparseIndex, boosts: Mapping[str, float], count: int, rows: Ints, *, allowed: Bools | None, some: int
) -> tuple[Ints, Floats]:
    only = None
    if allowed is not None and some <= FEW and some < len(index) // 4:
        only = rows[np.flatnonzero(allowed)].tolist()
        if not only:
            return np.empty(0, np.int64), np.empty(0, np.float32)
    # The index allocates for as many as it is asked for.
    all_there_are = len(index) if only is None else len(only)
    spread = 1.0 if allowed is None or only is not None else len(rows) / max(some, 1)
    limit = min(int((count + count // 4 + 8) * spread), all_there_are)
    most = MOST_TIES * limit
    while True:
        found, scores = index.search(boosts, limit, only)
        slots = np.searchsorted(rows, found)
        there = slots < len(rows)
        there[there] = rows[slots[there]] == found[there]
        if allowed is not None:
            there[there] = allowed[slots[there]]
        good = scores[there]
        enough = len(good) >= count and (scores[-1] < good[count - 1] or limit > most)
        if len(found) < limit or limit == all_there_are or enough:
            return slots[there], good
        limit = min(4 * limit, all_there_are)
