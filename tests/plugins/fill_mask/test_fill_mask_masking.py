"""What is hidden of training rows: the rate, whole words, and nothing special."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taskloom.plugins.tasks.fill_mask.corpus import TokenFile, TokenRows
from taskloom.plugins.tasks.fill_mask.masking import Masker, start_chance
from taskloom.plugins.tasks.fill_mask.schema import Masking

DRAWS = 25
KINDS: tuple[Masking, ...] = ("word", "character", "span")


@pytest.fixture(scope="module")
def rows(processor: Any, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    file = TokenFile.build(tmp_path_factory.mktemp("tokens"), "sample", texts, processor)
    found = TokenRows(file, 128)
    return found.read(range(len(found)), processor.cls_token_id, processor.sep_token_id)


def masker(processor: Any, masking: Masking, **options: Any) -> Masker:
    special = torch.zeros(len(processor), dtype=torch.bool)
    special[processor.all_special_ids] = True
    return Masker(processor.mask_token_id, special, masking, **options)


def words_of(starts: Tensor) -> Tensor:
    return starts.flatten().cumsum(0) - 1


@pytest.mark.parametrize("masking", KINDS)
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_the_rate_holds_and_eight_of_ten_are_masks(
    processor: Any, rows: tuple[Tensor, Tensor], masking: Masking, rate: float
) -> None:
    ids, starts = rows
    hider = masker(processor, masking, rate=rate)
    ordinary = int((~hider.special[ids]).sum())
    torch.manual_seed(1)
    hidden = masks = kept = 0
    for _ in range(DRAWS):
        found = hider.hide(ids, starts)
        now = found.ids.flatten()[found.places]
        hidden += len(found.places)
        masks += int((now == processor.mask_token_id).sum())
        kept += int((now == found.labels).sum())
    share = hidden / (ordinary * DRAWS)
    assert rate * 0.93 < share < rate * 1.04  # a little below: words that rows cut through are never hidden
    assert masks / hidden == pytest.approx(0.8, abs=0.02)
    assert kept / hidden == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("masking", ["word", "span"])
def test_the_share_of_words_is_the_rate_too(processor: Any, rows: tuple[Tensor, Tensor], masking: Masking) -> None:
    ids, starts = rows
    words = words_of(starts)
    torch.manual_seed(2)
    hidden = sum(len(words[masker(processor, masking).hide(ids, starts).places].unique()) for _ in range(DRAWS))
    assert hidden / (DRAWS * (int(words[-1]) + 1)) == pytest.approx(0.15, abs=0.012)


@given(seed=st.integers(0, 2**31), masking=st.sampled_from(["word", "span"]), rate=st.floats(0.05, 0.6))
@settings(deadline=None, max_examples=12)
def test_no_word_is_hidden_in_part_and_it_shares_its_fate(
    processor: Any, rows: tuple[Tensor, Tensor], seed: int, masking: Masking, rate: float
) -> None:
    ids, starts = rows
    words, mask = words_of(starts), processor.mask_token_id
    torch.manual_seed(seed)
    hider = masker(processor, masking, rate=rate)
    found = hider.hide(ids, starts)
    flat, now = ids.flatten(), found.ids.flatten()
    hidden = torch.zeros(len(flat), dtype=torch.bool)
    hidden[found.places] = True
    assert torch.equal(flat[found.places], found.labels)
    assert torch.equal(now[~hidden], flat[~hidden])
    assert not hider.special[flat[hidden]].any()
    assert not (hider.special[now[hidden]] & (now[hidden] != mask)).any()
    for word in words[found.places].unique().tolist():
        own = words == word
        assert hidden[own].all()
        is_mask = now[own] == mask
        assert is_mask.all() or not is_mask.any()


@pytest.mark.parametrize("masking", KINDS)
def test_special_tokens_and_words_that_are_cut_are_never_hidden(processor: Any, masking: Masking) -> None:
    cls, sep = processor.cls_token_id, processor.sep_token_id
    ids = torch.tensor([[cls, 20, 21, 22, sep, 23, 24, sep]])
    starts = torch.tensor([[True, False, True, False, True, True, False, False]])  # 20 and [23, 24] go on outside of the row
    hider = masker(processor, masking, rate=0.9)
    allowed = {1, 2, 3, 5, 6} if masking == "character" else {2, 3}
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        seen |= set(hider.hide(ids, starts).places.tolist())
    assert seen == allowed


def test_long_words_are_left_alone(processor: Any) -> None:
    ids = torch.full((1, 32), 20)
    starts = torch.zeros(1, 32, dtype=torch.bool)
    starts[0, [0, 11, 21]] = True  # words of 11, 10 and 11 tokens
    places = set()
    for seed in range(40):
        torch.manual_seed(seed)
        places |= set(masker(processor, "word", rate=0.5).hide(ids, starts).places.tolist())
    assert places == set(range(11, 21))


def test_spans_are_longer_than_words(processor: Any, rows: tuple[Tensor, Tensor]) -> None:
    ids, starts = rows

    def mean_run(masking: Masking) -> float:
        torch.manual_seed(3)
        places = masker(processor, masking).hide(ids, starts).places
        return len(places) / (1 + int((places[1:] != places[:-1] + 1).sum()))

    assert mean_run("span") > 1.7 * mean_run("word") > 1.7 * mean_run("character")


def test_spans_reach_every_place_of_a_row_alike(processor: Any) -> None:
    """Neither cut off where a row begins, nor going on from one row into the next."""
    ids = torch.full((1500, 14), 20)
    ids[:, 0], ids[:, -1] = processor.cls_token_id, processor.sep_token_id
    torch.manual_seed(4)
    hider = masker(processor, "span", rate=0.3)
    shares = torch.zeros(14)
    for _ in range(4):
        places = hider.hide(ids, torch.ones_like(ids, dtype=torch.bool)).places
        shares += torch.bincount(places % 14, minlength=14) / (4 * 1500)
    assert shares[1:-1].min() > 0.27
    assert shares[1:-1].max() < 0.33


@pytest.mark.parametrize(("rate", "stop", "longest"), [(0.15, 0.2, 10), (0.5, 0.2, 10), (0.15, 0.5, 3), (0.3, 0.9, 1)])
def test_spans_start_often_enough(rate: float, stop: float, longest: int) -> None:
    chance = start_chance(rate, stop, longest)
    free = 1.0
    for k in range(longest):
        free *= 1 - chance * (1 - stop) ** k
    assert 1 - free == pytest.approx(rate)


def test_what_is_hidden_is_drawn_anew_and_the_same_seed_gives_the_same(processor: Any, rows: tuple[Tensor, Tensor]) -> None:
    hider = masker(processor, "word")
    torch.manual_seed(7)
    one, other = hider.hide(*rows), hider.hide(*rows)
    torch.manual_seed(7)
    again = hider.hide(*rows)
    assert not torch.equal(one.places, other.places)
    assert torch.equal(one.ids, again.ids)
