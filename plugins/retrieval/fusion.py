"""Reciprocal-rank fusion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def reciprocal_rank_fusion(lists: Iterable[tuple[Sequence[int], float]], k: int) -> dict[int, float]:
    """What each thing scores that is in any of the ranked lists: the sum of weight / (k + rank) over the lists that have it,
    ranks from 1 (Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning
    methods", SIGIR 2009; there k = 60 and no weights).

    >>> fused = reciprocal_rank_fusion([([7, 8], 1.0), ([8], 1.0)], k=60)
    >>> fused[8] > fused[7]
    True
    """
    fused: dict[int, float] = {}
    for ranked, weight in lists:
        for rank, thing in enumerate(ranked, start=1):
            fused[thing] = fused.get(thing, 0.0) + weight / (k + rank)
    return fused
