"""From annotated entities to what a head should say of each word or span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taskloom.core.errors import DataError
from taskloom.core.task import Example
from taskloom.plugins.tasks.ner.schema import NerInput
from taskloom.plugins.tasks.ner.tags import TagSet, WordSpan


@dataclass(frozen=True)
class Targets:
    """What a model is to be told: its labels, what it calls the data's, and the form of its head (`tags`, or spans of up to
    `widest` words)."""

    labels: Sequence[str]
    label_map: Mapping[str, str]
    tags: TagSet | None
    widest: int


@dataclass(frozen=True)
class AlignedTargets:
    """For tags, `hits` [W, tags] says which tags a word may have: one, or several where the data doesn't tell. For spans,
    `hits` [W, widest, labels] is 1 for the entities, and `weights` 0 where the data doesn't tell."""

    hits: Tensor
    weights: Tensor


def aligned_targets(
    form: Targets,
    examples: Sequence[Example[NerInput]],
    spans: Tensor,
    counts: Tensor,
    known: Mapping[str, frozenset[str]],
) -> AlignedTargets:
    """Targets for words that lie at `spans` [W, 2] of their texts. An entity becomes the words that it shares characters with;
    `known` are the labels that were looked for in a file, by its path."""
    hits, weights = [], []
    for example, words in zip(examples, torch.split(spans, counts.tolist()), strict=True):
        found = word_spans(example, words, form)
        unknown = [label for label in form.labels if label not in known.get(example.path, form.labels)]
        if form.tags is not None:
            hits.append(_allowed_tags(form.tags, without_overlaps(found), len(words), unknown))
        else:
            hit, weight = _span_grid(form, found, words, unknown)
            hits.append(hit)
            weights.append(weight)
    return AlignedTargets(torch.cat(hits), torch.cat(weights) if weights else torch.zeros(0))


def word_spans(example: Example[NerInput], words: Tensor, form: Targets) -> list[WordSpan]:
    """The example's entities as words. Raises `DataError` for a label that the model doesn't have."""
    found = []
    starts, ends = words[:, 0].contiguous(), words[:, 1].contiguous()
    for start, end, given in example.target:
        label = form.label_map.get(given, given)
        if label not in form.labels:
            raise DataError(
                f"{example.path}, line {example.line}: label {given!r} is not one of the model's {len(form.labels)} labels "
                f"({', '.join(form.labels[:12])}); map it with label_map",
                path=example.path,
                line=example.line,
            )
        first = int(torch.searchsorted(ends, start, right=True))
        after = int(torch.searchsorted(starts, end))
        if after > first:
            found.append(WordSpan(first, after, label))
    return found


def without_overlaps(spans: Sequence[WordSpan]) -> list[WordSpan]:
    """The first of those that share words: entities that the data keeps apart may meet in one word."""
    kept: list[WordSpan] = []
    for span in sorted(spans):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def _allowed_tags(tags: TagSet, spans: Sequence[WordSpan], words: int, unknown: Sequence[str]) -> Tensor:
    spelt = torch.tensor(tags.spell(spans, words), dtype=torch.long)
    allowed = torch.nn.functional.one_hot(spelt, len(tags.tags)).bool()
    if unknown:
        outside = spelt == tags.index["O", ""]
        perhaps = torch.tensor([label in unknown for _, label in tags.parsed])
        allowed |= outside.unsqueeze(1) & perhaps
    return allowed


def _span_grid(form: Targets, spans: Sequence[WordSpan], words: Tensor, unknown: Sequence[str]) -> tuple[Tensor, Tensor]:
    hits = torch.zeros(len(words), form.widest, len(form.labels))
    weights = torch.ones_like(hits)
    for label in unknown:
        weights[:, :, form.labels.index(label)] = 0.0
    for span in spans:
        if span.end - span.start <= form.widest:
            place = (span.start, span.end - span.start - 1, form.labels.index(span.label))
            hits[place], weights[place] = 1.0, 1.0
    return hits, weights
