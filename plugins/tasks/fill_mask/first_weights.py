"""First weights of a new network that say already which tokens are frequent, and which stand in like company.

A masked language model that starts from random weights spends its first steps on just that, thousands of them. The vectors are
those of Levy, Goldberg and Dagan 2015 (https://doi.org/10.1162/tacl_a_00134): a truncated singular value decomposition of the
positive pointwise mutual information of tokens and their neighbours, with contexts smoothed by 0.75 (section 3.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.plugins.tasks.fill_mask.model import FillMaskModel

WINDOW = 5
"""Neighbours on each side; one that is d tokens away weighs 1 / d."""
TOKENS_COUNTED = 10_000_000
TOKENS_AT_ONCE = 2_000_000
SMOOTHING = 0.75


def set_first_weights(model: FillMaskModel, ids: NDArray[Any]) -> None:
    """Sets token embeddings and the bias of the logits from a token file's ids, special tokens' embeddings excepted. Draws from
    torch's generator. The length of an embedding stays what it was on average."""
    table = model.parts.backbone.model.get_input_embeddings().weight
    head = model.parts.whole.get_output_embeddings()
    counts = np.bincount(ids[:TOKENS_COUNTED], minlength=len(table))
    special = model.processor.all_special_ids
    with torch.no_grad():
        vectors = cooccurrence_vectors(ids[:TOKENS_COUNTED], len(table), table.shape[1])
        length = table.norm(dim=1).mean()
        norms = vectors.norm(dim=1, keepdim=True)
        known = norms.squeeze(1) > 0
        known[special] = False
        table[known] = (vectors[known] / norms[known] * length).to(table.dtype)
        share = torch.from_numpy((counts + 1) / (counts.sum() + len(counts)))
        head.bias.copy_(share.log() - share.log().mean())
        head.bias[special] = head.bias.min()


def cooccurrence_vectors(ids: NDArray[Any], vocabulary: int, width: int) -> Tensor:
    """[V, width]; zeros for tokens that are not there."""
    from scipy.sparse import coo_array, csr_array

    total = csr_array((vocabulary, vocabulary), dtype=np.float64)
    for start in range(0, len(ids), TOKENS_AT_ONCE):
        part = ids[start : start + TOKENS_AT_ONCE].astype(np.int32)
        for distance in range(1, min(WINDOW, len(part) - 1) + 1):
            weights = np.full(len(part) - distance, 1 / distance)
            pairs = coo_array((weights, (part[:-distance], part[distance:])), shape=total.shape)
            total = total + pairs.tocsr()
    both = (total + total.T).tocoo()
    rows = np.asarray(both.sum(1)).ravel()
    contexts = rows**SMOOTHING
    expected = rows[both.row] * contexts[both.col] / contexts.sum()
    information = np.log(both.data / expected)
    positive = information > 0
    table = torch.zeros(vocabulary, vocabulary)
    place = torch.from_numpy(np.stack([both.row[positive], both.col[positive]]).astype(np.int64))
    table[place[0], place[1]] = torch.from_numpy(information[positive].astype(np.float32))
    rank = min(width, vocabulary)
    left, values, _ = torch.svd_lowrank(table, q=rank, niter=2)
    found = left * values.sqrt()
    there = torch.from_numpy(rows > 0)
    found[there] -= found[there].mean(0)
    found[~there] = 0
    return torch.nn.functional.pad(found, (0, width - rank))
