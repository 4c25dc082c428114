"""The contrastive loss: which passages of a batch are wrong for which query, and how far the right one stands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from taskloom.core.task import Example
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput


@dataclass(frozen=True)
class Contrast:
    """The passages of a batch of N rows as C columns: each row's positive, then its negatives.

    `own` [N] is the column of a row's own positive. `right` [N, C] marks the passages that the data names for the row's query,
    its own included: as negatives they would be false ones. `repeated` [C] marks a passage that stood in an earlier column.
    """

    own: Tensor
    right: Tensor
    repeated: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example[EmbeddingInput]]) -> Contrast:
        own: list[int] = []
        columns: list[str] = []
        named: dict[str, set[str]] = {}
        for example in examples:
            own.append(len(columns))
            columns += [example.target.positives[0], *example.target.negatives]
            named.setdefault(example.input.text, set()).update(example.target.positives)
        places: dict[str, list[int]] = {}
        for place, text in enumerate(columns):
            places.setdefault(text, []).append(place)
        right = torch.zeros(len(examples), len(columns), dtype=torch.bool)
        for row, example in enumerate(examples):
            right[row, [place for text in named[example.input.text] for place in places.get(text, ())]] = True
        repeated = torch.tensor([places[text][0] != place for place, text in enumerate(columns)], dtype=torch.bool)
        return cls(torch.tensor(own, dtype=torch.long), right, repeated)


def contrastive_loss(
    queries: Tensor, passages: Tensor, contrast: Contrast, *, temperature: float, symmetric: bool, sizes: Sequence[int] = ()
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4) of cosines over a temperature, where the
    other passages of the batch are the negatives (Karpukhin et al. 2020, https://arxiv.org/abs/2004.04906, section 3.2).

    `queries` [N, D] and `passages` [C, D] have length 1. With `symmetric`, the mean with the same loss of choosing the query
    for each row's passage. With `sizes`, the mean over vectors cut to each of them, and whole ones (Kusupati et al. 2022,
    https://arxiv.org/abs/2205.13147, eq. 1).
    """
    losses = []
    for size in dict.fromkeys((*sizes, queries.shape[1])):
        cut = [normalize(vectors[:, :size].float(), dim=-1) for vectors in (queries, passages)]
        logits = cut[0] @ cut[1].T / temperature
        rows = torch.arange(len(logits), device=logits.device)
        is_own = torch.zeros_like(contrast.right).index_put((rows, contrast.own), torch.ones_like(rows, dtype=torch.bool))
        no_negative = (contrast.right | contrast.repeated) & ~is_own
        loss = cross_entropy(logits.masked_fill(no_negative, -torch.inf), contrast.own)
        if symmetric:
            no_negative = (contrast.right & ~is_own)[:, contrast.own].T
            loss = (loss + cross_entropy(logits[:, contrast.own].T.masked_fill(no_negative, -torch.inf), rows)) / 2
        losses.append(loss)
    return torch.stack(losses).mean()
