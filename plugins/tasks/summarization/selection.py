"""Which sentences make the summary: the best that don't repeat each other and fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from taskloom.plugins._shared.sentences import CLOSING, is_wide

OPENING = "\"'“‘「『《（("


@dataclass(frozen=True)
class Limits:
    """What a summary may be at most; None is no limit. `tokens` and `characters` are of the whole summary."""

    sentences: int
    characters: int | None = None
    tokens: int | None = None


def choose(
    scores: Tensor, vectors: Tensor, texts: Sequence[str], tokens: Sequence[int], *, limits: Limits, penalty: float
) -> list[int]:
    """The numbers of the chosen sentences, in the document's order; none if not one fits.

    Maximal marginal relevance (Carbonell & Goldstein 1998, https://doi.org/10.1145/290941.291025, eq. 1) with lambda =
    1 - `penalty`: `scores` [S], as shares of the best one, are the relevance, cosines of `vectors` [S, H] the similarity.
    Sentences that no longer fit are passed over.
    """
    relevance = scores.float() / scores.max().clamp(min=1e-9)
    directions = normalize(vectors.float(), dim=-1)
    likeness = torch.zeros_like(relevance)
    free = torch.ones(len(relevance), dtype=torch.bool)
    chosen: list[int] = []
    while len(chosen) < limits.sentences and bool(free.any()):
        value = (1 - penalty) * relevance - penalty * likeness
        best = int(value.masked_fill(~free, float("-inf")).argmax())
        free[best] = False
        if _fits([*chosen, best], texts, tokens, limits):
            chosen.append(best)
            likeness = torch.maximum(likeness, directions @ directions[best])
    return sorted(chosen)


def _fits(chosen: Sequence[int], texts: Sequence[str], tokens: Sequence[int], limits: Limits) -> bool:
    if limits.tokens is not None and sum(tokens[i] for i in chosen) > limits.tokens:
        return False
    return limits.characters is None or len(joined([texts[i] for i in sorted(chosen)])) <= limits.characters


def joined(texts: Sequence[str]) -> str:
    """Sentences as one text: with a blank between them, but for Chinese and Japanese.

    >>> joined(["One.", "Two."]), joined(["第一句。", "第二句。"])
    ('One. Two.', '第一句。第二句。')
    """
    parts: list[str] = []
    for text in texts:
        if parts and not (is_wide((parts[-1].rstrip(CLOSING) or parts[-1])[-1]) and is_wide((text.lstrip(OPENING) or text)[0])):
            parts.append(" ")
        parts.append(text)
    return "".join(parts)
