"""Span logits against enumeration, and the decoding of spans into distinct answers."""

from __future__ import annotations

import math
import unicodedata
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.plugins.tasks.qa import decoding
from taskloom.plugins.tasks.qa import model as model_module
from taskloom.plugins.tasks.qa.decoding import Piece, read_answers, whole_characters
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.schema import Answer, QaInput, QaOutput, QaParams
from taskloom.plugins.tasks.qa.spans import IMPOSSIBLE, log_partition, null_logits, span_logits

LENGTHS = torch.tensor([6, 4, 9])
BIAS = torch.tensor([0.5, -0.5, -2.0])
"""The last is for three tokens and more."""
QUESTION = (2, 3, 4)
"""Tokens at the start of each window that are not of the context; so is the last one."""


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    inside = []
    for length, question in zip(LENGTHS.tolist(), QUESTION, strict=True):
        inside += [question <= i < length - 1 for i in range(length)]
    return torch.randn(int(LENGTHS.sum()), 2, requires_grad=True), torch.tensor(inside)


def enumerated(logits: torch.Tensor, inside: torch.Tensor, width: int) -> dict[int, dict[tuple[int, int], float]]:
    found: dict[int, dict[tuple[int, int], float]] = {}
    first = 0
    for window, length in enumerate(LENGTHS.tolist()):
        found[window] = {
            (i, j): float((logits[i, 0] + logits[j, 1] + BIAS[min(j - i, 2)]).detach())
            for i in range(first, first + length)
            for j in range(i, min(i + width, first + length))
            if inside[i] and inside[j]
        }
        first += length
    return found


@pytest.mark.parametrize("width", [1, 3, 50])
def test_spans_and_their_sum_are_those_of_enumeration(width: int) -> None:
    logits, inside = batch()
    spans = span_logits(logits, BIAS, LENGTHS, inside, width)
    true = enumerated(logits, inside, width)
    places = {(int(t), int(t + k)) for t, k in torch.nonzero(spans > IMPOSSIBLE / 2)}
    assert places == {place for window in true.values() for place in window}
    for window in true.values():
        for (i, j), value in window.items():
            assert float(spans[i, j - i].detach()) == pytest.approx(value, abs=1e-6)
    null = null_logits(logits, LENGTHS)
    assert null.tolist() == pytest.approx([float(logits[i].sum().detach()) for i in (0, 6, 10)])
    expected = [
        math.log(sum(math.exp(v) for v in true[w].values()) + math.exp(float(null[w].detach()))) for w in range(len(LENGTHS))
    ]
    total = log_partition(spans, null, LENGTHS)
    assert total.tolist() == pytest.approx(expected, abs=1e-5)
    total.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    # d log Z / d logit is a probability: of all starts and the null together 1 in each window
    for window in torch.split(logits.grad, LENGTHS.tolist()):
        assert float(window[:, 0].sum()) == pytest.approx(1.0, abs=1e-5)


CONTEXT = "the red card and the lost order"
WORDS = torch.tensor([[0, 3], [4, 7], [8, 12], [13, 16], [17, 20], [21, 25], [26, 31]])


def spans_with(scores: dict[tuple[int, int], float]) -> torch.Tensor:
    spans = torch.full((len(WORDS), 4), IMPOSSIBLE)
    for (i, j), score in scores.items():
        spans[i, j - i] = score
    return spans


def read(spans: torch.Tensor, null: float, offsets: torch.Tensor, context: str, params: QaParams) -> QaOutput:
    """The answers of windows that are one piece."""
    return read_answers([Piece(offsets, lambda: spans[:, : params.max_answer_tokens])], null, context, params)


def test_near_duplicates_go_and_other_places_stay() -> None:
    spans = spans_with({(1, 2): 5.0, (2, 2): 4.5, (0, 2): 4.4, (2, 4): 4.3, (5, 6): 4.0, (5, 5): 1.0})
    found = read(spans, 0.0, WORDS, CONTEXT, QaParams(top_k=10)).answers
    assert [answer.text for answer in found] == ["red card", "lost order"]
    kept = read(spans, 0.0, WORDS, CONTEXT, QaParams(top_k=10, max_answer_tokens=1)).answers
    assert [answer.text for answer in kept] == ["card", "lost"]


def test_probabilities_are_a_softmax_over_spans_and_the_null() -> None:
    scores = {(1, 2): 2.0, (5, 6): 1.0, (3, 3): 0.0}
    found = read(spans_with(scores), 0.5, WORDS, CONTEXT, QaParams(top_k=10))
    total = sum(math.exp(value) for value in (*scores.values(), 0.5))
    assert [answer.score for answer in found.answers] == pytest.approx([math.exp(x) / total for x in (2, 1, 0)])
    assert found.no_answer_score == pytest.approx(math.exp(0.5) / total)


def test_a_span_that_two_windows_hold_counts_once_with_its_best_logit() -> None:
    once = read(spans_with({(1, 2): 2.0, (5, 6): 1.0}), 0.0, WORDS, CONTEXT, QaParams(top_k=10))
    both = torch.cat([spans_with({(1, 2): 2.0}), spans_with({(1, 2): 0.3, (5, 6): 1.0})])
    twice = read(both, 0.0, WORDS.repeat(2, 1), CONTEXT, QaParams(top_k=10))
    assert twice == once


def test_none_where_no_answer_is_likelier_than_all_answers() -> None:
    spans = spans_with({(1, 2): 2.0})
    assert read(spans, 3.0, WORDS, CONTEXT, QaParams()).answers == ()
    assert read(spans, 3.0, WORDS, CONTEXT, QaParams(no_answer_threshold=0.8)).answers
    nothing = read(spans_with({}), 1.0, WORDS, CONTEXT, QaParams(no_answer_threshold=1.0))
    assert nothing.answers == ()
    assert nothing.no_answer_score == 1.0


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        ("un cafe\u0301 noir", (3, 7), "cafe\u0301"),
        ("👍🏽 yes", (0, 1), "👍🏽"),
        ("a 👩‍👩‍👧 b", (2, 3), "👩‍👩‍👧"),
        ("x 🏳️‍🌈 y", (2, 3), "🏳️‍🌈"),
        ("I 🇩🇪 x", (2, 3), "🇩🇪"),
        ("I 🇩🇪🇫🇷 x", (4, 5), "🇫🇷"),
        ("I 🇩🇪🇫🇷 x", (3, 4), "🇩🇪"),
        ("🏴\U000e0067\U000e0062\U000e007f x", (0, 1), "🏴\U000e0067\U000e0062\U000e007f"),
        ("  red card ", (0, 11), "red card"),
        ("我的卡", (1, 3), "的卡"),
    ],
)
def test_characters_stay_whole(text: str, span: tuple[int, int], expected: str) -> None:
    start, end = whole_characters(text, *span)
    assert text[start:end] == expected


@given(st.text(alphabet="ae \u0301\u0308👍🏽\u200d👩银", max_size=20), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_widened_spans_never_cut_a_mark_off(text: str, one: int, other: int) -> None:
    start, end = sorted((min(one, len(text)), min(other, len(text))))
    first, last = whole_characters(text, start, end)
    assert 0 <= first <= last <= len(text)
    if first < last and text[start:end].strip():
        assert last == len(text) or unicodedata.category(text[last]) != "Mn"
        assert first == 0 or unicodedata.category(text[first]) != "Mn"
        assert text[start:end].strip() in text[first:last]


def plainly(spans: torch.Tensor, null: float, offsets: torch.Tensor, context: str, params: QaParams) -> QaOutput:
    """`read_answers` as its docstring says it, span by span."""
    best: dict[tuple[int, int], float] = {}
    for t, row in enumerate(spans.tolist()):
        for k, logit in enumerate(row):
            if logit > IMPOSSIBLE / 2:
                place = (int(offsets[t, 0]), int(offsets[t + k, 1]))
                best[place] = max(best.get(place, logit), logit)
    total = sum(map(math.exp, [*best.values(), null]))
    scores = {place: math.exp(logit) / total for place, logit in best.items()}
    order = sorted(scores, key=lambda place: -scores[place])
    voters = order[: decoding.VOTERS]
    worth = {place: sum(scores[other] * agreement(place, other) for other in voters) for place in voters}
    ranked = [*sorted(voters, key=lambda place: -worth[place]), *order[len(voters) :]]
    found: list[Answer] = []
    left = [place for place in ranked if scores[place] >= params.threshold]
    while left and len(found) < params.top_k:
        start, end = left[0]
        score = scores[start, end]
        left = [(s, e) for s, e in left if 2 * (min(e, end) - max(s, start)) < min(e - s, end - start)]
        found.append(Answer(text=context[start:end], start=start, end=end, score=score))
    none = math.exp(null) / total
    return QaOutput(answers=() if none > params.no_answer_threshold else tuple(found), no_answer_score=none)


def agreement(one: tuple[int, int], other: tuple[int, int]) -> float:
    """F1 of code points."""
    same = len(set(range(*one)) & set(range(*other)))
    return 2 * same / (one[1] - one[0] + other[1] - other[0])


@given(
    seed=st.integers(0, 10_000),
    windows=st.integers(1, 9),
    step=st.integers(1, 7),
    grouped=st.integers(1, 3),
    kept=st.sampled_from([5, 8, 65_536]),
    top_k=st.integers(1, 12),
    width=st.integers(1, 9),
    threshold=st.sampled_from([0.0, 1e-3, 0.1]),
)
@settings(max_examples=150, deadline=None)
def test_answers_are_the_same_in_pieces_and_with_few_spans_kept(
    seed: int, windows: int, step: int, grouped: int, kept: int, top_k: int, width: int, threshold: float
) -> None:
    """Windows of 7 tokens that begin `step` tokens apart, so that up to all of them hold a span."""
    generator = torch.Generator().manual_seed(seed)
    context = "x" * (2 * (windows * step + 7))
    places = [torch.tensor([[2 * t, 2 * t + 2] for t in range(w * step, w * step + 7)]) for w in range(windows)]
    logits = torch.randn(7 * windows, 2, generator=generator) * 3
    lengths, inside = torch.full((windows,), 7), torch.rand(7 * windows, generator=generator) > -1
    offsets = torch.cat(places)
    params = QaParams(top_k=top_k, threshold=threshold, max_answer_tokens=width, no_answer_threshold=1.0)
    pieces = [
        Piece(
            offsets[at : at + 7 * grouped],
            partial(span_logits, part, BIAS, lengths[: len(part) // 7], inside[: len(part)], width),
        )
        for at, part in zip(range(0, 7 * windows, 7 * grouped), torch.split(logits, 7 * grouped), strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "KEPT_SPANS", kept)
        patch.setattr(decoding, "VOTERS", 5)
        found = read_answers(pieces, 0.5, context, params)
        expected = plainly(span_logits(logits, BIAS, lengths, inside, width), 0.5, offsets, context, params)
    assert [(a.start, a.end) for a in found.answers] == [(a.start, a.end) for a in expected.answers]
    assert [a.score for a in found.answers] == pytest.approx([a.score for a in expected.answers])
    assert found.no_answer_score == pytest.approx(expected.no_answer_score)


def test_the_best_answer_has_most_in_common_with_the_likely_ones() -> None:
    """Of three overlapping spans and one elsewhere, the likeliest is the one elsewhere."""
    offsets = torch.tensor([[0, 4], [5, 9], [10, 14], [20, 24]])
    spans = torch.full((4, 3), IMPOSSIBLE)
    for token, reach, share in ((0, 1, 0.25), (1, 0, 0.2), (1, 1, 0.25), (3, 0, 0.3)):
        spans[token, reach] = math.log(share)
    piece = Piece(offsets, lambda: spans)
    params = QaParams(top_k=3, no_answer_threshold=1.0)
    found = read_answers([piece], IMPOSSIBLE, "over that hill      away now", params)
    assert [(answer.start, answer.end) for answer in found.answers] == [(5, 9), (20, 24)]
    assert [answer.score for answer in found.answers] == pytest.approx([0.2, 0.3])


def test_a_request_for_long_answers_does_not_widen_the_spans_of_others() -> None:
    widths = []

    def seen(logits: torch.Tensor, *rest: object) -> torch.Tensor:
        widths.append((len(logits), rest[-1]))
        return span_logits(logits, *rest)  # type: ignore[arg-type]

    lengths = torch.tensor([8, 8, 8])
    inside = torch.tensor([0, 0, 1, 1, 1, 1, 1, 0] * 3).bool()
    offsets = torch.stack([torch.arange(24), torch.arange(24) + 1], 1).masked_fill(~inside.unsqueeze(1), -1)
    outputs = {
        "logits": torch.randn(24, 2), "length_bias": torch.zeros(1), "lengths": lengths, "owner": torch.tensor([0, 1, 1]),
        "offsets": offsets,
    }  # fmt: skip
    inputs = [QaInput(question="where?", context="x" * 30)] * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "span_logits", seen)
        patch.setattr(model_module, "PIECE_SPANS", 100)
        QaModel.decode(Mock(spec=QaModel), outputs, inputs, [QaParams(max_answer_tokens=2), QaParams(max_answer_tokens=200)])
    assert widths == [(8, 2), (8, 200), (8, 200)]
