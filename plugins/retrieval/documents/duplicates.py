"""The same text twice: exactly, by a digest, and nearly, by MinHash."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.knowledge import Document

BANDS = 16
ROWS = 4
"""A pair of similarity s is compared with probability 1 - (1 - s^4)^16: 0.9997 at 0.8, 0.64 at 0.5."""
SEED = 20_240_601
TOKEN = re.compile("[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U000323af]|[^\\W_]+")
SHINGLE = 5
"""Words, or Chinese characters, in a row."""


def content_key(document: Document) -> str:
    """The SHA-256 of what a cleaned document says: its text, title and question. Two with the same key are one document under
    two ids; what else they are described by (language, source, metadata) is not in it."""
    return sha256_hex(canonical_json([document.text, document.title, document.question]))


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """`document_id` is much like `like`, which came before it. `similarity` is the estimated Jaccard similarity of their
    shingles, 1.0 for the same ones."""

    document_id: str
    like: str
    similarity: float


def near_duplicates(documents: Iterable[Document], threshold: float = 0.8) -> Iterator[NearDuplicate]:
    """Documents that are nearly the same as an earlier one, each told once, with the one that is most like it: to look at, for
    nothing is left out for it. MinHash of five-word shingles (Broder, 1997) with 64 functions, whose error is about 0.06, and
    locality-sensitive hashing in 16 bands (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4); linear in the
    documents unless very many are alike. Texts of fewer than five words are not compared."""
    generator = np.random.default_rng(SEED)
    factors = generator.integers(1, 1 << 32, size=(BANDS * ROWS, 1), dtype=np.uint64) | np.uint64(1)
    offsets = generator.integers(0, 1 << 63, size=(BANDS * ROWS, 1), dtype=np.uint64)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    ids: list[str] = []
    signatures: list[NDArray[np.uint64]] = []
    for document in documents:
        shingles = _shingles(f"{document.question}\n{document.text}")
        if not shingles.size:
            continue
        signature = _signature(shingles, factors, offsets)
        keys = [(band, signature[band * ROWS : (band + 1) * ROWS].tobytes()) for band in range(BANDS)]
        candidates = sorted({place for key in keys for place in buckets[key][:20]})
        alike = [(float(np.mean(signatures[place] == signature)), -place) for place in candidates]
        best, place = max(alike, default=(-1.0, 0))
        if best >= threshold:
            yield NearDuplicate(document.document_id, ids[-place], best)
        for key in keys:
            buckets[key].append(len(ids))
        ids.append(document.document_id)
        signatures.append(signature)


def _shingles(text: str) -> NDArray[np.uint64]:
    """Hashes of the different runs of five tokens in a text."""
    tokens = [zlib.crc32(token.encode("utf-8", "replace")) for token in TOKEN.findall(text.lower())]
    if len(tokens) < SHINGLE:
        return np.empty(0, dtype=np.uint64)
    numbers = np.array(tokens, dtype=np.uint64)
    mixed = np.zeros(len(numbers) - SHINGLE + 1, dtype=np.uint64)
    for step in range(SHINGLE):  # arithmetic modulo 2^64
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + numbers[step : step + len(mixed)]
    return np.unique(mixed)


def _signature(shingles: NDArray[np.uint64], factors: NDArray[np.uint64], offsets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The smallest value of each hash function [64]: multiply-add modulo 2^64, of which the upper half counts."""
    lowest = np.full(len(factors), np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(shingles), 4096):
        part = shingles[start : start + 4096]
        values = (((part ^ (part >> np.uint64(31))) * factors + offsets) >> np.uint64(32)).min(axis=1)
        lowest = np.minimum(lowest, values)
    return lowest
