"""From the spans of all windows of a context to its best answers, with probabilities that are comparable."""

from __future__ import annotations

import unicodedata

import torch
from torch import Tensor

from taskloom.plugins.tasks.qa.schema import Answer, QaOutput, QaParams
from taskloom.plugins.tasks.qa.spans import IMPOSSIBLE

ZERO_WIDTH_JOINER = "\u200d"
EMOJI_TONES = range(0x1F3FB, 0x1F400)
"""Skin tones, which change the emoji before them."""


def read_answers(spans: Tensor, null: float, offsets: Tensor, context: str, params: QaParams) -> QaOutput:
    """The answers that `params` ask for. `spans` [T, K] are the span logits of all windows of one context, `offsets` [T, 2]
    the code points of their tokens, and `null` the least "no answer" logit of the windows: a context has no answer only if
    none of its windows has one (so does the SQuAD 2 baseline, https://arxiv.org/abs/1806.03822).

    One softmax runs over all spans of all windows and the null. A span that several windows hold counts once, with its best
    logit.
    """
    spans = spans[:, : params.max_answer_tokens]
    token, reach = torch.nonzero(spans > IMPOSSIBLE / 2, as_tuple=True)
    start, end = offsets[token, 0], offsets[token + reach, 1]
    places, which = torch.unique(torch.stack([start, end], 1), dim=0, return_inverse=True)
    best = torch.full((len(places),), IMPOSSIBLE, dtype=torch.float64)
    best = best.scatter_reduce(0, which, spans[token, reach].double(), "amax")
    scores = torch.cat([best, torch.tensor([null], dtype=torch.float64)]).softmax(0)
    no_answer = float(scores[-1])
    if no_answer > params.no_answer_threshold:
        return QaOutput(answers=(), no_answer_score=no_answer)
    return QaOutput(answers=_distinct(scores[:-1], places, context, params), no_answer_score=no_answer)


def _distinct(scores: Tensor, places: Tensor, context: str, params: QaParams) -> tuple[Answer, ...]:
    """The best spans one by one, each taking those with it that share half of the shorter of the two."""
    found: list[Answer] = []
    left = scores.clone()
    start, end = places[:, 0], places[:, 1]
    while len(found) < params.top_k and len(left):
        score, i = left.max(0)
        if score < 0 or score < params.threshold:
            break
        shared = torch.minimum(end, end[i]) - torch.maximum(start, start[i])
        left[2 * shared >= torch.minimum(end - start, end[i] - start[i])] = -1.0
        first, last = whole_characters(context, int(start[i]), int(end[i]))
        if first < last:  # some tokenizers have tokens for blanks
            found.append(Answer(text=context[first:last], start=first, end=last, score=float(score)))
    return tuple(found)


def whole_characters(text: str, start: int, end: int) -> tuple[int, int]:
    """The span, without blanks at its ends, and widened so that it cuts off no combining mark, variation selector, skin tone
    or joined emoji: tokenizers drop these, and tokens then end before them.

    >>> whole_characters("un cafe\u0301 noir", 3, 7)
    (3, 8)
    """
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start == end:
        return start, end
    while start > 0 and (_continues(text[start]) or text[start - 1] == ZERO_WIDTH_JOINER):
        start -= 1
    while end < len(text) and (_continues(text[end]) or text[end - 1] == ZERO_WIDTH_JOINER):
        end += 1
    return start, end


def _continues(character: str) -> bool:
    """Whether the character belongs to the one before it."""
    joins = character == ZERO_WIDTH_JOINER or ord(character) in EMOJI_TONES
    return joins or unicodedata.category(character) in {"Mn", "Mc", "Me"}
