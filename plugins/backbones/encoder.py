"""A backbone run on ragged batches: flat token ids and lengths in, flat hidden states out, whatever the layout inside."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.errors import UnsupportedError
from taskloom.plugins.backbones.loading import Backbone, position_offset
from taskloom.plugins.backbones.packing import ATTENTION_NAME, PASS_TOKENS, PackedRow, packed_attention, passes, plan_row
from taskloom.plugins.backbones.settings import Layout

PACKABLE = frozenset({"bert", "ernie", "electra", "distilbert", "roberta", "xlm-roberta", "camembert"})
"""Architectures whose position is an embedding that the caller may give, and whose tokens meet in attention alone."""

WEIGHTS_APART = (
    "this model's weights are in the files of the runtime that its artifact demands: only that runtime can run it, and it "
    "can't be trained, changed or saved with its weights; use the model that it was made from"
)


def can_pack(model: Any) -> bool:
    return model.config.model_type in PACKABLE


class TextEncoder(nn.Module):
    """The encoder's layers. Heads see `[T, H]` and `lengths`, never rows and padding.

    `layout` is how batches lie in memory: packed where the architecture allows, else padded with length bucketing. `prompt`
    [n, E] are virtual tokens, read before each sequence; the states of real tokens alone come out.
    """

    prompt: nn.Parameter | None

    def __init__(self, backbone: Backbone, layout: Layout | None = None) -> None:
        super().__init__()
        self.model = backbone.model
        config = self.model.config
        packable = can_pack(self.model)
        if layout == "packed" and not packable:
            raise UnsupportedError(
                f"a {config.model_type} model can't run packed batches (these can: {', '.join(sorted(PACKABLE))}); "
                "use the layout 'padded'"
            )
        self.layout: Layout = layout or ("packed" if packable else "padded")
        self.calls_linear_layers = (
            packable  # of these architectures it is known; their weights can be packed (`_shared.packed`)
        )
        self.hidden_size = backbone.hidden_size
        self.max_length = backbone.max_length
        self.position_offset = position_offset(config)
        self.takes_types = "token_type_ids" in inspect.signature(self.model.forward).parameters
        self.has_weights = self.model.device.type != "meta"
        self.register_parameter("prompt", None)
        if self.layout == "packed":
            from transformers import AttentionInterface

            AttentionInterface.register(ATTENTION_NAME, packed_attention)
            self.model.set_attn_implementation(ATTENTION_NAME)

    @property
    def pad_token_id(self) -> int:
        return int(self.model.config.pad_token_id or 0)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states [T, H] of N sequences that lie end to end in `input_ids` [T]; `lengths` [N] adds up to T. Raises
        `UnsupportedError` if a runtime's files hold the weights."""
        if not self.has_weights:
            raise UnsupportedError(WEIGHTS_APART)
        sizes: list[int] = lengths.tolist()
        if not sizes:
            return torch.zeros(0, self.hidden_size, dtype=self.model.dtype, device=input_ids.device)
        if self.layout == "padded":
            return self._padded(input_ids, token_type_ids, sizes)
        found = []
        for part, plan in self.plans(sizes):
            found.append(self.run_row(input_ids[part], token_type_ids[part], plan, self.prompt))
        return torch.cat(found)

    def plans(self, sizes: list[int]) -> Iterator[tuple[slice, PackedRow]]:
        """The packed rows, one for each pass, of sequences of these lengths, and which of the flat tokens are in each."""
        count = 0 if self.prompt is None else len(self.prompt)
        ends = [0, *accumulate(sizes)]
        for first, end in passes([size + count for size in sizes]):
            yield slice(ends[first], ends[end]), plan_row(sizes[first:end], virtual=[count])

    def run_row(self, input_ids: Tensor, token_type_ids: Tensor, plan: PackedRow, virtual: Tensor | None = None) -> Tensor:
        """Hidden states [T, H] of flat tokens [T] that lie in a packed row as `plan` says; `virtual` [V, E] are the embeddings
        of its virtual tokens."""
        row = plan.to(input_ids.device, self.model.dtype)
        if virtual is None:
            given = {"input_ids": input_ids[row.source].unsqueeze(0)}
        else:
            own = self.model.get_input_embeddings()(input_ids)
            given = {"inputs_embeds": torch.cat([own, virtual.to(own.dtype)])[row.source].unsqueeze(0)}
            token_type_ids = torch.cat([token_type_ids, token_type_ids.new_zeros(len(virtual))])
        if self.takes_types:
            given["token_type_ids"] = token_type_ids[row.source].unsqueeze(0)
        found = self.model(position_ids=(row.positions + self.position_offset).unsqueeze(0), row=row, **given)
        hidden: Tensor = found.last_hidden_state[0]
        return hidden[row.restore]

    def _padded(self, input_ids: Tensor, token_type_ids: Tensor, sizes: list[int]) -> Tensor:
        ids = torch.split(input_ids, sizes)
        types = torch.split(token_type_ids, sizes)
        found: list[Tensor | None] = [None] * len(sizes)
        for bucket in length_buckets(sizes):
            arguments = {
                "input_ids": nn.utils.rnn.pad_sequence([ids[i] for i in bucket], True, self.pad_token_id),
                "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(ids[i]) for i in bucket], True, 0),
            }
            if self.takes_types:
                arguments["token_type_ids"] = nn.utils.rnn.pad_sequence([types[i] for i in bucket], True, 0)
            hidden = self.model(**arguments).last_hidden_state
            for row, i in enumerate(bucket):
                found[i] = hidden[row, : sizes[i]]
        return torch.cat([hidden for hidden in found if hidden is not None])


def length_buckets(sizes: list[int], waste: float = 0.25) -> list[list[int]]:
    """Groups of sequences, by length, in which padding is at most `waste` of the tokens, and which have at most `PASS_TOKENS`
    of them, padding included; a sequence that has more is a group."""
    buckets: list[list[int]] = []
    tokens = 0
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        area = sizes[i] * (len(buckets[-1]) + 1) if buckets else 0
        if buckets and area <= PASS_TOKENS and area - tokens - sizes[i] <= waste * area:
            buckets[-1].append(i)
            tokens += sizes[i]
        else:
            buckets.append([i])
            tokens = sizes[i]
    return buckets
