"""A recurrent text encoder in the form of a Hugging Face model, so that whatever runs, changes and saves those takes it too."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

MODEL_TYPE = "taskloom-bilstm"
PAIR_FACTOR = 0x9E3779B1
"""Odd and far from small fractions of a power of two: ids that lie close are spread over the table."""


@strict
class RecurrentConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """`hidden_size` is the width of a hidden state, both directions together. Pieces up to `unk_token_id` are special ones, and
    stay where they are."""

    model_type = MODEL_TYPE

    vocab_size: int = 4
    embedding_size: int = 128
    hidden_size: int = 512
    num_hidden_layers: int = 1
    hidden_dropout_prob: float | int = 0.5
    unknown_prob: float | int = 0.01
    pair_vocab_size: int = 0
    pair_embedding_size: int = 50
    type_vocab_size: int = 1
    type_embedding_size: int = 16
    max_position_embeddings: int = 512
    initializer_range: float = 0.1
    pad_token_id: int | None = 0
    unk_token_id: int = 3


class RecurrentModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Embeddings, then layers of two LSTMs each, one that reads forwards and one that reads backwards."""

    config_class = RecurrentConfig
    base_model_prefix = "recurrent"

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        pairs, types = config.pair_vocab_size, config.type_vocab_size if config.type_vocab_size > 1 else 0
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.pairs = nn.Embedding(pairs, config.pair_embedding_size) if pairs else None
        self.types = nn.Embedding(types, config.type_embedding_size) if types else None
        size = (
            config.embedding_size + (config.pair_embedding_size if pairs else 0) + (config.type_embedding_size if types else 0)
        )
        sizes = [size, *[config.hidden_size] * (config.num_hidden_layers - 1)]
        self.layers = nn.ModuleList(RecurrentLayer(size, config.hidden_size // 2) for size in sizes)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: Any) -> None:
        self.embeddings = value

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, nn.LSTM) and not getattr(module.bias_ih_l0, "_is_hf_initialized", False):
            # Cells that forget from the start learn slowly (Jozefowicz et al. 2015, section 2.2).
            bias: Tensor = module.bias_ih_l0  # type: ignore[assignment]
            init.ones_(bias[module.hidden_size : 2 * module.hidden_size])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> BaseModelOutput:
        """Hidden states [N, L, H] of N sequences, padded at their ends to L; `attention_mask` [N, L] is 1 for pieces."""
        read = self._with_unknown(input_ids) if self.training else input_ids
        features = [self.embeddings(read)]
        if self.pairs is not None:
            features.append(self.pairs(self._pairs(read)))
        if self.types is not None and token_type_ids is not None:
            features.append(self.types(token_type_ids))
        rate = self.config.hidden_dropout_prob if self.training else 0.0
        hidden = dropped(torch.cat(features, 2), rate)
        mirror = mirrored_places(attention_mask)
        for layer in self.layers:
            hidden = dropped(layer(hidden, mirror), rate)
        return BaseModelOutput(last_hidden_state=hidden)

    def _with_unknown(self, ids: Tensor) -> Tensor:
        """Some pieces unknown, never the special ones."""
        hidden = torch.rand(ids.shape, device=ids.device) < self.config.unknown_prob
        return ids.masked_fill(hidden & (ids > self.config.unk_token_id), self.config.unk_token_id)

    def _pairs(self, ids: Tensor) -> Tensor:
        after = nn.functional.pad(ids[:, 1:], (0, 1), value=self.config.pad_token_id)
        found: Tensor = (ids * PAIR_FACTOR + after) % self.config.pair_vocab_size
        return found


class RecurrentLayer(nn.Module):
    """One LSTM reads the sequences, another reads them from their ends. They run on padded rows, for which
    oneDNN has kernels, as it has none for a `PackedSequence`. Padding comes after what is read, so nothing sees it."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.forwards = nn.LSTM(size, hidden, batch_first=True)
        self.backwards = nn.LSTM(size, hidden, batch_first=True)

    def forward(self, x: Tensor, mirror: Tensor) -> Tensor:
        """[N, L, E] to [N, L, 2 * hidden]."""
        there = hidden_states(self.forwards, x)
        back = hidden_states(self.backwards, at_places(x, mirror))
        return torch.cat([there, at_places(back, mirror)], 2)


def hidden_states(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """[N, L, E] to [N, L, hidden]. In a graph that is written it is ONNX' own operator: torch would unroll the one length
    that it sees."""
    if not torch.onnx.is_in_onnx_export():
        found: Tensor = lstm(x)[0]
        return found
    weights = (onnx_gates(weight).unsqueeze(0) for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0))
    biases = torch.cat([onnx_gates(lstm.bias_ih_l0), onnx_gates(lstm.bias_hh_l0)]).unsqueeze(0)
    size, (count, length, _) = lstm.hidden_size, x.shape
    states = torch.onnx.ops.symbolic(
        "::LSTM",
        (x.transpose(0, 1), *weights, biases),
        {"hidden_size": size},
        dtype=x.dtype,
        shape=(length, 1, count, size),
    )
    return states.squeeze(1).transpose(0, 1)


def onnx_gates(weight: Any) -> Tensor:
    """Rows of torch's gates (input, forget, cell, output) in the order of ONNX (input, output, forget, cell)."""
    size = len(weight) // 4
    return torch.cat([weight[:size], weight[3 * size :], weight[size : 3 * size]])


def mirrored_places(mask: Tensor) -> Tensor:
    """For each place [N, L] the one as far from the end of its sequence as it is from the beginning; 0 in the padding."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return (mask.sum(1, keepdim=True) - 1 - places).clamp(min=0)


def at_places(x: Tensor, places: Tensor) -> Tensor:
    """[N, L, E], each sequence in another order."""
    return x.gather(1, places.unsqueeze(2).expand(-1, -1, x.shape[2]))


def dropped(x: Tensor, rate: float) -> Tensor:
    """[N, L, E] without some features, each text without its own."""
    if not rate:
        return x
    kept = torch.empty(x.shape[0], 1, x.shape[2], device=x.device, dtype=x.dtype).bernoulli_(1 - rate)
    found: Tensor = x * (kept / (1 - rate))
    return found


def register() -> None:
    """Lets `AutoConfig` and `AutoModel` read what was saved, as they read the models that they come with."""
    AutoConfig.register(MODEL_TYPE, RecurrentConfig, exist_ok=True)
    AutoModel.register(RecurrentConfig, RecurrentModel, exist_ok=True)


def blank(**settings: Any) -> RecurrentModel:
    """A model with random weights."""
    return RecurrentModel(RecurrentConfig(**settings))
