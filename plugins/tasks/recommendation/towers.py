"""The two towers: what makes a vector of a user, and what makes the vectors of an item. Their inner product is the score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taskloom.plugins.tasks.recommendation.schema import TowerConfig

STRONGEST = 3.0
"""Limit of an item's attention logit: with a longer leash single items take over whole histories."""


class ItemTower(nn.Module):
    """From what is known of items without an id (`content` [N, C]: the text's embedding, then one column per attribute value)
    to their vectors [N, D], and to how much each weighs in a history [N, 1]."""

    def __init__(self, content: int, config: TowerConfig) -> None:
        super().__init__()
        size = config.dimensions
        self.to_item = nn.Linear(content, size)
        self.to_weight = nn.Linear(content, 1)
        self.bend = nn.Sequential(nn.Linear(content, config.hidden), nn.GELU(), nn.Linear(config.hidden, size))
        silence(self.bend[-1])

    def forward(self, content: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_item(content) + self.bend(content), self.to_weight(content)


class UserTower(nn.Module):
    """From a history to the user's vector: items weighted by a learnt attention and by how recent they are, and added up; the
    sum itself, and what a hidden layer makes of it. Users and features that the model knows add a vector each to the sum."""

    def __init__(self, config: TowerConfig, users: int, features: int) -> None:
        super().__init__()
        size = config.dimensions
        self.recent = config.recency
        self.attention = nn.Linear(size, 1, bias=False)
        nn.init.zeros_(self.attention.weight)
        self.recency = nn.Parameter(torch.zeros(config.recency)) if config.recency else None
        self.scale = nn.Parameter(torch.ones(1))
        self.hidden = nn.Linear(size + 1, config.hidden)
        self.out = nn.Linear(config.hidden, size)
        silence(self.out)
        self.prior = nn.Parameter(torch.zeros(size))
        """What users have in common; it fades as more is known of one."""
        self.users = nn.Embedding(users + 1, size, padding_idx=0) if users else None
        self.features = nn.Embedding(features, size) if features else None
        for table in (self.users, self.features):
            if table is not None:
                nn.init.zeros_(table.weight)

    def forward(
        self, history: Tensor, rows: Tensor, from_end: Tensor, *, users: Tensor, features: Tensor, owners: Tensor
    ) -> Tensor:
        """User vectors [N, D]. `history` [M, D] are vectors of chosen items, `rows` [M] whose they are (0..N-1) and
        `from_end` [M] their place, 0 the latest. `users` [N] are known users, 0 for nobody; `features` [F] known features of
        the users in `owners` [F]."""
        count = users.shape[0]
        logits = self.attention(history).squeeze(-1).clamp(-STRONGEST, STRONGEST)
        if self.recency is not None:
            logits = logits + torch.cat([self.recency, self.recency.new_zeros(1)])[from_end.clamp(max=self.recent)]
        mixed = history.new_zeros(count, history.shape[1]).index_add(0, rows, history * logits.exp().unsqueeze(-1))
        if self.users is not None:
            mixed = mixed + self.users(users)
        if self.features is not None:
            mixed = mixed.index_add(0, owners, self.features(features))
        sizes = history.new_zeros(count).index_add(0, rows, history.new_ones(len(rows)))
        known = torch.cat([mixed / sizes.clamp(min=1).sqrt().unsqueeze(-1), (1 + sizes).log().unsqueeze(-1)], dim=-1)
        common = self.prior / (1 + sizes).unsqueeze(-1)
        found: Tensor = self.scale * mixed + self.out(torch.tanh(self.hidden(known))) + common
        return found


def silence(layer: nn.Module) -> None:
    """Makes a last layer add nothing, until it learns to."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
