"""What is hidden of training rows, drawn anew each time (dynamic masking, Liu et al. 2019, https://arxiv.org/abs/1907.11692).

Each word is hidden with the same chance by itself, so that the expected share of tokens is the rate whatever the words'
lengths. What is hidden together shares its fate: of ten words eight become `[MASK]`, one other tokens, and one stays (Devlin et
al. 2018, https://arxiv.org/abs/1810.04805, section 3.1; for spans Joshi et al. 2020, https://arxiv.org/abs/1907.10529, section
3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taskloom.plugins.tasks.fill_mask.schema import Masking

MASKED, REPLACED = 0.8, 0.1


@dataclass(frozen=True)
class MaskedRows:
    """Rows [N, L] to read, the flat places [M] of hidden tokens in them, and what was there [M]."""

    ids: Tensor
    places: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Masker:
    """`special` [V] is True for ids that are never hidden, nor put in the place of others."""

    mask_id: int
    special: Tensor
    masking: Masking = "word"
    rate: float = 0.15
    longest_word: int = 10
    span_stop: float = 0.2
    longest_span: int = 10

    def hide(self, ids: Tensor, starts: Tensor) -> MaskedRows:
        """Ids and word starts [N, L], the first token of each row one that starts a word; draws from torch's generator."""
        units = (torch.ones_like(starts) if self.masking == "character" else starts).flatten().cumsum(0) - 1
        flat = ids.flatten()
        count = int(units[-1]) + 1
        size = torch.bincount(units, minlength=count)
        special = torch.bincount(units, weights=self.special[flat].double(), minlength=count) > 0
        allowed = ~special & (size <= self.longest_word)
        if self.masking == "span":
            chosen = self._spans(units.view(ids.shape)) & allowed
            together = chosen & ~torch.cat([chosen.new_zeros(1), chosen[:-1]])
            group = (together.cumsum(0) - 1).clamp(min=0)
        else:
            chosen = (torch.rand(count) < self.rate) & allowed
            group = torch.arange(count)
        fate = torch.rand(count)[group]
        hidden = chosen[units]
        places = torch.nonzero(hidden).squeeze(1)
        own = fate[units[places]]
        ordinary = torch.nonzero(~self.special).squeeze(1)
        others = ordinary[torch.randint(len(ordinary), (len(places),))]
        there = flat[places]
        new = torch.where(own < MASKED, self.mask_id, torch.where(own < MASKED + REPLACED, others, there))
        return MaskedRows(flat.scatter(0, places, new).view(ids.shape), places, there)

    def _spans(self, units: Tensor) -> Tensor:
        """Which of all words are in a span. `units` [N, L] numbers the words of all rows."""
        count = int(units[-1, -1]) + 1
        chance = start_chance(self.rate, self.span_stop, self.longest_span)
        end = torch.where(torch.rand(count) < chance, torch.arange(count) + self._lengths(count), 0)
        first, last = units[:, 0], units[:, -1]
        # Spans that began before the row was cut out of its text reach into it as they do into any other place.
        before = self.longest_span - 1
        if before:
            reach = self._lengths(len(first) * before).view(-1, before) - torch.arange(before, 0, -1)
            reach = torch.where(torch.rand(reach.shape) < chance, reach, 0).amax(1).clamp(min=0)
            end[first] = torch.maximum(end[first], first + reach)
        row_end = last.repeat_interleave(last - first + 1) + 1
        end = torch.minimum(end, row_end)
        return end.cummax(0).values > torch.arange(count)

    def _lengths(self, count: int) -> Tensor:
        """Words of `count` spans: geometric, cut at the longest."""
        drawn = torch.rand(count, dtype=torch.float64).clamp(min=1e-12)
        found = 1 + torch.floor(drawn.log() / torch.log1p(torch.tensor(-self.span_stop, dtype=torch.float64)))
        return found.long().clamp(max=self.longest_span)


def start_chance(rate: float, stop: float, longest: int) -> float:
    """The chance with which a span must start at each word for a word to be in one with the chance `rate`: a word is in none
    if, for each k, no span of more than k words started k words before it."""
    beyond = [(1 - stop) ** k for k in range(longest)]
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        free = 1.0
        for share in beyond:
            free *= 1 - middle * share
        low, high = (middle, high) if 1 - free < rate else (low, middle)
    return high
