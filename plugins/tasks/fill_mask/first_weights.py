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

from taskloom.plugins.backbones.loading import Backbone
from taskloom.plugins.tasks.fill_mask.model import FillMaskModel

WINDOW = 5
"""Neighbours on each side; one that is d tokens away weighs 1 / d."""
TOKENS_COUNTED = 10_000_000
TOKENS_AT_ONCE = 2_000_000
SMOOTHING = 0.75


def set_first_weights(model: FillMaskModel, ids: NDArray[Any], donor: Backbone | None = None) -> None:
    """Sets token embeddings and the bias of the logits from a token file's ids, special tokens' embeddings excepted. Draws from
    torch's generator. The length of an embedding stays what it was on average.

    Layers that come from a `donor` expect embeddings that lie as its own do: the new ones get the mean of the donor's and its
    variance along each of its principal axes, the first axis of the ones on the first of the others and so on; and special
    tokens that it has as well get its vectors."""
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
        if donor is not None:
            _lie_as(donor, model.processor, table, known)
        share = torch.from_numpy((counts + 1) / (counts.sum() + len(counts)))
        head.bias.copy_(share.log() - share.log().mean())
        head.bias[special] = head.bias.min()


def _lie_as(donor: Backbone, processor: Any, table: Tensor, known: Tensor) -> None:
    theirs = donor.model.get_input_embeddings().weight
    mean, spread, axes = _principal(theirs)
    own_mean, own_spread, own_axes = _principal(table[known])
    scores = (table[known] - own_mean) @ own_axes.T / own_spread.clamp_min(1e-6)
    table[known] = scores * spread @ axes + mean
    names = donor.tokenizer.processor.special_tokens_map
    for role, token in processor.special_tokens_map.items():
        if role in names:
            place = donor.tokenizer.processor.convert_tokens_to_ids(names[role])
            table[processor.convert_tokens_to_ids(token)] = theirs[place]


def _principal(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [H], standard deviations [H] along the principal axes, largest first, and the axes [H, H] in rows."""
    mean = table.mean(0)
    variance, axes = torch.linalg.eigh((table - mean).T @ (table - mean) / len(table))
    return mean, variance.flip(0).clamp_min(0).sqrt(), axes.flip(1).T


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
