"""What can be taken out of a text encoder: layers, attention heads, units of the feed-forward parts. Its vocabulary is no
structure: see `vocabulary`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from taskloom.core.anatomy import Structure, StructureKind
from taskloom.core.errors import InvalidInputError
from taskloom.plugins.backbones.shape import EncoderLayer, encoder_layers, layer_stack


def encoder_structures(model: Any, before_change: Callable[[], None]) -> list[Structure]:
    """The structures of a backbone's model; `before_change` is called before any of them is cut. None of a kind of model
    that `encoder_layers` doesn't know."""
    layers = encoder_layers(model)
    stack = layer_stack(model)
    if not layers or stack is None:
        return []
    found: list[Structure] = [Layers(model, stack, before_change)]
    for number, layer in enumerate(layers):
        found += [Heads(f"layers.{number}.heads", layer, before_change), Units(f"layers.{number}.units", layer, before_change)]
    return found


def checked_parts(structure: Structure, parts: Sequence[int]) -> list[int]:
    """The parts in order; raises `InvalidInputError` for none, and for one that isn't there."""
    kept = sorted(set(parts))
    if not kept or kept[0] < 0 or kept[-1] >= structure.size:
        raise InvalidInputError(f"{structure.name} has the parts 0 to {structure.size - 1}; at least one of them must be kept")
    return kept


class Layers(Structure):
    """Whole layers. A layer with a gate of zero hands on what it was given."""

    kind: StructureKind = "layers"
    name = "layers"

    def __init__(self, model: Any, stack: nn.ModuleList, before_change: Callable[[], None]) -> None:
        self._model = model
        self._stack = stack
        self._before_change = before_change
        self.size = len(stack)
        self.weights = sum(parameter.numel() for parameter in stack.parameters()) // len(stack)

    def gated(self, gate: Tensor) -> AbstractContextManager[None]:
        return hooked([layer.register_forward_hook(passing(gate, i)) for i, layer in enumerate(self._stack)])

    def keep(self, parts: Sequence[int]) -> None:
        kept = checked_parts(self, parts)
        self._before_change()
        left = [self._stack[i] for i in kept]
        while len(self._stack):
            del self._stack[-1]
        self._stack.extend(left)
        self._model.config.num_hidden_layers = self.size = len(kept)


class Heads(Structure):
    """The attention heads of a layer."""

    kind: StructureKind = "heads"

    def __init__(self, name: str, layer: EncoderLayer, before_change: Callable[[], None]) -> None:
        self.name = name
        self._layer = layer
        self._before_change = before_change
        self.size = layer.shape.heads
        inputs = sum(linear.weight.shape[1] + (linear.bias is not None) for linear in layer.inputs)
        self.weights = layer.head_size * (inputs + layer.output.out_features)

    def gated(self, gate: Tensor) -> AbstractContextManager[None]:
        wide = gate.repeat_interleave(self._layer.head_size)
        return hooked([self._layer.output.register_forward_pre_hook(scaling(wide))])

    def keep(self, parts: Sequence[int]) -> None:
        kept = checked_parts(self, parts)
        self._before_change()
        self._layer.keep_heads(kept)
        self.size = len(kept)


class Units(Structure):
    """The hidden units of a layer's feed-forward part."""

    kind: StructureKind = "units"

    def __init__(self, name: str, layer: EncoderLayer, before_change: Callable[[], None]) -> None:
        self.name = name
        self._layer = layer
        self._before_change = before_change
        self.size = layer.shape.units
        self.weights = layer.first.in_features + (layer.first.bias is not None) + layer.second.out_features

    def gated(self, gate: Tensor) -> AbstractContextManager[None]:
        return hooked([self._layer.second.register_forward_pre_hook(scaling(gate))])

    def keep(self, parts: Sequence[int]) -> None:
        kept = checked_parts(self, parts)
        self._before_change()
        self._layer.keep_units(kept)
        self.size = len(kept)


def scaling(gate: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """A hook before a module that multiplies the last dimension of what the module takes."""

    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        first: Tensor = arguments[0]
        return (first * gate.to(first.device, first.dtype), *arguments[1:])

    return hook


def passing(gate: Tensor, part: int) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    """A hook behind a layer that gives its output for a gate of 1, its input for a gate of 0."""

    def hook(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        taken: Tensor = arguments[0]
        whole: Tensor = output[0] if isinstance(output, tuple) else output
        weight = gate[part].to(whole.device, whole.dtype)
        mixed = weight * whole + (1 - weight) * taken
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    return hook


@contextmanager
def hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Hooks that are gone at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
