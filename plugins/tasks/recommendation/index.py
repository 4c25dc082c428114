"""The item index: exact search by inner product in FAISS, among the items that a request allows."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class ItemIndex:
    """Vectors [items, D] by place. Exact: at some ten thousand items a scan takes well under a millisecond, and an approximate
    index would cost recall, most of all under filters. Read by several threads at a time; never changed."""

    def __init__(self, vectors: Floats) -> None:
        self._flat = faiss.IndexFlatIP(vectors.shape[1])
        self._flat.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def search(self, vector: Floats, count: int, allowed: NDArray[np.bool_] | None = None) -> tuple[Floats, NDArray[np.int64]]:
        """The `count` best places for a vector [D], best first, and their scores; fewer where fewer are `allowed` [items].

        Equal scores come in the order of places. One vector at a time: FAISS adds up products of many another way, and a
        request must get the same answer alone and in a batch.
        """
        count = min(count, self._flat.ntotal if allowed is None else int(allowed.sum()))
        if count == 0:
            return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        parameters = None
        if allowed is not None:
            library: Any = faiss  # its stubs are those of the C++ classes, without what its Python layer adds
            selector = library.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            parameters = library.SearchParameters(sel=selector)
        scores, places = self._flat.search(vector.reshape(1, -1).astype(np.float32), count, params=parameters)
        order = np.lexsort((places[0], -scores[0]))
        return scores[0][order], places[0][order]
