"""From hidden states of words to the weights of tags or spans."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.errors import UnsupportedError
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.tasks.ner.chain import ILLEGAL, Chain
from taskloom.plugins.tasks.ner.words import Shape

SHAPE_SIZE = 16
NEIGHBOURS = 2
"""Words on each side whose shapes a head sees."""
INNER_SIZE = 256
ROPE_BASE = 10000.0
RARE = -3.0
"""The span head's first bias: nearly no span is an entity, and learning that takes long."""


class WordFeatures(nn.Module):
    """The hidden states of words, with how they and their neighbours are written, through one hidden layer."""

    def __init__(self, hidden_size: int, word_shapes: bool, dropout: float) -> None:
        super().__init__()
        seen = 2 * NEIGHBOURS + 1
        self.shapes = nn.Embedding(len(Shape), SHAPE_SIZE) if word_shapes else None
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Linear(hidden_size + (seen * SHAPE_SIZE if word_shapes else 0), INNER_SIZE)

    def forward(self, words: Tensor, shapes: Tensor) -> Tensor:
        """[W, H] hidden states and [W, 2 * NEIGHBOURS + 1] shapes to [W, INNER_SIZE]."""
        if self.shapes is not None:
            words = torch.cat([words, self.shapes(shapes).flatten(1).to(words.dtype)], 1)
        return nn.functional.gelu(self.inner(self.dropout(words)))


class TagHead(nn.Module):
    """A weight for each tag of each word, [W, tags]; with `crf` also weights from tag to tag."""

    def __init__(self, hidden_size: int, tags: int, *, word_shapes: bool, dropout: float, crf: bool) -> None:
        super().__init__()
        self.features = WordFeatures(hidden_size, word_shapes, dropout)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(INNER_SIZE, tags)
        self.crf = crf
        if crf:
            self.transitions = nn.Parameter(torch.zeros(tags, tags))
            self.start = nn.Parameter(torch.zeros(tags))
            self.end = nn.Parameter(torch.zeros(tags))

    def forward(self, words: Tensor, shapes: Tensor, counts: Tensor) -> Tensor:
        found: Tensor = self.output(self.dropout(self.features(words, shapes)))
        return found

    def chain(self, legal: Chain) -> Chain:
        """What sequences of tags weigh: what is legal, and what was learnt besides."""
        return legal.plus(self.transitions.float(), self.start.float(), self.end.float()) if self.crf else legal


class SpanHead(nn.Module):
    """Global pointer (Su et al. 2022, https://arxiv.org/abs/2208.03054, eqs. 1 to 4): for each label a query for the first
    word of a span and a key for its last, turned by their distance (rotary positions, Su et al. 2021,
    https://arxiv.org/abs/2104.09864, eq. 16), and a bias. Spans of up to `widest` words."""

    def __init__(self, hidden_size: int, labels: int, *, widest: int, size: int, word_shapes: bool, dropout: float) -> None:
        super().__init__()
        self.labels, self.widest, self.size = labels, widest, size
        self.features = WordFeatures(hidden_size, word_shapes, dropout)
        self.dropout = nn.Dropout(dropout)
        self.ends = nn.Linear(INNER_SIZE, 2 * labels * size)
        self.bias = nn.Parameter(torch.full((labels,), RARE))

    def forward(self, words: Tensor, shapes: Tensor, counts: Tensor) -> Tensor:
        """[W, widest, labels]: the logit of the span that begins at a word and has 1, 2, ... words; `ILLEGAL` where it would
        leave the text. `counts` [N] are the words of each text."""
        found = self.ends(self.dropout(self.features(words, shapes)))
        first, last = found.view(len(words), 2, self.labels, self.size).unbind(1)
        left = words_left(counts)
        logits = []
        for more in range(self.widest):
            reach = last.roll(-more, 0)
            score = (turned(first, -more) * reach).sum(2) / self.size**0.5 + self.bias
            logits.append(score.masked_fill((left <= more).unsqueeze(1), ILLEGAL))
        return torch.stack(logits, 1)


def words_left(counts: Tensor) -> Tensor:
    """For each word [W], how many words its text has from it on, itself included."""
    ends = torch.repeat_interleave(counts.cumsum(0), counts)
    return ends - torch.arange(len(ends), device=counts.device)


def turned(vectors: Tensor, places: int) -> Tensor:
    """The rotary embedding of a position: pairs (first half, second half) of the last dimension turned by multiples of
    `places`. Turning a query by -d and leaving its key alone is turning both by their positions, d apart."""
    half = vectors.shape[-1] // 2
    angles = places * ROPE_BASE ** (-torch.arange(half, device=vectors.device, dtype=torch.float32) / half)
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    one, other = vectors[..., :half], vectors[..., half:]
    return torch.cat([one * cos - other * sin, one * sin + other * cos], -1)


class ImportedTagHead(nn.Module):
    """The linear layer of a Hugging Face token classifier, on each word's first token, which is what they are trained on."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, words: Tensor, shapes: Tensor, counts: Tensor) -> Tensor:
        found: Tensor = self.classifier(words)
        return found


def imported_head(parts: EncoderParts) -> ImportedTagHead:
    """The head of a checkpoint that was read with it."""
    classifier: Any = getattr(parts.whole, "classifier", None)
    if not isinstance(classifier, nn.Linear):
        raise UnsupportedError(
            f"{parts.backbone.info.id!r} is a {parts.whole.config.model_type} model whose head is not one linear layer named "
            "`classifier`, as that of BERT and its kin is; train a new head on it as a backbone instead"
        )
    return ImportedTagHead(classifier)
