"""What two towers need while they are trained, and not afterwards: a vector for each item's id, what the item tower is told
of each item, and the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from taskloom.plugins.tasks.recommendation.schema import TrainConfig
from taskloom.plugins.tasks.recommendation.towers import ItemTower, UserTower

NEVER = -1e9
"""The logit of an item that may not be a negative."""


class ItemIds(nn.Module):
    """What ids add to what the item tower makes of content: `item` [I, D] and `weight` [I, 1]. Items in nobody's history have
    nothing to learn an id from: `met` [I] is False for them.

    `content` [I, C] is what the item tower is told.
    """

    content: Tensor
    met: Tensor

    def __init__(self, content: Tensor, met: Tensor, dimensions: int) -> None:
        super().__init__()
        self.item = nn.Parameter(torch.zeros(len(content), dimensions))
        self.weight = nn.Parameter(torch.zeros(len(content), 1))
        # Made from data, so of no use to a checkpoint.
        self.register_buffer("content", content, persistent=False)
        self.register_buffer("met", met, persistent=False)

    def vectors(self, tower: ItemTower, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """Every item's vector [I, D] and its weight in a history [I, 1], with the ids of a random part hidden."""
        item, weight = tower(self.content)
        with_id = (self.met & (torch.rand(len(self.met), device=item.device) >= dropout)).unsqueeze(-1).to(item.dtype)
        return item + self.item * with_id, weight + self.weight * with_id


@dataclass(frozen=True)
class Choices:
    """A user of the training data, by places and numbers."""

    history: Sequence[int]
    user: int
    features: Sequence[int]


class Learning:
    """Draws what a user must find from what, and says how well it was found."""

    def __init__(
        self, item: ItemTower, user: UserTower, ids: ItemIds, config: TrainConfig, everybody: Sequence[Sequence[int]]
    ) -> None:
        self.item, self.user, self.ids, self.config = item, user, ids, config
        self.log_expected = expected_targets(everybody, len(ids.met), config).clamp(min=1e-12).log()

    def collate(self, chosen: Sequence[Choices]) -> Mapping[str, Any]:
        """Cuts each history in two at random: what the user tower is told, and what it must find. A user with one item must be
        found with nothing known. Draws from torch's generator, whose state a checkpoint keeps."""
        told: list[Tensor] = []
        targets: list[Tensor] = []
        users: list[int] = []
        for choices in chosen:
            history = torch.tensor(choices.history, dtype=torch.long)
            count = len(history)
            draw = float(torch.rand(()))
            wanted = min(count - 1, round(count * 2 * self.config.target_share * draw)) if count > 1 else count
            order = torch.randperm(count)
            cut = max(1, wanted) if count else 0
            targets.append(history[order[:cut]][: self.config.targets_per_user])
            told.append(history[order[cut:].sort().values])
            # A vector of a user's own must not take over what the history can say.
            users.append(choices.user if float(torch.rand(())) < 0.5 else 0)
        return {
            "history": torch.cat(told),
            "history_rows": rows_of([len(part) for part in told]),
            "from_end": torch.cat([torch.arange(len(part) - 1, -1, -1) for part in told]),
            "users": torch.tensor(users, dtype=torch.long),
            "features": torch.tensor([number for choices in chosen for number in choices.features], dtype=torch.long),
            "feature_rows": rows_of([len(choices.features) for choices in chosen]),
            "targets": torch.cat(targets),
            "target_rows": rows_of([len(part) for part in targets]),
            "chosen": torch.tensor([place for choices in chosen for place in choices.history], dtype=torch.long),
            "chosen_rows": rows_of([len(choices.history) for choices in chosen]),
        }

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Sampled softmax over the batch's own targets, each other user's being negatives, with the logQ correction (Yi et al.
        2019, https://doi.org/10.1145/3298689.3346996, eq. 3 to 5): a negative's logit is lowered by the log of how probable it
        is that the item is in the batch at all, or popular items would be punished for being there often. The target is always
        there for its own user, so its logit stays as it is. A user's other choices are no negatives. Every user weighs the
        same, as in recall."""
        item_vectors, weights = self.ids.vectors(self.item, self.config.id_dropout)
        users = self._users(item_vectors * weights, batch)
        candidates, place = batch["targets"].unique(return_inverse=True)
        logits = users @ item_vectors[candidates].T / self.config.temperature
        inclusion = -torch.expm1(-self.log_expected.to(logits.device)[candidates].exp() * len(users))
        corrected = logits - self.config.popularity * inclusion.log()
        own = torch.zeros(len(users), len(item_vectors), dtype=torch.bool, device=logits.device)
        own[batch["chosen_rows"], batch["chosen"]] = True
        against = corrected.masked_fill(own[:, candidates], NEVER).logsumexp(-1)
        if self.config.hard_negatives:
            against = torch.logaddexp(against, self._hard(users, item_vectors, own).logsumexp(-1))
        rows = batch["target_rows"]
        losses = softplus(against[rows] - logits[rows, place])
        shares = torch.bincount(rows, minlength=len(users)).to(losses.dtype).reciprocal()[rows]
        return (losses * shares).sum() / shares.sum()

    def _users(self, history_vectors: Tensor, batch: Mapping[str, Any]) -> Tensor:
        history = history_vectors[batch["history"]]
        return user_vectors(self.user, history, batch)

    def _hard(self, users: Tensor, item_vectors: Tensor, own: Tensor) -> Tensor:
        """Logits [N, h] of the items that the current vectors score best for each user, among those that nobody chose for
        them; searched exactly, as the index does."""
        with torch.no_grad():
            scores = (users @ item_vectors.T).masked_fill(own, NEVER)
            best = scores.topk(min(self.config.hard_negatives, scores.shape[1]), dim=-1).indices
        logits = torch.einsum("nd,nhd->nh", users, item_vectors[best]) / self.config.temperature
        return logits.masked_fill(own.gather(1, best), NEVER)


def user_vectors(tower: UserTower, history: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """[N, D] of the users of a batch whose histories have the vectors `history` [M, D]."""
    known = {"users": batch["users"], "features": batch["features"], "owners": batch["feature_rows"]}
    found: Tensor = tower(history, batch["history_rows"], batch["from_end"], **known)
    return found


def expected_targets(everybody: Sequence[Sequence[int]], items: int, config: TrainConfig) -> Tensor:
    """[I]: how often an item is a target of one user drawn at random, from the users' histories."""
    found = torch.zeros(items, dtype=torch.float64)
    for history in everybody:
        if len(history):
            drawn = min(max(1.0, config.target_share * len(history)), float(config.targets_per_user))
            found[torch.tensor(history, dtype=torch.long)] += drawn / len(history)
    return (found / max(1, len(everybody))).float()


def rows_of(counts: Sequence[int]) -> Tensor:
    """The row number of each part, row by row."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
