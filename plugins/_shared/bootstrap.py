"""Bootstrap intervals for metrics of any task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
COVERAGE = 0.95
SEED = 13


Measure = Callable[[NDArray[np.intp]], Mapping[str, float]]
"""Takes row numbers, drawn with replacement, and gives the metrics on them."""


def replicates(measure: Measure, rows: int, *, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, tuple[float, ...]]:
    """The metrics on each of the bootstrap's resamples. Number i of every call with as many rows has drawn the same ones:
    the replicates of two models on the same rows are paired."""
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        for name, value in measure(random.integers(0, rows, rows)).items():
            drawn.setdefault(name, []).append(float(value))
    return {name: tuple(values) for name, values in drawn.items()}


def intervals_of(drawn: Mapping[str, Sequence[float]], coverage: float = COVERAGE) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap (Efron & Tibshirani 1993, section 13.3) from replicates."""
    tails = [(1 - coverage) / 2, (1 + coverage) / 2]
    return {name: (float(low), float(high)) for name, (low, high) in ((n, np.quantile(v, tails)) for n, v in drawn.items())}


def percentile_intervals(
    measure: Measure,
    rows: int,
    *,
    resamples: int = RESAMPLES,
    coverage: float = COVERAGE,
    seed: int = SEED,
) -> dict[str, tuple[float, float]]:
    """The intervals of what `measure` gives. The same rows give the same intervals."""
    return intervals_of(replicates(measure, rows, resamples=resamples, seed=seed), coverage)
