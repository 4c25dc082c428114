"""From hidden states to logits: the states of two entities and of the whole text, and a small network on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taskloom.plugins._shared.pooling import first_of_each, mean_of_each

STATES = 5
"""The text's mean; of head and tail each the opening marker's state and the mean."""


class PairHead(nn.Module):
    """Two layers on five states side by side: the mean of the text, and of each entity its opening marker (Baldini Soares et
    al. 2019, figure 3e) and the mean of its tokens (Wu & He 2019, eq. 1)."""

    def __init__(self, hidden_size: int, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Linear(STATES * hidden_size, width)
        self.outer = nn.Linear(width, classes)

    def forward(self, hidden: Tensor, lengths: Tensor, *entities: tuple[Tensor, Tensor]) -> Tensor:
        """Hidden states [T, H] of a ragged batch of N texts to logits [N, classes]. The `entities` are the heads and the tails,
        each as the places of all their tokens, one text after the other, and [N] how many each text has of them."""
        states = [mean_of_each(hidden, lengths)]
        for places, sizes in entities:
            entity = hidden[places]
            states += [first_of_each(entity, sizes).float(), mean_of_each(entity, sizes)]
        pair = self.dropout(torch.cat(states, dim=1).to(self.inner.weight.dtype))
        logits: Tensor = self.outer(self.dropout(nn.functional.gelu(self.inner(pair))))
        return logits
