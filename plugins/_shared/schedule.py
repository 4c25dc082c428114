"""In which order a training takes its rows, and how much it learns from each batch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

GROUPED_BATCHES = 50
"""Batches that are sorted by length together: enough that texts of like length meet, few enough that order stays random."""


def batches_of_epoch(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Every index once, shuffled, in batches of like length. The order depends on the arguments alone, so that a resumed
    training need not keep it."""
    order = list(range(len(lengths)))
    shuffler = random.Random(f"{seed}:{epoch}")
    shuffler.shuffle(order)
    window = batch_size * GROUPED_BATCHES
    found: list[list[int]] = []
    for start in range(0, len(order), window):
        group = sorted(order[start : start + window], key=lengths.__getitem__)
        found += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    shuffler.shuffle(found)
    return found


def micro_batches(lengths: Sequence[int], most_rows: int, most_length: int | None) -> list[slice]:
    """Slices of neighbours, at most `most_rows` of them and `most_length` together; what is longer by itself is alone in one.

    >>> micro_batches([3, 3, 3, 9, 1], most_rows=2, most_length=8)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    found: list[slice] = []
    start = total = 0
    for place, length in enumerate(lengths):
        too_long = most_length is not None and total + length > most_length
        if place > start and (place - start == most_rows or too_long):
            found.append(slice(start, place))
            start, total = place, 0
        total += length
    return [*found, slice(start, len(lengths))] if lengths else []


def rate_factor(step: int, total: int, warmup_ratio: float) -> float:
    """Linear warm-up, then half a cosine to 0 (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5)."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
