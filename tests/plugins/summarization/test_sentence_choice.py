"""Which sentences make a summary, and which part of a sentence is left."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taskloom.plugins.tasks.summarization import shortening
from taskloom.plugins.tasks.summarization.heads import ATTENTION_AREA, BLOCK, SummaryHead
from taskloom.plugins.tasks.summarization.selection import Limits, choose, joined
from taskloom.plugins.tasks.summarization.shortening import Word, shortened

SCORES = torch.tensor([0.5, 0.48, 0.3, 0.02])
VECTORS = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [-1.0, 0.0]])
TEXTS = ["first one.", "first again.", "second.", "x."]


def chosen(most: int, penalty: float = 0.0, **limits: int) -> list[int]:
    return choose(SCORES, VECTORS, TEXTS, [3, 3, 2, 1], limits=Limits(most, **limits), penalty=penalty)


def test_the_best_sentences_come_in_the_documents_order() -> None:
    assert chosen(2) == [0, 1]
    assert choose(SCORES.flip(0), VECTORS, TEXTS, [1] * 4, limits=Limits(2), penalty=0) == [2, 3]


def test_a_sentence_that_repeats_another_gives_way() -> None:
    assert chosen(2, penalty=0.4) == [0, 2]
    assert chosen(2, penalty=1.0) == [0, 2]


def test_what_does_not_fit_is_passed_over() -> None:
    assert chosen(4, characters=18) == [0, 2]
    assert chosen(4, tokens=4) == [0, 3]
    assert chosen(4, characters=9) == [2]
    assert chosen(4, characters=1) == []


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1.0])
def test_all_sentences_can_be_asked_for(penalty: float) -> None:
    assert chosen(9, penalty) == [0, 1, 2, 3]


def test_sentences_are_joined_as_their_language_joins_them() -> None:
    assert joined(["One.", "Two."]) == "One. Two."
    assert joined(["他说：“好。”", "“走吧。”"]) == "他说：“好。”“走吧。”"
    assert joined(["好。", "OK.", "한국어 문장.", "또 하나."]) == "好。 OK. 한국어 문장. 또 하나."


def words_of(text: str, kept: str) -> list[Word]:
    """The words and marks of a text; those in `kept` matter."""
    import re

    return [
        Word(m.group(), m.start(), m.end(), 0.9 if m.group() in kept.split() else 0.05)
        for m in re.finditer(r"\w+|[^\w\s]", text)
    ]


def left(text: str, kept: str, unsaid: float = 1.5) -> str:
    part = shortened(words_of(text, kept), unsaid)
    return text if part is None else text[slice(*part)]


def test_what_says_little_is_left_out_at_both_ends() -> None:
    text = "On Monday evening, the city council bought new electric buses, after a debate of five hours."
    assert left(text, "city council bought electric buses") == "the city council bought new electric buses"


def test_a_sentence_is_cut_at_phrases_alone() -> None:
    text = "The council of the city bought fifty buses in Oslo with money from oil"
    assert left(text, "council bought buses") == "The council of the city bought fifty buses"
    assert left("A small council without money bought buses", "council") == "A small council without money bought buses"


def test_a_number_is_no_place_to_cut() -> None:
    text = "Officials said that the city bought 50,000 electric buses (worth 9:30 or so)"
    assert left(text, "the city bought 50 000 electric buses") == "the city bought 50,000 electric buses"


def test_nothing_begins_or_ends_with_a_word_that_leans_on_another() -> None:
    text = "The party won a seat, but not enough to take the council, as expected"
    assert left(text, "enough take council").startswith("The party")
    text = "He will go back to the city of buses and the, in spite of cost"
    assert left(text, "He go back city buses") != "He will go back to the city of buses and the"


def test_who_said_it_may_go() -> None:
    assert left("The mayor of Oslo said that buses cost too much money now", "buses cost too much money").startswith("buses")


def test_a_sentence_that_matters_stays_whole() -> None:
    text = "In Oslo, the city bought buses, with money."
    assert left(text, text.replace(",", "").replace(".", "")) == text


def test_longer_summaries_keep_more() -> None:
    text = "The city bought buses after a vote, because of smoke, in spite of costs"
    kept = "The city bought buses vote smoke"
    assert len(left(text, kept, unsaid=0.2)) < len(left(text, kept, unsaid=5.0))


def head_over(documents: list[int]) -> tuple[SummaryHead, Tensor, Tensor, Tensor]:
    """A random head, and documents of so many sentences with two tokens each."""
    torch.manual_seed(7)
    owner = torch.arange(sum(documents)).repeat_interleave(2)
    return SummaryHead(8, 8, 1, 0.0).eval(), torch.randn(len(owner), 8), owner, torch.tensor(documents)


def test_attention_over_a_very_long_document_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    head, hidden, owner, documents = head_over([3000] * 3)
    areas: list[int] = []
    attend = head.document.forward  # type: ignore[union-attr]

    def measured(rows: Tensor, **options: Tensor) -> Tensor:
        areas.append(rows.shape[0] * rows.shape[1] ** 2)
        return attend(rows, **options)

    monkeypatch.setattr(head.document, "forward", measured)
    with torch.inference_mode():
        found = head(hidden, owner, documents)
    assert max(areas) <= ATTENTION_AREA
    assert found.logits.shape == (9000,)
    assert found.keep.shape == (18000,)
    assert torch.isfinite(found.logits).all()


def test_sentences_of_a_document_are_seen_together_up_to_a_block() -> None:
    head, hidden, owner, documents = head_over([BLOCK])
    with torch.inference_mode():
        before = head(hidden, owner, documents).logits
        hidden[-2:] += 5.0
        after = head(hidden, owner, documents).logits
    assert not torch.allclose(before[0], after[0], atol=1e-6)


def test_a_block_of_a_long_document_knows_where_it_stands() -> None:
    head, hidden, owner, documents = head_over([2 * BLOCK])
    hidden[2 * BLOCK :] = hidden[: 2 * BLOCK]
    with torch.inference_mode():
        logits = head(hidden, owner, documents).logits
        alone = head(hidden[: 2 * BLOCK], owner[: 2 * BLOCK], torch.tensor([BLOCK])).logits
    assert torch.allclose(logits[:BLOCK], alone, atol=1e-5)
    assert not torch.allclose(logits[:BLOCK], logits[BLOCK:], atol=1e-3)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(["buses", "the", "with", ",", "; ", "50"]), st.floats(0, 1)), max_size=25),
    st.floats(0, 3),
)
def test_no_part_that_can_be_cut_out_is_worth_more(chosen: list[tuple[str, float]], unsaid: float) -> None:
    words, at = [], 0
    for text, keep in chosen:
        words.append(Word(text.strip(), at, at + len(text.strip()), keep))
        at += len(text) + 1
    gain = [word.keep if word.counts else 0.0 for word in words]

    def worth(first: int, last: int) -> float:
        return 2 * sum(gain[first:last]) / max(sum(word.counts for word in words[first:last]) + unsaid * sum(gain), 1e-9)

    part = shortened(words, unsaid)
    starts, ends = [word.start for word in words], [word.end for word in words]
    found = worth(starts.index(part[0]), ends.index(part[1]) + 1) if part else worth(0, len(words))
    for first in shortening._beginnings(words):
        for last in shortening._endings(words):
            if sum(word.counts for word in words[first:last]) >= shortening.SHORTEST:
                assert worth(first, last) <= found + 1e-9


def test_a_list_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_of(" ".join("ab," for _ in range(250)), "")
    looked = []
    is_cut = shortening._is_cut
    monkeypatch.setattr(shortening, "_is_cut", lambda words, i: looked.append(i) or is_cut(words, i))
    shortened(words, 1.5)
    assert len(looked) <= 2 * len(words)
