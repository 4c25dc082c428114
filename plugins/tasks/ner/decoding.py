"""From the logits of words or spans to entities with probabilities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from taskloom.plugins.backbones.encoder import length_buckets
from taskloom.plugins.tasks.ner.chain import Chain
from taskloom.plugins.tasks.ner.tags import TagSet, WordSpan

PADDING = 0.5
"""The share of empty places that is worth it to go through texts together: each place is a few calls, however many texts."""
LEAST = 0.01
"""The least probability of a span that is looked at: without it, a threshold of 0 would ask for every span there is."""

Found = tuple[WordSpan, float]
"""An entity and its probability."""


def tagged_spans(logits: Tensor, counts: Tensor, chain: Chain, tags: TagSet) -> list[list[Found]]:
    """The entities of the best legal tag sequence of each text, from [W, tags] logits of texts that lie end to end. Each
    has its probability under the chain: that of all sequences in which exactly these words are an entity of that label."""
    rows = torch.split(logits.double(), counts.tolist())
    found: list[list[Found]] = [[] for _ in rows]
    filled = [n for n, row in enumerate(rows) if len(row)]
    chain = chain.to(torch.float64)
    for bucket in length_buckets([len(rows[n]) for n in filled], PADDING):
        members = [filled[i] for i in bucket]
        emissions = pad_sequence([rows[n] for n in members], batch_first=True)
        sizes = counts[members]
        spans = [tags.read(sequence) for sequence in chain.best(emissions, sizes)]
        naming = [i for i, some in enumerate(spans) if some]
        if not naming:
            continue
        for i, lattice in zip(naming, chain.lattices(emissions[naming], sizes[naming]), strict=True):
            found[members[i]] = [(span, lattice.probability(span, tags)) for span in spans[i]]
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
