"""From the logits of words or spans to entities with probabilities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from taskloom.plugins.tasks.ner.chain import Chain, padded
from taskloom.plugins.tasks.ner.tags import TagSet, WordSpan

LEAST = 0.01
"""The least probability of a span that is looked at: without it, a threshold of 0 would ask for every span there is."""

Found = tuple[WordSpan, float]
"""An entity and its probability."""


def tagged_spans(logits: Tensor, counts: Tensor, chain: Chain, tags: TagSet) -> list[list[Found]]:
    """The entities of the best legal tag sequence of each text, from [W, tags] logits of texts that lie end to end. Each
    has its probability under the chain: that of all sequences in which exactly these words are an entity of that label."""
    sequences = chain.best(padded(logits, counts), counts)
    found: list[list[Found]] = []
    for sequence, rows in zip(sequences, torch.split(logits, counts.tolist()), strict=True):
        spans = tags.read(sequence)
        if not spans:
            found.append([])
            continue
        lattice = chain.forward_backward(rows)
        found.append([(span, lattice.probability(span, tags)) for span in spans])
    return found


def best_spans(logits: Tensor, counts: Tensor, labels: Sequence[str], thresholds: Sequence[float]) -> list[list[Found]]:
    """The spans of each text that are at least as probable as its threshold, and as `LEAST`, from [W, widest, labels] logits.
    The most probable first claim their place: a span that crosses one of them, or is the same words, is dropped."""
    found: list[list[Found]] = []
    for rows, threshold in zip(torch.split(logits.sigmoid(), counts.tolist()), thresholds, strict=True):
        best, label = rows.max(2)
        places = torch.nonzero(best >= max(threshold, LEAST)).tolist()
        spans = [(WordSpan(i, i + more + 1, labels[int(label[i, more])]), float(best[i, more])) for i, more in places]
        kept: dict[int, list[Found]] = defaultdict(list)
        for span, score in sorted(spans, key=lambda item: (-item[1], item[0])):
            near = range(span.start - logits.shape[1], span.end)
            if not any(crosses(span, other) for start in near for other, _ in kept.get(start, ())):
                kept[span.start].append((span, score))
        found.append(sorted((item for some in kept.values() for item in some), key=lambda item: (item[0].start, -item[0].end)))
    return found


def crosses(one: WordSpan, other: WordSpan) -> bool:
    """Whether they overlap and neither lies in the other, or both are the same words."""
    if one.end <= other.start or other.end <= one.start:
        return False
    inside = one.start >= other.start and one.end <= other.end
    around = one.start <= other.start and one.end >= other.end
    return inside == around
