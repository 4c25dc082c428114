"""One vector for each text, from the hidden states of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_of_each(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each sequence's hidden states, [T, H] to [N, H], summed in fp32 whatever the input's precision."""
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    total = torch.zeros(len(lengths), hidden.shape[1], dtype=torch.float32, device=hidden.device)
    return total.index_add(0, owner, hidden.float()) / lengths.unsqueeze(1)


def first_of_each(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The first hidden state of each sequence, [T, H] to [N, H]."""
    return hidden[lengths.cumsum(0) - lengths]
