"""Bootstrap intervals for metrics of any task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
COVERAGE = 0.95
SEED = 13


def percentile_intervals(
    measure: Callable[[NDArray[np.intp]], Mapping[str, float]],
    rows: int,
    *,
    resamples: int = RESAMPLES,
    coverage: float = COVERAGE,
    seed: int = SEED,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap (Efron & Tibshirani 1993, section 13.3): `measure` takes row numbers, drawn with replacement, and
    gives the metrics on them. The same rows give the same intervals."""
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        for name, value in measure(random.integers(0, rows, rows)).items():
            drawn.setdefault(name, []).append(value)
    tails = [(1 - coverage) / 2, (1 + coverage) / 2]
    return {name: (float(low), float(high)) for name, (low, high) in ((n, np.quantile(v, tails)) for n, v in drawn.items())}
