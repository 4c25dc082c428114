"""From the spans of all windows of a context to its best answers, with probabilities that are comparable."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from taskloom.plugins._shared.emoji import ZERO_WIDTH_JOINER, half_a_flag, modifies_emoji
from taskloom.plugins.tasks.qa.schema import Answer, QaOutput, QaParams
from taskloom.plugins.tasks.qa.spans import IMPOSSIBLE

KEPT_SPANS = 65_536
"""How many of a context's spans are looked at for answers at first. More are where these are near-duplicates of too few."""
VOTERS = 50
"""The likeliest spans, which say of each other how much of it is in the answer; fewer than are kept."""


@dataclass(frozen=True)
class Piece:
    """Some of the windows of one context, in the order of the text. `offsets` [T, 2] are the code points of their tokens;
    `spans` computes their span logits [T, K] when they are wanted, so that those of one piece are in memory at a time."""

    offsets: Tensor
    spans: Callable[[], Tensor]


def read_answers(pieces: Sequence[Piece], null: float, context: str, params: QaParams) -> QaOutput:
    """The answers that `params` ask for. `pieces` are all windows of one context, and `null` the least "no answer" logit of
    the windows: a context has no answer only if none of its windows has one (so does the SQuAD 2 baseline,
    https://arxiv.org/abs/1806.03822).

    One softmax runs over all spans of all windows and the null. A span that several windows hold counts once, with its best
    logit.
    """
    most = KEPT_SPANS
    while True:
        best = _best_spans(pieces, len(context) + 1, most)
        total = torch.stack([best.log_sum, torch.tensor(null, dtype=torch.float64)]).logsumexp(0)
        no_answer = float((null - total).exp())
        if no_answer > params.no_answer_threshold:
            return QaOutput(answers=(), no_answer_score=no_answer)
        answers, enough = _distinct(best, total, context, params)
        if enough or best.all:
            return QaOutput(answers=answers, no_answer_score=no_answer)
        most *= 16


@dataclass(frozen=True)
class _Spans:
    """The best spans of a context, `places` [N, 2] in the order of the text, with their `logits` [N], whether these are
    `all`, and the log of the sum of exp over all."""

    places: Tensor
    logits: Tensor
    all: bool
    log_sum: Tensor


def _best_spans(pieces: Sequence[Piece], stride: int, most: int) -> _Spans:
    """The `most` best spans (and those that are as good as the last of them), each once. A span is settled when no later
    window can hold it again; those that are not are carried over to the next piece."""
    starts = [int(piece.offsets[:, 0].masked_fill(piece.offsets[:, 0] < 0, stride).min()) for piece in pieces]
    later = list(accumulate([stride, *reversed(starts)], min))[-2::-1]
    keys = kept_keys = torch.empty(0, dtype=torch.long)
    logits = kept = torch.empty(0, dtype=torch.float64)
    sums = [torch.tensor(-torch.inf, dtype=torch.float64)]
    dropped = False
    for piece, upcoming in zip(pieces, later, strict=True):
        spans = piece.spans()
        token, reach = torch.nonzero(spans > IMPOSSIBLE / 2, as_tuple=True)
        # One number for both ends: finding equal ones among pairs takes fifty times as long.
        found = piece.offsets[token, 0] * stride + piece.offsets[token + reach, 1]
        keys, which = torch.unique(torch.cat([keys, found]), return_inverse=True)
        best = torch.full((len(keys),), -torch.inf, dtype=torch.float64)
        logits = best.scatter_reduce(0, which, torch.cat([logits, spans[token, reach].double()]), "amax")
        settled = int((keys < upcoming * stride).sum())
        sums.append(logits[:settled].logsumexp(0))
        kept_keys, kept = torch.cat([kept_keys, keys[:settled]]), torch.cat([kept, logits[:settled]])
        keys, logits = keys[settled:], logits[settled:]
        if len(kept) > most:
            good = kept >= kept.topk(most).values[-1]
            dropped = dropped or not bool(good.all())
            kept_keys, kept = kept_keys[good], kept[good]
    places = torch.stack([kept_keys // stride, kept_keys % stride], 1)
    return _Spans(places, kept, not dropped, torch.stack(sums).logsumexp(0))


def _distinct(spans: _Spans, total: Tensor, context: str, params: QaParams) -> tuple[tuple[Answer, ...], bool]:
    """The best spans one by one, each taking those with it that share half of the shorter of the two; and whether they are
    as many as are asked for, or no worse span could be one more."""
    found: list[Answer] = []
    probabilities = (spans.logits - total).exp()
    left = _worth(spans.places, probabilities)
    unlikely = probabilities < params.threshold
    left[unlikely] = -torch.inf
    start, end = spans.places[:, 0], spans.places[:, 1]
    while len(found) < params.top_k and len(left):
        worth, i = left.max(0)
        if worth == -torch.inf:
            return tuple(found), bool(unlikely.any())
        shared = torch.minimum(end, end[i]) - torch.maximum(start, start[i])
        left[2 * shared >= torch.minimum(end - start, end[i] - start[i])] = -torch.inf
        first, last = whole_characters(context, int(start[i]), int(end[i]))
        if first < last:  # some tokenizers have tokens for blanks
            found.append(Answer(text=context[first:last], start=first, end=last, score=float(probabilities[i])))
    return tuple(found), True


def _worth(places: Tensor, probabilities: Tensor) -> Tensor:
    """By what spans [N] are put in order. Of the likeliest it is the F1 to be expected of one, if each of the others is right
    with the probability that the model gives it (minimum Bayes risk: Kumar and Byrne 2004, https://aclanthology.org/N04-1022).
    F1 is of code points. The likeliest of many spans that differ at their ends alone is not always the one that has most in
    common with all. The others follow by their probability."""
    shares, voters = probabilities.topk(min(VOTERS, len(probabilities)))
    start, end = places[voters].unbind(1)
    shared = torch.minimum(end[:, None], end) - torch.maximum(start[:, None], start)
    sizes = end - start
    f1 = 2 * shared.clamp(min=0) / (sizes[:, None] + sizes).clamp(min=1)
    worth = probabilities.clone()
    worth[voters] = 1 + f1.to(shares.dtype) @ shares
    return worth


def whole_characters(text: str, start: int, end: int) -> tuple[int, int]:
    """The span, without blanks at its ends, and widened so that it cuts off no combining mark, variation selector, skin tone,
    tag, joined emoji or half of a flag: tokenizers drop or part these, and tokens then end before them.

    >>> whole_characters("un cafe\u0301 noir", 3, 7)
    (3, 8)
    """
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start == end:
        return start, end
    while start > 0 and _belongs_to_what_is_before(text, start):
        start -= 1
    while end < len(text) and _belongs_to_what_is_before(text, end):
        end += 1
    return start, end


def _belongs_to_what_is_before(text: str, place: int) -> bool:
    character, before = text[place], text[place - 1]
    if ZERO_WIDTH_JOINER in {character, before} or modifies_emoji(character):
        return True
    if half_a_flag(character) and half_a_flag(before):
        first = place
        while first > 0 and half_a_flag(text[first - 1]):
            first -= 1
        return (place - first) % 2 == 1
    return unicodedata.category(character) in {"Mn", "Mc", "Me"}
