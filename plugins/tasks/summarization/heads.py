"""From token states to sentences and words: which sentence says most of a document, and which of its words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from taskloom.plugins.backbones.encoder import length_buckets

PLACES = (1, 2, 3, 4, 5, 6, 7, 8, 11, 15, 22, 31, 45, 63, 90)
"""Where buckets of places begin: single at first, then wider and wider, so that a place never seen in training has neighbours
that were."""
NEIGHBOURS = (-2, -1, 1, 2)
ATTENTION_HEADS = 4
BLOCK = 512
"""Sentences that see each other at most: memory for attention grows with their square. Longer documents are read in blocks."""
ATTENTION_AREA = 16 * BLOCK**2
"""Pairs of sentences that are attended to at a time: 64 MB for each head."""


@dataclass(frozen=True)
class Found:
    """`logits` [S] of the sentences, `vectors` [S, H] that stand for them, `keep` [V], the logits of the words' tokens."""

    logits: Tensor
    vectors: Tensor
    keep: Tensor


class SummaryHead(nn.Module):
    """Sentences are the means of their tokens' states; a transformer over a document's sentences sees them together, as in
    Liu & Lapata 2019 (https://arxiv.org/abs/1908.08345, section 3.2). A word is judged by its state, its neighbours' and its
    sentence's."""

    places: Tensor

    def __init__(self, hidden_size: int, size: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.sentence = nn.Linear(hidden_size, size)
        self.place = nn.Embedding(len(PLACES) + 1, size)
        layer = nn.TransformerEncoderLayer(size, ATTENTION_HEADS, 2 * size, dropout, batch_first=True, norm_first=True)
        self.document = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False) if layers else None
        self.norm = nn.LayerNorm(size)
        self.choose = nn.Linear(size, 1)
        self.token = nn.Linear(hidden_size, size)
        self.of_sentence = nn.Linear(size, size)
        self.from_start = nn.Embedding(len(PLACES) + 1, size)
        self.from_end = nn.Embedding(len(PLACES) + 1, size)
        self.mix = nn.Linear(len(NEIGHBOURS) * size, size)
        self.keep = nn.Linear(size, 1)
        self.dropout = nn.Dropout(dropout)
        for table in (self.place, self.from_start, self.from_end):
            nn.init.normal_(table.weight, std=0.02)  # a place says little beside what stands there, until it is learnt
        self.register_buffer("places", torch.tensor(PLACES), persistent=False)

    def forward(self, hidden: Tensor, owner: Tensor, documents: Tensor, asked: Tensor | None = None) -> Found:
        """`hidden` [V, H] are the states of the tokens that belong to a sentence, `owner` [V] the number of that sentence, in
        ascending order; `documents` [N] how many sentences each document has. With `asked` [S] only the words of those
        sentences are judged, and V in the answer is their tokens."""
        sentences = int(documents.sum())
        sizes = torch.bincount(owner, minlength=sentences)
        total = torch.zeros(sentences, hidden.shape[1], dtype=torch.float32, device=hidden.device)
        vectors = total.index_add(0, owner, hidden.float()) / sizes.clamp(min=1).unsqueeze(1)
        context = self._together(vectors.to(self.sentence.weight.dtype), documents)
        logits = self.choose(self.dropout(context)).squeeze(-1)
        if asked is not None:
            mine = asked[owner]
            hidden, owner, sizes = hidden[mine], owner[mine], sizes * asked
        return Found(logits, vectors, self._words(hidden, owner, sizes, context))

    def _together(self, vectors: Tensor, documents: Tensor) -> Tensor:
        """Sentences [S, H] to what they are among those of their document [S, size]."""
        blocks = [block for count in documents.tolist() for block in _blocks(count)]
        counts = [len(block) for block in blocks]
        number = torch.cat([torch.arange(block.start, block.stop) for block in blocks]).to(vectors.device)
        placed = self.dropout(self.sentence(vectors)) + self.place(torch.bucketize(number, self.places, right=True))
        parts = torch.split(placed, counts)
        found: list[Tensor] = [vectors[:0]] * len(parts)
        for bucket in _attended(length_buckets(counts), counts):
            rows = nn.utils.rnn.pad_sequence([parts[i] for i in bucket], True)
            if self.document is not None:
                absent = torch.arange(rows.shape[1]) >= torch.tensor([counts[i] for i in bucket]).unsqueeze(1)
                rows = self.document(rows, src_key_padding_mask=absent.to(rows.device))
            for row, i in zip(rows, bucket, strict=True):
                found[i] = row[: counts[i]]
        normed: Tensor = self.norm(torch.cat(found))
        return normed

    def _words(self, hidden: Tensor, owner: Tensor, sizes: Tensor, context: Tensor) -> Tensor:
        number = torch.arange(len(owner), device=owner.device)
        place = number - (sizes.cumsum(0) - sizes)[owner]
        rest = sizes[owner] - 1 - place
        state = self.token(self.dropout(hidden.to(self.token.weight.dtype))) + self.of_sentence(context)[owner]
        state = state + self.from_start(torch.bucketize(place, self.places, right=True))
        state = functional.gelu(state + self.from_end(torch.bucketize(rest, self.places, right=True)))
        beside = []
        for step in NEIGHBOURS:
            at = (number + step).clamp(0, max(0, len(owner) - 1))
            inside = (place + step >= 0) & (rest - step >= 0)
            beside.append(state[at] * inside.unsqueeze(1))
        mixed = state + functional.gelu(self.mix(torch.cat(beside, dim=1)))
        keep: Tensor = self.keep(self.dropout(mixed)).squeeze(-1)
        return keep


def _blocks(sentences: int) -> list[range]:
    """A document's sentences in as few blocks as `BLOCK` allows, all about as long."""
    parts = max(1, -(-sentences // BLOCK))
    ends = [sentences * i // parts for i in range(parts + 1)]
    return [range(begin, end) for begin, end in pairwise(ends)]


def _attended(buckets: Iterable[list[int]], counts: Sequence[int]) -> Iterator[list[int]]:
    """The buckets, split where `ATTENTION_AREA` demands it."""
    for bucket in buckets:
        most = max(1, ATTENTION_AREA // max(1, *(counts[i] for i in bucket)) ** 2)
        yield from (bucket[start : start + most] for start in range(0, len(bucket), most))
