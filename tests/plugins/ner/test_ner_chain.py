"""Tags and chains of them, held against enumeration: partition function, best sequence, probability of an entity."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.core.errors import UnsupportedError
from taskloom.plugins.tasks.ner.chain import ILLEGAL, Chain, padded
from taskloom.plugins.tasks.ner.decoding import tagged_spans
from taskloom.plugins.tasks.ner.tags import TagSet, WordSpan, read_leniently

BIO = TagSet.of(["PER", "LOC"], "BIO")
BIOES = TagSet.of(["PER", "LOC"], "BIOES")
IO = TagSet(("I-PER", "O", "I-LOC"))
BILOU = TagSet(("O", "B-PER", "I-PER", "L-PER", "U-PER"))
BMES = TagSet(("B-PER", "M-PER", "E-PER", "S-PER", "O"))
BIOE = TagSet(("O", "B-PER", "I-PER", "E-PER"))
OLD = TagSet(("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), i_may_begin=True)
SETS = [BIO, BIOES, IO, BILOU, BMES, BIOE, OLD]


def is_legal(tags: TagSet, sequence: Any) -> bool:
    """By the definition of the schemes, not by the tables that decoding uses: spelling what it says gives it back.
    Where `I` may begin an entity, each sequence says what the evaluation of such data takes it for."""
    if tags.i_may_begin:
        return tags.read(sequence) == read_leniently([tags.tags[tag] for tag in sequence])
    return tags.spell(tags.read(sequence), len(sequence)) == list(sequence)


def random_chain(tags: TagSet, seed: int) -> Chain:
    size = len(tags.tags)
    torch.manual_seed(seed)
    return Chain.legal(tags).plus(torch.randn(size, size), torch.randn(size), torch.randn(size))


def weight(chain: Chain, emissions: torch.Tensor, sequence: Any) -> float:
    total = float(chain.start[sequence[0]] + chain.end[sequence[-1]])
    total += sum(float(emissions[place, tag]) for place, tag in enumerate(sequence))
    return total + sum(float(chain.transitions[i, j]) for i, j in pairwise(sequence))


def every_legal(tags: TagSet, words: int) -> list[tuple[int, ...]]:
    return [sequence for sequence in product(range(len(tags.tags)), repeat=words) if is_legal(tags, sequence)]


@pytest.mark.parametrize("tags", SETS, ids=lambda tags: " ".join(tags.tags) + tags.i_may_begin * " old")
@pytest.mark.parametrize("words", [1, 2, 4])
def test_a_crf_is_what_enumeration_says(tags: TagSet, words: int) -> None:
    chain = random_chain(tags, words)
    emissions = torch.randn(words, len(tags.tags)) * 2
    weights = {sequence: weight(chain, emissions, sequence) for sequence in every_legal(tags, words)}
    total = math.log(sum(math.exp(w) for w in weights.values()))
    counts = torch.tensor([words])
    assert float(chain.log_partition(emissions.unsqueeze(0), counts)) == pytest.approx(total, abs=1e-4)
    best = max(weights, key=weights.__getitem__)
    assert chain.best(emissions.unsqueeze(0), counts) == [list(best)]
    longer = torch.cat([emissions, torch.randn(3, len(tags.tags))])
    padding = torch.full((3, len(tags.tags)), 7.0)
    lattice = chain.lattices(torch.stack([longer, torch.cat([emissions, padding])]), torch.tensor([words + 3, words]))[1]
    assert lattice.total == pytest.approx(total, abs=1e-4)
    spans = {span for sequence in weights for span in tags.read(sequence)}
    for span in spans:
        share = sum(math.exp(w - total) for sequence, w in weights.items() if span in tags.read(sequence))
        assert lattice.probability(span, tags) == pytest.approx(share, abs=1e-5), span


def test_emissions_can_leave_tags_open() -> None:
    """The likelihood of data that doesn't tell everything: the sum over what it allows."""
    chain = random_chain(BIO, 5)
    emissions = torch.randn(3, 5)
    allowed = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 1, 1]]).bool()
    expected = [s for s in every_legal(BIO, 3) if all(allowed[place, tag] for place, tag in enumerate(s))]
    assert len(expected) == 2
    total = math.log(sum(math.exp(weight(chain, emissions, sequence)) for sequence in expected))
    found = chain.log_partition(emissions.masked_fill(~allowed, ILLEGAL).unsqueeze(0), torch.tensor([3]))
    assert float(found) == pytest.approx(total, abs=1e-3)


def test_texts_of_a_batch_keep_apart() -> None:
    chain = random_chain(BIOES, 9)
    rows = torch.randn(6, 9)
    counts = torch.tensor([1, 0, 5])
    together = padded(rows, counts)
    alone = [rows[:1], rows[1:]]
    sums = chain.log_partition(together, counts)
    assert float(sums[1]) == 0.0
    assert [float(sums[0]), float(sums[2])] == pytest.approx(
        [float(chain.log_partition(part.unsqueeze(0), torch.tensor([len(part)]))) for part in alone], abs=1e-4
    )
    best = chain.best(together, counts)
    assert [len(sequence) for sequence in best] == [1, 0, 5]
    assert best[2] == chain.best(alone[1].unsqueeze(0), torch.tensor([5]))[0]


@given(
    tags=st.sampled_from(SETS),
    data=st.data(),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
)
@settings(deadline=None, max_examples=80)
def test_no_logits_make_an_illegal_sequence(tags: TagSet, data: st.DataObject, counts: list[int]) -> None:
    number = st.floats(-1e6, 1e6, width=32)
    row = st.lists(number, min_size=len(tags.tags), max_size=len(tags.tags))
    rows = data.draw(st.lists(row, min_size=sum(counts), max_size=sum(counts)))
    logits = torch.tensor(rows).view(sum(counts), len(tags.tags))
    lengths = torch.tensor(counts)
    chain = Chain.legal(tags)
    for sequence, count in zip(chain.best(padded(logits, lengths), lengths), counts, strict=True):
        assert len(sequence) == count
        assert is_legal(tags, sequence)
    for found, count in zip(tagged_spans(logits, lengths, chain, tags), counts, strict=True):
        assert all(0 <= span.start < span.end <= count and 0 <= score <= 1 for span, score in found)


@given(tags=st.sampled_from([BIO, BIOES, BILOU, BMES, OLD]), data=st.data())
@settings(deadline=None)
def test_spelling_and_reading_are_inverse(tags: TagSet, data: st.DataObject) -> None:
    spans, at = [], 0
    for gap, size, label in data.draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(tags.labels)), max_size=5)
    ):
        spans.append(WordSpan(at + gap, at + gap + size, label))
        at += gap + size
    spelt = tags.spell(spans, at + 1)
    assert tags.read(spelt) == spans
    assert read_leniently([tags.tags[tag] for tag in spelt]) == spans


def test_old_files_begin_an_entity_with_i() -> None:
    assert read_leniently(["I-PER", "I-LOC", "O", "I-LOC", "B-LOC"]) == [
        WordSpan(0, 1, "PER"),
        WordSpan(1, 2, "LOC"),
        WordSpan(3, 4, "LOC"),
        WordSpan(4, 5, "LOC"),
    ]


@pytest.mark.parametrize("tags", [("LABEL_0", "LABEL_1"), ("O", "PER"), ("B-PER", "I-PER"), ("O", "B-PER", "B-PER")])
def test_tags_that_are_none_are_refused(tags: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedError, match="tag"):
        TagSet(tags).spell([], 1)
