"""Linear chains over tags (Lafferty et al. 2001): partition function, best sequence, and the probability of one entity.

A model without transitions of its own is the chain whose legal transitions weigh nothing: illegal sequences then have no
probability, and the rest share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.plugins.tasks.ner.tags import TagSet, WordSpan

ILLEGAL = -1e4
"""The weight of what must not be: exp of it is 0, and sums of it over the longest text stay finite, unlike infinity's."""


@dataclass(frozen=True)
class Chain:
    """Log-weights: `transitions` [K, K] from row to column, `start` [K], `end` [K]."""

    transitions: Tensor
    start: Tensor
    end: Tensor

    @classmethod
    def legal(cls, tags: TagSet) -> Chain:
        """0 for what is legal, `ILLEGAL` for the rest."""
        size = range(len(tags.tags))
        return cls(
            _weights([[tags.may_follow(i, j) for j in size] for i in size]),
            _weights([tags.begins(i) for i in size]),
            _weights([tags.ends(i) for i in size]),
        )

    def plus(self, transitions: Tensor, start: Tensor, end: Tensor) -> Chain:
        return Chain(self.transitions + transitions, self.start + start, self.end + end)

    def to(self, place: torch.device | torch.dtype) -> Chain:
        return Chain(self.transitions.to(place), self.start.to(place), self.end.to(place))

    def log_partition(self, emissions: Tensor, counts: Tensor) -> Tensor:
        """The log-sum over all sequences, [N], for padded emissions [N, L, K] of which `counts` [N] are real; L at least 1.
        With emissions of `ILLEGAL`, of the sequences that avoid them."""
        alpha = self.start + emissions[:, 0]
        for place in range(1, emissions.shape[1]):
            step = torch.logsumexp(alpha.unsqueeze(2) + self.transitions, 1) + emissions[:, place]
            alpha = torch.where((place < counts).unsqueeze(1), step, alpha)
        return torch.where(counts > 0, torch.logsumexp(alpha + self.end, 1), torch.zeros(()).to(alpha))

    def best(self, emissions: Tensor, counts: Tensor) -> list[list[int]]:
        """The sequences of greatest weight (Viterbi 1967), a list of `counts[n]` tags each; never an illegal one, whatever
        the emissions."""
        transitions, start, end = (x.masked_fill(x < ILLEGAL / 2, -torch.inf) for x in (self.transitions, self.start, self.end))
        score = start + emissions[:, 0]
        pointers = []
        for place in range(1, emissions.shape[1]):
            found, pointer = (score.unsqueeze(2) + transitions).max(1)
            score = torch.where((place < counts).unsqueeze(1), found + emissions[:, place], score)
            pointers.append(pointer)
        last = (score + end).argmax(1).tolist()
        back: list[list[list[int]]] = torch.stack(pointers, 1).tolist() if pointers else [[] for _ in last]
        sequences = []
        for tag, steps, count in zip(last, back, counts.tolist(), strict=True):
            sequence = [tag] if count else []
            for step in reversed(steps[: max(count - 1, 0)]):
                sequence.append(step[sequence[-1]])
            sequences.append(sequence[::-1])
        return sequences

    def lattices(self, emissions: Tensor, counts: Tensor) -> list[Lattice]:
        """The sums over all sequences through each place of each text, from [N, L, K] emissions of which `counts` [N], each
        at least 1, are real. What comes after a place is what comes before it in the text read backwards."""
        places = torch.arange(emissions.shape[1], device=emissions.device)
        mirror = (counts.unsqueeze(1) - 1 - places).clamp(min=0).unsqueeze(2).expand_as(emissions)
        rows = torch.stack([emissions, emissions.gather(1, mirror)])
        steps = torch.stack([self.transitions, self.transitions.T]).unsqueeze(1)
        sums = [torch.stack([self.start, self.end]).unsqueeze(1) + rows[:, :, 0]]
        for place in range(1, emissions.shape[1]):
            sums.append(torch.logsumexp(sums[-1].unsqueeze(3) + steps, 2) + rows[:, :, place])
        forward, mirrored = torch.stack(sums, 2)
        backward = mirrored.gather(1, mirror) - emissions
        last = forward[torch.arange(len(counts)), counts - 1]
        totals = torch.logsumexp(last + self.end, 1).tolist()
        return [
            Lattice(
                emissions[n, :size].numpy(),
                forward[n, :size].numpy(),
                backward[n, :size].numpy(),
                self.transitions.numpy(),
                total,
            )
            for n, (size, total) in enumerate(zip(counts.tolist(), totals, strict=True))
        ]


@dataclass(frozen=True)
class Lattice:
    """`forward` [L, K]: log-sums of sequences up to and with a tag at a place; `backward`: of what may come after it."""

    emissions: NDArray[np.float64]
    forward: NDArray[np.float64]
    backward: NDArray[np.float64]
    transitions: NDArray[np.float64]
    total: float

    def probability(self, span: WordSpan, tags: TagSet) -> float:
        """The share of the sequences, by weight, that have exactly this entity: these words, no more, this label."""
        weights = [self._weight(span.start, path, tags) for path in tags.paths(span.label, span.end - span.start)]
        return float(np.exp(min(_log_sum(np.array(weights)) - self.total, 0.0)))

    def _weight(self, start: int, path: list[int], tags: TagSet) -> float:
        weight = self._before(start, path[0], tags)
        for place, (tag, then) in enumerate(pairwise(path), start=start + 1):
            weight += self.transitions[tag, then] + self.emissions[place, then]
        return float(weight + self._after(start + len(path) - 1, path[-1], tags))

    def _before(self, place: int, tag: int, tags: TagSet) -> float:
        if place == 0:
            return float(self.forward[0, tag])
        others = tags.apart_before[tag]
        return _log_sum(self.forward[place - 1, others] + self.transitions[others, tag]) + float(self.emissions[place, tag])

    def _after(self, place: int, tag: int, tags: TagSet) -> float:
        if place == len(self.emissions) - 1:
            return float(self.backward[place, tag])
        others = tags.apart_after[tag]
        onward = self.transitions[tag, others] + self.emissions[place + 1, others] + self.backward[place + 1, others]
        return _log_sum(onward)


def padded(rows: Tensor, counts: Tensor, fill: float = 0.0) -> Tensor:
    """Rows [W, K] that lie end to end to [N, L, K], L being the largest count and at least 1."""
    longest = max(1, int(counts.max()) if len(counts) else 1)
    found = rows.new_full((len(counts), longest, rows.shape[1]), fill)
    inside = torch.arange(longest, device=rows.device) < counts.unsqueeze(1)
    return found.masked_scatter(inside.unsqueeze(2), rows)


def _weights(legal: Any) -> Tensor:
    return torch.where(torch.tensor(legal), 0.0, ILLEGAL)


def _log_sum(values: NDArray[np.float64]) -> float:
    top = float(values.max())
    return top + float(np.log(np.exp(values - top).sum()))
