"""Span logits against enumeration, and the decoding of spans into distinct answers."""

from __future__ import annotations

import math
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.plugins.tasks.qa.decoding import read_answers, whole_characters
from taskloom.plugins.tasks.qa.schema import QaParams
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


def test_near_duplicates_go_and_other_places_stay() -> None:
    spans = spans_with({(1, 2): 5.0, (2, 2): 4.5, (0, 2): 4.4, (2, 4): 4.3, (5, 6): 4.0, (5, 5): 1.0})
    found = read_answers(spans, 0.0, WORDS, CONTEXT, QaParams(top_k=10)).answers
    assert [answer.text for answer in found] == ["red card", "lost order"]
    kept = read_answers(spans, 0.0, WORDS, CONTEXT, QaParams(top_k=10, max_answer_tokens=1)).answers
    assert [answer.text for answer in kept] == ["card", "lost"]


def test_probabilities_are_a_softmax_over_spans_and_the_null() -> None:
    scores = {(1, 2): 2.0, (5, 6): 1.0, (3, 3): 0.0}
    found = read_answers(spans_with(scores), 0.5, WORDS, CONTEXT, QaParams(top_k=10))
    total = sum(math.exp(value) for value in (*scores.values(), 0.5))
    assert [answer.score for answer in found.answers] == pytest.approx([math.exp(x) / total for x in (2, 1, 0)])
    assert found.no_answer_score == pytest.approx(math.exp(0.5) / total)


def test_a_span_that_two_windows_hold_counts_once_with_its_best_logit() -> None:
    once = read_answers(spans_with({(1, 2): 2.0, (5, 6): 1.0}), 0.0, WORDS, CONTEXT, QaParams(top_k=10))
    both = torch.cat([spans_with({(1, 2): 2.0}), spans_with({(1, 2): 0.3, (5, 6): 1.0})])
    twice = read_answers(both, 0.0, WORDS.repeat(2, 1), CONTEXT, QaParams(top_k=10))
    assert twice == once


def test_none_where_no_answer_is_likelier_than_all_answers() -> None:
    spans = spans_with({(1, 2): 2.0})
    assert read_answers(spans, 3.0, WORDS, CONTEXT, QaParams()).answers == ()
    assert read_answers(spans, 3.0, WORDS, CONTEXT, QaParams(no_answer_threshold=0.8)).answers
    nothing = read_answers(spans_with({}), 1.0, WORDS, CONTEXT, QaParams(no_answer_threshold=1.0))
    assert nothing.answers == ()
    assert nothing.no_answer_score == 1.0


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        ("un cafe\u0301 noir", (3, 7), "cafe\u0301"),
        ("👍🏽 yes", (0, 1), "👍🏽"),
        ("a 👩‍👩‍👧 b", (2, 3), "👩‍👩‍👧"),
        ("x 🏳️‍🌈 y", (2, 3), "🏳️‍🌈"),
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
