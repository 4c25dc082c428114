"""What a recommender must beat: popularity, item-based neighbours, matrix factorization. Each scores every item for users
that are rows of a sparse 0/1 matrix [users, items]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Scorer = Callable[[NDArray[np.intp]], Floats]
"""Row numbers in, scores [rows, items] out."""

NEIGHBOURS = (10, 20, 50)
SHRINKAGE = 10.0
FACTORS = ((64, 1.0, 20.0), (128, 1.0, 20.0), (256, 1.0, 40.0))
"""(factors, confidence, regularization) of the factorizations that are tried."""
SWEEPS = 6
SEED = 13


@dataclass(frozen=True)
class Baseline:
    """One setting of one method; `fit` makes its scorer."""

    method: str
    setting: str
    fit: Callable[[], Scorer]


def baselines(chosen: sp.csr_matrix) -> Iterator[Baseline]:
    """Every setting of every method, in a grid small enough to run with each report."""
    yield Baseline("popularity", "", lambda: popularity(chosen))
    for neighbours in NEIGHBOURS:
        yield Baseline("item-kNN", f"k={neighbours}", lambda k=neighbours: item_neighbours(chosen, k))  # type: ignore[misc]
    for factors, confidence, regularization in FACTORS:
        yield Baseline(
            "matrix factorization",
            f"f={factors}, alpha={confidence:g}, lambda={regularization:g}",
            lambda f=factors, a=confidence, r=regularization: factorization(chosen, f, a, r),  # type: ignore[misc]
        )


def popularity(chosen: sp.csr_matrix) -> Scorer:
    """How many users chose the item."""
    counts = np.asarray(chosen.sum(0), dtype=np.float32).ravel()
    return lambda rows: np.tile(counts, (len(rows), 1))


def item_neighbours(chosen: sp.csr_matrix, neighbours: int, shrinkage: float = SHRINKAGE) -> Scorer:
    """Sum of the cosines of an item and the history's, each item's `neighbours` nearest alone (Deshpande & Karypis 2004,
    https://doi.org/10.1145/963770.963776), with `shrinkage` in the denominator against neighbours known by few users."""
    together = (chosen.T @ chosen).toarray().astype(np.float32)
    norms = np.sqrt(np.diag(together))
    cosines = together / (np.outer(norms, norms) + shrinkage)
    np.fill_diagonal(cosines, 0)
    if neighbours < cosines.shape[1]:
        least = np.partition(cosines, -neighbours, axis=1)[:, -neighbours]
        cosines[cosines < least[:, None]] = 0
    near = sp.csr_matrix(cosines).T.tocsr()
    return lambda rows: (chosen[rows] @ near).toarray()


def factorization(
    chosen: sp.csr_matrix, factors: int, confidence: float, regularization: float, sweeps: int = SWEEPS
) -> Scorer:
    """Alternating least squares for implicit feedback (Hu, Koren & Volinsky 2008, https://doi.org/10.1109/ICDM.2008.22,
    eq. 4 and 5), with confidence 1 + `confidence` for each choice."""
    draw = np.random.default_rng(SEED)
    items = (draw.standard_normal((chosen.shape[1], factors)) / np.sqrt(factors) * 0.1).astype(np.float32)
    users = np.empty(0, dtype=np.float32)
    by_item = chosen.T.tocsr()
    for _ in range(sweeps):
        users = _solve(chosen, items, confidence, regularization)
        items = _solve(by_item, users, confidence, regularization)
    users = _solve(chosen, items, confidence, regularization)
    return lambda rows: users[rows] @ items.T


def _solve(chosen: sp.csr_matrix, fixed: Floats, confidence: float, regularization: float) -> Floats:
    """The rows' factors that fit best, given the columns': one linear system each."""
    size = fixed.shape[1]
    common = fixed.T @ fixed + regularization * np.eye(size, dtype=np.float32)
    found = np.zeros((chosen.shape[0], size), dtype=np.float32)
    for row in range(chosen.shape[0]):
        own = fixed[chosen.indices[chosen.indptr[row] : chosen.indptr[row + 1]]]
        if len(own):
            found[row] = np.linalg.solve(common + confidence * (own.T @ own), (1 + confidence) * own.sum(0))
    return found
