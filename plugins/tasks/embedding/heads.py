"""From hidden states to vectors of length 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from taskloom.plugins.tasks.embedding.schema import Pooling


class VectorHead(nn.Module):
    """Pooling and length 1. It has no weights."""

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pool = mean_of_each if pooling == "mean" else first_of_each

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states [T, H] of N sequences of `lengths` [N] to vectors [N, H], in fp32."""
        return normalize(self.pool(hidden, lengths).float(), dim=-1)


def mean_of_each(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each sequence's hidden states, [T, H] to [N, H], summed in fp32 whatever the input's precision."""
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    total = torch.zeros(len(lengths), hidden.shape[1], dtype=torch.float32, device=hidden.device)
    return total.index_add(0, owner, hidden.float()) / lengths.unsqueeze(1)


def first_of_each(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The first hidden state of each sequence, [T, H] to [N, H]."""
    return hidden[lengths.cumsum(0) - lengths]
