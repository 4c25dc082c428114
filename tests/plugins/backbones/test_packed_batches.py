"""A batch gives the same hidden states packed, padded and one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.core.errors import UnsupportedError
from taskloom.plugins.backbones.encoder import PACKABLE, TextEncoder, length_buckets
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.backbones.packing import BLOCK, PackedRow, passes, plan_row, row_length

MAX_LENGTH = 128
LENGTHS = st.lists(st.one_of(st.integers(1, 12), st.integers(1, MAX_LENGTH)), min_size=1, max_size=16)


def ragged(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    ids = torch.randint(5, 40, (total,), generator=draw)
    return ids, torch.randint(0, 2, (total,), generator=draw), torch.tensor(lengths)


def run(encoder: TextEncoder, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(*batch)


def one_by_one(encoder: TextEncoder, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    ids, types, lengths = batch
    sizes = lengths.tolist()
    parts = zip(ids.split(sizes), types.split(sizes), sizes, strict=True)
    return torch.cat([run(encoder, (i, t, torch.tensor([size]))) for i, t, size in parts])


@pytest.fixture(scope="module")
def encoders(tiny_bert: str) -> tuple[TextEncoder, TextEncoder]:
    return TextEncoder(load_backbone(tiny_bert)), TextEncoder(load_backbone(tiny_bert), layout="padded")


@pytest.fixture(scope="module")
def half_encoders(tiny_bert: str) -> tuple[TextEncoder, TextEncoder]:
    first, second = (load_backbone(tiny_bert, dtype=torch.bfloat16) for _ in range(2))
    return TextEncoder(first), TextEncoder(second, layout="padded")


@given(lengths=LENGTHS, seed=st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_packed_padded_and_single_agree(encoders: tuple[TextEncoder, TextEncoder], lengths: list[int], seed: int) -> None:
    packed, padded = encoders
    assert (packed.layout, padded.layout) == ("packed", "padded")
    batch = ragged(lengths, seed)
    found = run(packed, batch)
    assert found.shape == (sum(lengths), 32)
    torch.testing.assert_close(found, run(padded, batch), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, one_by_one(padded, batch), atol=1e-5, rtol=1e-5)


@given(lengths=LENGTHS)
@settings(max_examples=15, deadline=None)
def test_packed_and_padded_agree_in_bf16(half_encoders: tuple[TextEncoder, TextEncoder], lengths: list[int]) -> None:
    """To 0.05 of hidden states whose standard deviation is about 1: bfloat16 has 8 bits of mantissa."""
    packed, padded = half_encoders
    batch = ragged(lengths)
    torch.testing.assert_close(run(packed, batch).float(), run(padded, batch).float(), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("kind", sorted(PACKABLE))
def test_every_packable_architecture_agrees_with_transformers_alone(kind: str, checkpoint: Callable[..., Path]) -> None:
    backbone = load_backbone(str(checkpoint(kind)))
    reference = load_backbone(str(checkpoint(kind))).model
    encoder = TextEncoder(backbone)
    assert encoder.layout == "packed"
    ids, types, lengths = ragged([3, 70, 1, 128, 9, 9, 40])
    types = torch.zeros_like(types)
    found = run(encoder, (ids, types, lengths)).split(lengths.tolist())
    for part, mine in zip(ids.split(lengths.tolist()), found, strict=True):
        with torch.inference_mode():
            theirs = reference(input_ids=part[None], attention_mask=torch.ones_like(part)[None]).last_hidden_state[0]
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_flow_through_a_packed_batch(tiny_bert: str) -> None:
    packed, padded = TextEncoder(load_backbone(tiny_bert)), TextEncoder(load_backbone(tiny_bert), layout="padded")
    gradients = []
    for encoder in (packed, padded):
        encoder.eval()
        encoder(*ragged([5, 30, 64, 2, 100])).square().sum().backward()
        gradients.append(encoder.model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)


def test_two_threads_do_not_mix_their_batches(encoders: tuple[TextEncoder, TextEncoder]) -> None:
    packed, _ = encoders
    batches = [ragged([3, 60, 11, 90], 1), ragged([20, 20, 1, 7, 100], 2)]
    expected = [run(packed, batch) for batch in batches]
    wrong: list[float] = []

    def work(i: int) -> None:
        for _ in range(30):
            worst = float((run(packed, batches[i]) - expected[i]).abs().max())
            if worst > 1e-5:
                wrong.append(worst)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@given(lengths=LENGTHS)
@settings(max_examples=100, deadline=None)
def test_a_row_holds_every_token_once(lengths: list[int]) -> None:
    row = plan_row(lengths)
    assert len(row.source) == row_length(len(row.source)), "rows come in few lengths"
    assert torch.equal(row.source[row.restore], torch.arange(sum(lengths)))
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    expected = torch.arange(sum(lengths)) - torch.repeat_interleave(starts, torch.tensor(lengths))
    assert torch.equal(row.positions[row.restore], expected)
    assert sum(span.count * span.length for span in row.spans) == len(row.source)


def test_many_short_texts_need_few_attention_calls_and_little_filling() -> None:
    lengths = torch.randint(5, 45, (80,), generator=torch.Generator().manual_seed(0)).tolist()
    row = plan_row(lengths)
    assert len(row.spans) <= 12
    assert len(row.source) <= sum(lengths) * 1.05 + BLOCK


@given(sizes=st.lists(st.integers(1, 90), max_size=20), limit=st.integers(1, 200))
def test_passes_hold_every_sequence_once_and_few_tokens(sizes: list[int], limit: int) -> None:
    found = passes(sizes, limit)
    assert [i for first, end in found for i in range(first, end)] == list(range(len(sizes)))
    assert all(sum(sizes[first:end]) <= limit or end - first == 1 for first, end in found)
    joined = [sum(sizes[a:b]) + sizes[b] for a, b in found[:-1]]
    assert all(tokens > limit for tokens in joined), "a pass ends only where the next sequence has no room"


def test_a_long_document_goes_in_several_passes_with_the_same_result(
    encoders: tuple[TextEncoder, TextEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = ragged([30, 64, 64, 12, 50, 64, 7])
    expected = one_by_one(encoders[0], batch)
    monkeypatch.setattr("taskloom.plugins.backbones.encoder.passes", partial(passes, limit=130))
    calls: list[int] = []

    def noted(sizes: list[int], virtual: Sequence[int] = ()) -> PackedRow:
        calls.append(sum(sizes))
        return plan_row(sizes, virtual=virtual)

    monkeypatch.setattr("taskloom.plugins.backbones.encoder.plan_row", noted)
    torch.testing.assert_close(run(encoders[0], batch), expected, atol=1e-5, rtol=1e-5)
    assert calls == [94, 126, 71]


def test_length_buckets_bound_the_tokens() -> None:
    buckets = length_buckets([512] * 100)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(100))
    assert {len(bucket) for bucket in buckets} == {16, 4}


def test_length_buckets_bound_the_padding() -> None:
    sizes = [3, 100, 5, 4, 98, 50, 3]
    buckets = length_buckets(sizes)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(7))
    for bucket in buckets:
        area = max(sizes[i] for i in bucket) * len(bucket)
        assert area - sum(sizes[i] for i in bucket) <= 0.25 * area


def test_an_architecture_that_can_not_be_packed_is_padded(checkpoint: Callable[..., Path]) -> None:
    folder = str(checkpoint("mpnet"))
    assert TextEncoder(load_backbone(folder)).layout == "padded"
    with pytest.raises(UnsupportedError, match=r"mpnet.*'padded'"):
        TextEncoder(load_backbone(folder), layout="packed")
