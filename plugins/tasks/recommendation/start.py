"""First weights in closed form: the towers begin as the best linear model of their size, not as noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import svds
from torch import Tensor

from taskloom.plugins.tasks.recommendation.learning import ItemIds
from taskloom.plugins.tasks.recommendation.schema import TrainConfig
from taskloom.plugins.tasks.recommendation.towers import ItemTower, UserTower

COMMON = 0.5
"""How much of the mean user is added to one of whom nothing is known; with n items known, it is that / (1 + n)."""
WELL_KNOWN = 100
"""Users of an item from which on its vector is as good as it gets."""
TYPICAL = 0.3
"""Root mean square of the first vectors' entries: of the order that an optimizer step is a small change of."""


def start_from_linear(item: ItemTower, user: UserTower, ids: ItemIds, chosen: sp.csr_matrix, config: TrainConfig) -> None:
    """Sets the first weights from `chosen` [users, items], 0/1.

    The linear autoencoder without a diagonal has a closed form (Steck 2019, https://doi.org/10.1145/3308558.3313710, eq. 8):
    with P = (X'X + lambda I)^-1, item j scores -sum_i P_ij / P_jj over the history's i. With X = U S V', off the diagonal
    -lambda P = V diag(s^2 / (s^2 + lambda)) V', which falls off quickly, so D leading singular vectors make two towers of
    it: E = V diag(s / sqrt(s^2 + lambda)) for histories, F_j = E_j / (lambda P_jj) for scores. E_j is F_j times a number, so an
    item needs one vector and one weight. Ridge regressions of both on the content are the item tower's first weights; what
    they leave over is the ids'. What users have in common is their mean; it stands for about half an item.
    """
    device = ids.content.device
    counts = np.asarray(chosen.sum(0), dtype=np.float64).ravel()
    scored, weights = linear_vectors(chosen, ids.item.shape[1], config.ridge, config.seed)
    damping = np.maximum(counts, 1.0)[:, None] ** config.damping
    scored, weights = scored / damping, weights * damping
    size = TYPICAL / max(float(np.sqrt((scored**2).mean())), 1e-9)
    everybody = (chosen @ (scored * weights)).mean(0) * size
    known = torch.from_numpy(np.sqrt(counts.clip(max=WELL_KNOWN))).float().to(device)
    with torch.no_grad():
        user.scale.fill_(config.sharpness / size**2)
        user.prior.copy_(torch.from_numpy(everybody).float() * COMMON * user.scale.cpu())
        for layer, values, left in ((item.to_item, scored * size, ids.item), (item.to_weight, weights, ids.weight)):
            target = torch.from_numpy(values).float().to(device)
            weight, bias = weighted_ridge(ids.content, target, known, config.content_ridge)
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
            left.copy_((target - layer(ids.content)) * ids.met.unsqueeze(-1))


def linear_vectors(
    chosen: sp.csr_matrix, size: int, ridge: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F [items, size] as above, and the number [items, 1] that makes each row E's; zeros in the columns that a small matrix
    hasn't got."""
    items = chosen.shape[1]
    rank = min(size, min(chosen.shape) - 1)
    history = np.zeros((items, size))
    if rank < 1:
        return history, np.ones((items, 1))
    first = np.random.default_rng(seed).standard_normal(min(chosen.shape))
    _, strengths, right = svds(chosen.astype(np.float64), k=rank, v0=first)
    order = np.argsort(-strengths)
    directions = right[order].T
    # A singular vector's sign is nobody's choice: the largest entry is positive, so that the same data gives the same vectors.
    largest = directions[np.abs(directions).argmax(0), np.arange(rank)]
    directions = directions * np.where(largest < 0, -1.0, 1.0)
    kept = strengths[order] ** 2 / (strengths[order] ** 2 + ridge)
    history[:, :rank] = directions * np.sqrt(kept)
    diagonal = np.maximum(1 - (directions**2 * kept).sum(1), 1e-3)[:, None]
    return history / diagonal, diagonal


def weighted_ridge(content: Tensor, target: Tensor, weights: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """(weight [D, C], bias [D]) of the linear map from content to target with the least weighted squares."""
    extended = torch.cat([content, torch.ones(len(content), 1, device=content.device)], dim=-1).double()
    weighted = extended * weights.double().unsqueeze(-1)
    penalty = ridge * weights.double().mean().clamp(min=1e-9) * torch.eye(extended.shape[1], device=content.device).double()
    solution = torch.linalg.solve(weighted.T @ extended + penalty, weighted.T @ target.double()).float()
    return solution[:-1].T, solution[-1]


def matrix_of(histories: Sequence[Sequence[int]], items: int) -> sp.csr_matrix:
    """[users, items], 1 where the user chose the item."""
    ends = np.cumsum([0, *(len(history) for history in histories)])
    columns = np.array([place for history in histories for place in sorted(history)], dtype=np.int64)
    return sp.csr_matrix((np.ones(len(columns), np.float32), columns, ends), shape=(len(histories), items))
