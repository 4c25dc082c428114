"""The encoder of a task model as a graph over dense tensors, which engines other than torch can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from taskloom.core.anatomy import Graph, GraphInput
from taskloom.core.task import Batch, In, Out, Outputs, Par
from taskloom.plugins.backbones.encoder import TextEncoder, length_buckets

if TYPE_CHECKING:
    from taskloom.plugins.backbones.task_model import EncoderTaskModel

HIDDEN = "last_hidden_state"
MASKED = -1e4
"""Added to the scores of padding: exp of it is 0. The least float would do in fp32, but is infinite in half precision and
ruins the range that a quantizer takes from what it sees."""


class DenseEncoder(nn.Module):
    """A `TextEncoder` on padded rows. It has no weights of its own."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Hidden states [N, L, H] of N sequences padded to L; `attention_mask` [N, L] is 1 for tokens, 0 for padding."""
        model = self.encoder.model
        if self.encoder.prompt is not None:
            return self._prompted(self.encoder.prompt, input_ids, attention_mask, token_type_ids)
        more: dict[str, Any] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        if self.encoder.layout == "packed":
            # The mask that transformers would make depends on the attention function, and packed attention wants none.
            more["attention_mask"] = ((1 - attention_mask) * MASKED)[:, None, None, :].to(model.dtype)
            positions = torch.arange(input_ids.shape[1], device=input_ids.device) + self.encoder.position_offset
            more["position_ids"] = positions.unsqueeze(0)
        else:
            more["attention_mask"] = attention_mask
        hidden: Tensor = model(input_ids=input_ids, **more).last_hidden_state
        return hidden

    def _prompted(self, prompt: Tensor, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """With virtual tokens before each sequence, at position 0, which only the packed layout has."""
        model, count = self.encoder.model, len(prompt)
        own = model.get_input_embeddings()(input_ids)
        more: dict[str, Any] = {} if token_type_ids is None else {"token_type_ids": pad(token_type_ids, (count, 0))}
        mask = (1 - pad(attention_mask, (count, 0), value=1)) * MASKED
        positions = pad(torch.arange(input_ids.shape[1], device=input_ids.device), (count, 0)) + self.encoder.position_offset
        found = model(
            inputs_embeds=torch.cat([prompt.to(own.dtype).expand(len(input_ids), -1, -1), own], dim=1),
            attention_mask=mask[:, None, None, :].to(model.dtype),
            position_ids=positions.unsqueeze(0),
            **more,
        )
        hidden: Tensor = found.last_hidden_state[:, count:]
        return hidden


def encoder_graph(model: EncoderTaskModel[In, Out, Par], encoder: TextEncoder) -> Graph:
    """The graph of a model that runs `encoder` and then `finish`."""
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if encoder.takes_types else [])]

    def feeds(batch: Batch) -> list[Mapping[str, Any]]:
        sizes: list[int] = batch["lengths"].tolist()
        ids, types = torch.split(batch["input_ids"], sizes), torch.split(batch["token_type_ids"], sizes)
        found: list[Mapping[str, Any]] = []
        for bucket in length_buckets(sizes):
            feed = {
                "input_ids": pad_sequence([ids[i] for i in bucket], True, encoder.pad_token_id),
                "attention_mask": pad_sequence([torch.ones_like(ids[i]) for i in bucket], True, 0),
                "token_type_ids": pad_sequence([types[i] for i in bucket], True, 0),
            }
            found.append({name: feed[name] for name in names})
        return found

    def results(found: Sequence[Mapping[str, Any]], batch: Batch) -> Outputs:
        sizes: list[int] = batch["lengths"].tolist()
        states = [torch.zeros(0, encoder.hidden_size)] * len(sizes)
        for bucket, outputs in zip(length_buckets(sizes), found, strict=True):
            for row, i in enumerate(bucket):
                states[i] = outputs[HIDDEN][row, : sizes[i]]
        return model.finish(torch.cat(states) if states else torch.zeros(0, encoder.hidden_size), batch)

    inputs = tuple(GraphInput(name=name, dtype="int64", dims=("sequences", "tokens")) for name in names)
    return Graph(DenseEncoder(encoder), inputs, (HIDDEN,), feeds, results)
