"""From hidden states to vectors of length 1."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import normalize

from taskloom.plugins._shared.pooling import first_of_each, mean_of_each
from taskloom.plugins.tasks.embedding.schema import Pooling


class VectorHead(nn.Module):
    """Pooling and length 1. It has no weights."""

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pool = mean_of_each if pooling == "mean" else first_of_each

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states [T, H] of N sequences of `lengths` [N] to vectors [N, H], in fp32."""
        return normalize(self.pool(hidden, lengths).float(), dim=-1)
