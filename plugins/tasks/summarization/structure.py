"""What can be taken out of a model that writes: layers of its encoder and of its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from taskloom.core.anatomy import Structure, StructureKind
from taskloom.plugins.backbones.structure import checked_parts, hooked, passing

T5_COUNTS = ("num_layers", "num_decoder_layers")
"""What T5 writes keeps its keys and values in as many places as the encoder has layers."""
COUNTS = (T5_COUNTS, ("encoder_layers", "decoder_layers"))
"""What configurations call the layers of the encoder and of the decoder: T5's kin, BART's kin."""


class WriterLayers(Structure):
    """The layers of one side, `encoder.layers` or `decoder.layers`."""

    kind: StructureKind = "layers"

    def __init__(self, side: str, module: Any, layers: nn.ModuleList, count: str) -> None:
        self.name = f"{side}.layers"
        self.size = len(layers)
        self.weights = sum(parameter.numel() for parameter in layers.parameters()) // len(layers)
        self._module = module
        self._stack = module.get_encoder() if side == "encoder" else module.get_decoder()
        self._layers = layers
        self._count = count
        if (side, count) == ("encoder", T5_COUNTS[0]):
            self.limits = "decoder.layers"

    def gated(self, gate: Tensor) -> AbstractContextManager[None]:
        return hooked([layer.register_forward_hook(passing(gate, i)) for i, layer in enumerate(self._layers)])

    def keep(self, parts: Sequence[int]) -> None:
        kept = checked_parts(self, parts)
        first = self._layers[0]
        left = [self._layers[i] for i in kept]
        del self._layers[:]
        self._layers.extend(left)
        _hand_on_bias(first, left[0])
        for place, layer in enumerate(left):
            for part in layer.modules():
                if hasattr(part, "layer_idx"):  # where the part finds its keys and values while the model writes
                    part.layer_idx = place  # type: ignore[assignment]  # torch types attributes as modules
        self.size = len(left)
        setattr(self._module.config, self._count, self.size)
        own = self._stack.config
        if own is not self._module.config:
            own.num_hidden_layers = self.size


def writer_structures(module: Any) -> list[Structure]:
    """Encoder first; none of a model whose layers aren't where they are known to be."""
    names = next((names for names in COUNTS if all(hasattr(module.config, name) for name in names)), None)
    stacks = [_layers(part) for part in (module.get_encoder(), module.get_decoder())]
    if names is None:
        return []
    found: list[Structure] = []
    for side, layers, count in zip(("encoder", "decoder"), stacks, names, strict=True):
        if layers is None:
            return []
        found.append(WriterLayers(side, module, layers, count))
    return found


def _layers(stack: nn.Module) -> nn.ModuleList | None:
    for name in ("block", "layers"):
        found = getattr(stack, name, None)
        if isinstance(found, nn.ModuleList) and len(found):
            return found
    return None


def _hand_on_bias(before: nn.Module, now: nn.Module) -> None:
    """T5 has the table of relative positions in its first layer, for all of them (Raffel et al. 2020,
    https://arxiv.org/abs/1910.10683, section 2.1): whichever is the first now must have it."""
    if before is now:
        return
    for one, other in zip(before.modules(), now.modules(), strict=False):
        if getattr(one, "has_relative_attention_bias", False) and not getattr(other, "has_relative_attention_bias", True):
            other.relative_attention_bias = one.relative_attention_bias
            other.has_relative_attention_bias = True  # type: ignore[assignment]  # torch types attributes as modules
            return
