"""Virtual tokens: learnt vectors that each text of a model is read with, on a backbone that stays as it is.

- `prompt`: n learnt embeddings before the first token (Lester et al. 2021, https://arxiv.org/abs/2104.08691, section 2). They
  go through all layers, as tokens of the text would.
- `prefix`: n learnt keys and values in the attention of each layer, which all tokens of the text see (Li & Liang 2021,
  https://arxiv.org/abs/2101.00190, section 4; for understanding Liu et al. 2022, https://arxiv.org/abs/2110.07602), without the
  network that makes them there, of which nothing would be kept.

Tokens of the text keep their positions, so that it may be as long as before. PEFT moves them by n, which is why these are kept
in a format of our own: `adapter_config.json` and `adapter_model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from taskloom.core.errors import ArtifactError, UnsupportedError
from taskloom.core.types import Frozen
from taskloom.plugins._shared.weights import stored
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.packing import PREFIX
from taskloom.plugins.backbones.shape import EncoderLayer, encoder_layers

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PROMPT = "prompt"

VirtualMethod = Literal["prompt", "prefix"]


class VirtualConfig(Frozen):
    """`adapter_config.json` of virtual tokens. `tokens` is how many there are, `backbone` what they were learnt on."""

    format: Literal[1] = 1
    virtual_tokens: VirtualMethod
    tokens: int = Field(ge=1)
    backbone: str


@dataclass(frozen=True)
class VirtualTokens:
    """By name: `prompt` [n, E], or `layers.0.key` and `layers.0.value` [heads, n, d] and so on."""

    method: VirtualMethod
    weights: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        return next(iter(self.weights.values())).shape[-2]

    def pair(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.weights[f"layers.{layer}.key"], self.weights[f"layers.{layer}.value"]


class KeyValuePrefix(nn.Module):
    """The learnt keys and values [heads, n, d] of one layer: what `packing.packed_attention` asks for."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.key = nn.Parameter(key)
        self.value = nn.Parameter(value)

    def at(self, _start: int) -> tuple[Tensor, Tensor]:
        return self.key, self.value

    def keep_heads(self, heads: Sequence[int]) -> None:
        """Those of the other heads are no longer there."""
        rows = torch.tensor(list(heads), device=self.key.device)
        for name in ("key", "value"):
            whole: nn.Parameter = getattr(self, name)
            setattr(self, name, nn.Parameter(whole.detach()[rows], requires_grad=whole.requires_grad))


def take_virtual_tokens(encoder: TextEncoder, tokens: VirtualTokens) -> list[nn.Parameter]:
    """The encoder reads each sequence with these from now on; returns what can be trained. Raises as `checked_shape`."""
    checked_shape(encoder, tokens)
    if tokens.method == "prompt":
        encoder.prompt = nn.Parameter(tokens.weights[PROMPT])
        return [encoder.prompt]
    found = []
    for number, layer in enumerate(prefixed_layers(encoder)):
        prefix = KeyValuePrefix(*tokens.pair(number))
        layer.attention.add_module(PREFIX, prefix)
        found += [prefix.key, prefix.value]
    return found


def checked_shape(encoder: TextEncoder, tokens: VirtualTokens) -> None:
    """Raises `UnsupportedError` for an encoder that takes no virtual tokens, `ArtifactError` for those of another one."""
    if encoder.layout != "packed":
        raise UnsupportedError(
            f"a {encoder.model.config.model_type} model whose batches are padded takes no virtual tokens; use lora, rslora, "
            "dora or ia3"
        )
    if tokens.method == "prompt":
        prompt = tokens.weights[PROMPT]
        if prompt.shape[-1] != encoder.model.get_input_embeddings().embedding_dim:
            raise ArtifactError(f"{WEIGHTS_FILE} holds virtual tokens of size {prompt.shape[-1]}, not this backbone's")
        return
    layers = prefixed_layers(encoder)
    if 2 * len(layers) != len(tokens.weights):
        raise ArtifactError(
            f"{WEIGHTS_FILE} holds prefixes of {len(tokens.weights) // 2} layers; this backbone has {len(layers)}"
        )
    for number, layer in enumerate(layers):
        if any((x.shape[0], x.shape[2]) != (layer.shape.heads, layer.head_size) for x in tokens.pair(number)):
            raise ArtifactError(f"{WEIGHTS_FILE}: the prefix of layer {number} is of other heads than this backbone's")


def prefixed_layers(encoder: TextEncoder) -> list[EncoderLayer]:
    """The layers that a prefix goes to; raises `UnsupportedError` for a kind of encoder whose layers aren't known."""
    layers = encoder_layers(encoder.model, through_adapters=True)
    if not layers:
        raise UnsupportedError(
            f"where attention is in a {encoder.model.config.model_type} model isn't known; use lora or prompt"
        )
    return layers


def virtual_tokens(encoder: TextEncoder) -> VirtualTokens | None:
    """Those that the encoder reads each sequence with."""
    if encoder.prompt is not None:
        return VirtualTokens("prompt", {PROMPT: encoder.prompt})
    weights: dict[str, Tensor] = {}
    for number, layer in enumerate(encoder_layers(encoder.model, through_adapters=True)):
        if prefix := getattr(layer.attention, PREFIX, None):
            weights |= {f"layers.{number}.key": prefix.key, f"layers.{number}.value": prefix.value}
    return VirtualTokens("prefix", weights) if weights else None


def first_virtual_tokens(encoder: TextEncoder, method: VirtualMethod, count: int, batch: Mapping[str, Any]) -> VirtualTokens:
    """Tokens to begin training from: what `count` tokens of a batch, drawn by chance, have at their place. Learning goes faster
    from there than from random numbers (Lester et al. 2021, section 3.2; Li & Liang 2021, section 7.4)."""
    ids, types, lengths = batch["input_ids"], batch["token_type_ids"], batch["lengths"]
    draw = torch.randperm(len(ids))[:count] if len(ids) >= count else torch.randint(len(ids), (count,))
    with torch.no_grad():
        if method == "prompt":
            return VirtualTokens("prompt", {PROMPT: encoder.model.get_input_embeddings()(ids[draw]).clone()})
        states: dict[str, list[Tensor]] = {}
        handles = []
        for number, layer in enumerate(prefixed_layers(encoder)):
            for name, linear in zip(("key", "value"), layer.inputs[1:], strict=True):
                kept: list[Tensor] = []
                states[f"layers.{number}.{name}"] = kept
                handles.append(linear.register_forward_hook(lambda _, __, found, kept=kept: kept.append(found[0])))
        try:
            encoder(ids, types, lengths)
        finally:
            for handle in handles:
                handle.remove()
        orders = [plan.restore for _, plan in encoder.plans(lengths.tolist())]
        sizes = [layer.head_size for layer in prefixed_layers(encoder) for _ in range(2)]
        weights = {}
        for (name, rows), size in zip(states.items(), sizes, strict=True):
            flat = torch.cat([row[order] for row, order in zip(rows, orders, strict=True)])[draw]
            weights[name] = flat.view(count, -1, size).transpose(0, 1).contiguous()
    return VirtualTokens("prefix", weights)


def save_virtual_tokens(tokens: VirtualTokens, backbone: str, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored(tokens.weights), folder / WEIGHTS_FILE)
    config = VirtualConfig(virtual_tokens=tokens.method, tokens=tokens.count, backbone=backbone)
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_virtual_tokens(folder: Path) -> VirtualTokens | None:
    """None for a folder that holds another kind of adapter. Raises `ArtifactError` for files that don't belong together."""
    from safetensors.torch import load_file

    try:
        raw = (folder / CONFIG_FILE).read_bytes()
        if b'"virtual_tokens"' not in raw:
            return None
        config = VirtualConfig.model_validate_json(raw)
        weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
    except (OSError, ValueError, ValidationError) as exc:
        raise ArtifactError(f"the adapter's virtual tokens can't be read: {str(exc).splitlines()[0]}") from exc
    layers = range(len(weights) // 2)
    names = (
        {PROMPT} if config.virtual_tokens == "prompt" else {f"layers.{i}.{name}" for i in layers for name in ("key", "value")}
    )
    if set(weights) != names or any(x.shape[-2] != config.tokens for x in weights.values()):
        raise ArtifactError(f"{WEIGHTS_FILE} holds other weights than {CONFIG_FILE} says")
    return VirtualTokens(config.virtual_tokens, weights)
