"""Packed batches: sequences end to end in one row, attention within each, nothing spent on padding.

Transformer layers treat every token alike but in attention, so a batch costs its tokens whatever their lengths. For
attention the sequences are put in an order that needs few kernel calls and no copies: short ones share blocks of 64 tokens
under a mask that keeps them apart, and all blocks are one call; longer ones follow, those of equal length as one call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from taskloom.plugins.backbones.attention import attention

ATTENTION_NAME = "taskloom_packed"
PREFIX = "virtual_prefix"
"""Name, in an attention module, of the module that says which learnt keys and values all tokens of a sequence see: its
`at(start)` gives those [heads, n, d] of the sequences that lie from `start` on in the row, or None."""
BLOCK = 64
"""Tokens in a block; sequences that are shorter share blocks."""
FILLING = 4
"""Empty places that a block may have. Sequences that would leave more are laid down on their own: an empty place costs as
much as a token in every layer, a sequence on its own one attention call per layer."""
PASS_TOKENS = 8192
"""Tokens that go through the encoder at once, at most: many windows of one long document would take gigabytes else. Larger
rows are no faster."""


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
    `positions` [R] counts from 0 in each sequence. Filling repeats a token and is dropped by `restore`.

    In a row with virtual tokens `x` is [T + V]: behind the flat tokens are the virtual ones, once each. They have the position
    0, the real ones the positions that they have without them, and `restore` drops them."""

    source: Tensor
    positions: Tensor
    restore: Tensor
    spans: tuple[Span, ...]
    stretches: tuple[tuple[int, int], ...] = ()
    """(start, end) of each group of sequences in the row."""

    def to(self, device: torch.device, dtype: torch.dtype) -> PackedRow:
        """On a device, and with masks that are added to attention scores of this dtype: turned once a batch, where a mask
        of booleans would be turned at each call of each layer."""
        return PackedRow(
            self.source.to(device, non_blocking=True),
            self.positions.to(device, non_blocking=True),
            self.restore.to(device, non_blocking=True),
            tuple(
                span if span.mask is None else dataclasses.replace(span, mask=_additive(span.mask).to(device, dtype))
                for span in self.spans
            ),
            self.stretches,
        )


def row_length(tokens: int) -> int:
    """The length of the row for so many tokens. Lengths are few, since oneDNN builds kernels for each that it meets first:
    multiples of 16, beyond 256 of 64."""
    step = 16 if tokens <= 256 else 64
    return -(-tokens // step) * step


def passes(sizes: Sequence[int], limit: int = PASS_TOKENS) -> list[tuple[int, int]]:
    """(first, end) of the sequences to run at a time, in order: at most `limit` tokens, or one sequence that has more."""
    found: list[tuple[int, int]] = []
    first, tokens = 0, 0
    for i, size in enumerate(sizes):
        if i > first and tokens + size > limit:
            found.append((first, i))
            first, tokens = i, 0
        tokens += size
    return [*found, (first, len(sizes))] if sizes else []


def plan_row(*groups: Sequence[int], virtual: Sequence[int] = ()) -> PackedRow:
    """The row for sequences of these lengths (each at least 1). The sequences of a group lie side by side. `virtual` says, for
    each group, how many virtual tokens of its own stand before each of its sequences; the tokens of all groups lie end to end
    in the table of V."""
    counts = virtual or [0] * len(groups)
    builder = _RowBuilder()
    for sizes, count in zip(groups, counts, strict=True):
        lengths = [size + count for size in sizes]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        blocks, rest = _fill_blocks([i for i in order if lengths[i] < BLOCK], lengths)
        singles = sorted([*rest, *(i for i in order if lengths[i] >= BLOCK)], key=lengths.__getitem__)
        builder.add(blocks, singles, lengths)
    row = builder.row()
    return _with_virtual(row, groups, counts) if any(counts) else row


def _with_virtual(row: PackedRow, groups: Sequence[Sequence[int]], counts: Sequence[int]) -> PackedRow:
    """`row` is of sequences that their virtual tokens are part of; in what is returned these are in a table of their own."""
    sizes = torch.tensor([size for group in groups for size in group])
    before = torch.tensor([count for group, count in zip(groups, counts, strict=True) for _ in group])
    tables = accumulate(counts, initial=0)
    table = torch.tensor([first for group, first in zip(groups, tables, strict=False) for _ in group])
    whole = sizes + before
    owner = torch.repeat_interleave(torch.arange(len(whole)), whole)
    place = torch.arange(len(owner)) - (whole.cumsum(0) - whole)[owner]
    real = place >= before[owner]
    index = torch.where(real, real.cumsum(0) - 1, sizes.sum() + table[owner] + place)
    positions = (row.positions - before[owner][row.source]).clamp(min=0)
    return dataclasses.replace(row, source=index[row.source], positions=positions, restore=row.restore[real])


def _fill_blocks(ascending: list[int], lengths: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """Best-fit decreasing (Johnson et al. 1974, https://doi.org/10.1137/0203025). Returns the blocks, each a list of
    sequences, and the sequences that are left over."""
    by_room: list[list[list[int]]] = [[] for _ in range(BLOCK + 1)]
    for i in reversed(ascending):
        room = next((room for room in range(lengths[i], BLOCK) if by_room[room]), BLOCK)
        members = by_room[room].pop() if room < BLOCK else []
        members.append(i)
        by_room[room - lengths[i]].append(members)
    full = [members for same in by_room[: FILLING + 1] for members in same]
    return full, [i for same in by_room[FILLING + 1 :] for members in same for i in members]


class _RowBuilder:
    """A row that grows group by group. A piece is (start in the flat tokens, length, is filling)."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, int, bool]] = []
        self._spans: list[Span] = []
        self._masked: list[int] = []
        self._stretches: list[tuple[int, int]] = []
        self._tokens = 0
        self._at = 0

    def add(self, blocks: list[list[int]], singles: list[int], lengths: Sequence[int]) -> None:
        began = self._at
        starts = list(accumulate(lengths, initial=self._tokens))
        if blocks:
            self._masked.append(len(self._spans))
            self._spans.append(Span(began, len(blocks), BLOCK))
            self._at += len(blocks) * BLOCK
        for members in blocks:
            self._pieces += [(starts[i], lengths[i], False) for i in members]
            if room := BLOCK - sum(lengths[i] for i in members):
                self._pieces.append((0, room, True))
        last: Span | None = None
        for i in singles:
            self._pieces.append((starts[i], lengths[i], False))
            if last is not None and last.length == lengths[i]:
                last = Span(last.start, last.count + 1, lengths[i])
                self._spans[-1] = last
            else:
                last = Span(self._at, 1, lengths[i])
                self._spans.append(last)
            self._at += lengths[i]
        self._tokens = starts[-1]
        self._stretches.append((began, self._at))

    def row(self) -> PackedRow:
        if tail := row_length(self._at) - self._at:
            self._pieces.append((0, tail, True))
            self._spans.append(Span(self._at, 1, tail))
        sizes = torch.tensor([size for _, size, _ in self._pieces])
        piece = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        positions = torch.arange(len(piece)) - (sizes.cumsum(0) - sizes)[piece]
        filling = torch.tensor([fill for _, _, fill in self._pieces])[piece]
        source = torch.where(filling, 0, torch.tensor([start for start, _, _ in self._pieces])[piece] + positions)
        positions = torch.where(filling, 0, positions)
        restore = torch.empty(self._tokens, dtype=torch.long)
        real = torch.nonzero(~filling).squeeze(1)
        restore[source[real]] = real
        for place in self._masked:
            span = self._spans[place]
            owner = piece[span.start : span.start + span.count * BLOCK].view(span.count, 1, BLOCK)
            mask = owner.unsqueeze(-1) == owner.unsqueeze(-2)
            self._spans[place] = dataclasses.replace(span, mask=mask)
        return PackedRow(source, positions, restore, tuple(self._spans), tuple(self._stretches))


def _additive(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))


def packed_attention(  # the signature is transformers'
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row: PackedRow | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """An attention function for `transformers.AttentionInterface`: [1, heads, R, d] each, to [1, R, heads, d]. The row
    comes down through the model's keyword arguments, so that calls in several threads keep apart. Without one, rows are padded
    [N, heads, L, d], and `attention_mask` [N, 1, 1, L] is added to the scores."""
    prefix = getattr(module, PREFIX, None)
    if row is None:
        key, value, attention_mask = _prefixed(prefix and prefix.at(0), key, value, attention_mask)
        return attention(query, key, value, mask=attention_mask, dropout_p=dropout, scale=scaling).transpose(1, 2), None
    found = []
    for span in row.spans:
        end = span.start + span.count * span.length
        shape = (query.shape[1], span.count, span.length, query.shape[3])
        q, k, v = (x[0, :, span.start : end].view(shape).transpose(0, 1) for x in (query, key, value))
        mask = None if span.mask is None else span.mask.to(query.dtype)  # autocast may have changed the dtype on the way
        k, v, mask = _prefixed(prefix and prefix.at(span.start), k, v, mask)
        out = attention(q, k, v, mask=mask, dropout_p=dropout, scale=scaling)
        found.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).unsqueeze(0), None


def _prefixed(
    pair: tuple[Tensor, Tensor] | None, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values [count, heads, L, d] with a pair of learnt ones [heads, n, d] before them, which no mask hides."""
    if pair is None:
        return key, value, mask
    wide = (*key.shape[:2], -1, -1)
    k, v = (torch.cat([own.to(x.dtype).expand(wide), x], dim=2) for own, x in zip(pair, (key, value), strict=True))
    return k, v, None if mask is None else pad(mask, (pair[0].shape[1], 0))
