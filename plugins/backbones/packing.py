"""Packed batches: sequences end to end in one row, attention within each, nothing spent on padding.

Transformer layers treat every token alike but in attention, so a batch costs its tokens whatever their lengths. For
attention the sequences are put in an order that needs few kernel calls and no copies: short ones share blocks of 64 tokens
under a mask that keeps them apart, and all blocks are one call; longer ones follow, those of equal length as one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

ATTENTION_NAME = "taskloom_packed"
BLOCK = 64
"""Tokens in a block of short sequences; the row's length is a multiple of it, since each new length makes oneDNN build
kernels."""
SHORT = 48
"""Sequences up to this many tokens go into blocks."""


@dataclass(frozen=True)
class Span:
    """`count` pieces of `length` tokens from `start` on: one attention call. `mask` [count, 1, length, length], True where
    two tokens belong to the same sequence; None where a piece is one sequence."""

    start: int
    count: int
    length: int
    mask: Tensor | None = None


@dataclass(frozen=True)
class PackedRow:
    """Where every token lies. With flat tokens `x` [T], `x[source]` [R] is the row, and `row[restore]` is [T] again;
    `positions` [R] counts from 0 in each sequence. Filling repeats token 0 and is dropped by `restore`."""

    source: Tensor
    positions: Tensor
    restore: Tensor
    spans: tuple[Span, ...]


def plan_row(lengths: Sequence[int], block: int = BLOCK, short: int = SHORT) -> PackedRow:
    """The row for sequences of these lengths (each at least 1)."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    blocks, rest = _fill_blocks([i for i in order if lengths[i] <= short], lengths, block)
    rest += [i for i in order if lengths[i] > short]
    return _lay_out(blocks, sorted(rest, key=lengths.__getitem__), lengths, block)


def _fill_blocks(ascending: list[int], lengths: Sequence[int], block: int) -> tuple[list[list[int]], list[int]]:
    """Best-fit decreasing (Johnson 1974). Returns the blocks and what is left over: a last block that is mostly empty
    would cost more in every layer than its sequences cost on their own."""
    by_room: list[list[tuple[list[int], int]]] = [[] for _ in range(block + 1)]
    for i in reversed(ascending):
        need = lengths[i]
        room = next((r for r in range(need, block) if by_room[r]), block)
        members = by_room[room].pop()[0] if room < block else []
        members.append(i)
        by_room[room - need].append((members, room - need))
    loose = block // 4
    full = [members for room in range(loose + 1) for members, _ in by_room[room]]
    leftover = [i for room in range(loose + 1, block + 1) for members, _ in by_room[room] for i in members]
    return full, leftover


def _lay_out(blocks: list[list[int]], singles: list[int], lengths: Sequence[int], block: int) -> PackedRow:
    starts = [0] * len(lengths)
    for i in range(1, len(lengths)):
        starts[i] = starts[i - 1] + lengths[i - 1]
    pieces: list[tuple[int, int, bool]] = []
    """(start in the flat tokens, length, is filling) in the order of the row."""
    for members in blocks:
        pieces += [(starts[i], lengths[i], False) for i in members]
        if room := block - sum(lengths[i] for i in members):
            pieces.append((0, room, True))
    spans: list[Span] = []
    at = len(blocks) * block
    for i in singles:
        pieces.append((starts[i], lengths[i], False))
        if spans and spans[-1].length == lengths[i]:
            spans[-1] = Span(spans[-1].start, spans[-1].count + 1, lengths[i])
        else:
            spans.append(Span(at, 1, lengths[i]))
        at += lengths[i]
    if tail := -at % block:
        pieces.append((0, tail, True))
        spans.append(Span(at, 1, tail))
    sizes = torch.tensor([size for _, size, _ in pieces])
    piece = torch.repeat_interleave(torch.arange(len(pieces)), sizes)
    positions = torch.arange(len(piece)) - (sizes.cumsum(0) - sizes)[piece]
    filling = torch.tensor([fill for _, _, fill in pieces])[piece]
    source = torch.where(filling, 0, torch.tensor([start for start, _, _ in pieces])[piece] + positions)
    positions = torch.where(filling, 0, positions)
    restore = torch.empty(sum(lengths), dtype=torch.long)
    real = torch.nonzero(~filling).squeeze(1)
    restore[source[real]] = real
    if blocks:
        owner = piece[: len(blocks) * block].view(len(blocks), 1, block)
        spans.insert(0, Span(0, len(blocks), block, owner.unsqueeze(-1) == owner.unsqueeze(-2)))
    return PackedRow(source, positions, restore, tuple(spans))


def packed_attention(  # the signature is transformers'
    module: Any,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    row: PackedRow,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """An attention function for `transformers.AttentionInterface`: [1, heads, R, d] each, to [1, R, heads, d]. The row
    comes down through the model's keyword arguments, so that calls in several threads keep apart."""
    found = []
    for span in row.spans:
        end = span.start + span.count * span.length
        shape = (query.shape[1], span.count, span.length, query.shape[3])
        q, k, v = (x[0, :, span.start : end].view(shape).transpose(0, 1) for x in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, attn_mask=span.mask, dropout_p=dropout, scale=scaling)
        found.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).unsqueeze(0), None
