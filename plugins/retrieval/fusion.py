"""Fusion: one order from several searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Ranked = tuple[Mapping[int, float], float]
"""What a search found, its score by thing, best first; and what the search weighs."""


def convex_combination(lists: Iterable[Ranked]) -> dict[int, float]:
    """What each thing scores that any of the searches found: the weighted mean of its scores, where a search's last has 0 and
    its best 1, and 0 counts for a thing that it did not find (Bruch, Gai and Ingber, "An Analysis of Fusion Functions for
    Hybrid Retrieval", 2023, https://arxiv.org/abs/2210.11934, section 4, min-max).

    >>> convex_combination([({7: 0.9, 8: 0.5}, 1.0), ({8: 12.0, 9: 4.0}, 3.0)])
    {7: 0.25, 8: 0.75, 9: 0.0}
    """
    given = [(found, weight) for found, weight in lists if found]
    total = sum(weight for _, weight in given)
    fused: dict[int, float] = {}
    for found, weight in given:
        low, high = min(found.values()), max(found.values())
        share = weight / total if total else 0.0
        for thing, score in found.items():
            place = (score - low) / (high - low) if high > low else 1.0
            fused[thing] = fused.get(thing, 0.0) + share * place
    return fused


def reciprocal_rank_fusion(lists: Iterable[Ranked], k: int) -> dict[int, float]:
    """What each thing scores that any of the searches found: the sum of weight / (k + rank) over those that found it, ranks
    from 1 (Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods",
    SIGIR 2009; there k = 60 and no weights).

    >>> fused = reciprocal_rank_fusion([({7: 0.9, 8: 0.5}, 1.0), ({8: 12.0}, 1.0)], k=60)
    >>> fused[8] > fused[7]
    True
    """
    fused: dict[int, float] = {}
    for found, weight in lists:
        for rank, thing in enumerate(found, start=1):
            fused[thing] = fused.get(thing, 0.0) + weight / (k + rank)
    return fused
