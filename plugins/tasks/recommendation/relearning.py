"""Training a finished recommender further, with its items' vectors and its towers as they are: what an optimizer needs to mend
what it did to the encoder that reads a user's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TARGET_SHARE = 0.2
"""Of a history, what must be found from the rest; `TrainConfig.target_share` is the same by default."""
MOST_TARGETS = 64
IN_WORDS = 0.5
"""Users of whom the latest items are told in words, and nothing else: so that the encoder has something to read, and what it
says is not drowned out by the rest of a history."""
MOST_IN_WORDS = 3
NEVER = -1e9
"""The logit of an item that is chosen already."""


@dataclass(frozen=True)
class Cut:
    """A history cut in two, by places: what is told (oldest first), or else what is told in words, and what is to be found."""

    told: list[int]
    in_words: list[int]
    wanted: list[int]


def cut_history(history: Sequence[int]) -> Cut:
    """Draws from torch's generator, whose state a checkpoint keeps. A user with one item must be found with nothing known."""
    places = torch.tensor(list(history), dtype=torch.long)
    share, words = torch.rand(2).tolist()
    order = torch.randperm(len(places))
    cut = min(max(1, round(2 * TARGET_SHARE * share * len(places))), len(places))
    told: list[int] = places[order[cut:].sort().values].tolist()
    wanted: list[int] = places[order[:cut]][:MOST_TARGETS].tolist()
    if words < IN_WORDS:
        return Cut([], told[-MOST_IN_WORDS:], wanted)
    return Cut(told, [], wanted)


def choice_loss(scores: Tensor, *, targets: Tensor, target_rows: Tensor, chosen: Tensor, chosen_rows: Tensor) -> Tensor:
    """Cross-entropy of each wanted item among all items, from `scores` [N, items]; a user's other choices are no negatives.
    Every user weighs the same, as in recall; one with nothing to be found weighs nothing."""
    own = torch.zeros_like(scores, dtype=torch.bool)
    own[chosen_rows, chosen] = True
    against = scores.masked_fill(own, NEVER).logsumexp(-1)
    wanted = scores[target_rows, targets]
    losses = torch.nn.functional.softplus(against[target_rows] - wanted)
    counts = torch.bincount(target_rows, minlength=len(scores))
    shares = counts.clamp(min=1).to(losses.dtype).reciprocal()[target_rows]
    return (losses * shares).sum() / (counts > 0).sum().clamp(min=1)
