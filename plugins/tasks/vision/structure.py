"""What can be taken out of our own network: residual blocks, channels inside a block, channels that a row of blocks shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from taskloom.core.anatomy import Structure, StructureKind
from taskloom.plugins.backbones.structure import checked_parts, hooked
from taskloom.plugins.tasks.vision.network import ImageNetwork, ResidualBlock
from taskloom.plugins.tasks.vision.schema import NetworkSettings


def network_structures(network: ImageNetwork, changed: Callable[[], None]) -> list[Structure]:
    """The structures of a network; `changed` is called after any of them is cut."""
    found: list[Structure] = []
    if any(_is_straight(block) for block in _blocks(network)):
        found.append(Blocks(network, changed))
    shared = _Shared([network.stem], [_pair(network.stem)])
    for number, block in enumerate(_blocks(network)):
        takers = [_pair(block.first)[0]]
        if not _is_straight(block):
            takers.append(_pair(cast("nn.Sequential", block.around))[0])
            shared.takers += takers
            found.append(Channels(f"stages.{number}.from", shared.gated, shared.makers, shared.takers, changed))
            shared = _Shared([block], [_pair(block.second), _pair(cast("nn.Sequential", block.around))])
        else:
            shared.takers += takers
            shared.gated.append(block)
            shared.makers.append(_pair(block.second))
        inner = f"stages.{number}.inner"
        found.append(Channels(inner, [block.first], [_pair(block.first)], [_pair(block.second)[0]], changed))
    shared.takers.append(network.head)
    found.append(Channels("head.from", shared.gated, shared.makers, shared.takers, changed))
    return found


def settings_of(network: ImageNetwork, settings: NetworkSettings) -> NetworkSettings:
    """The settings that make a network of this one's shape; `settings` made it before it was cut."""
    widths, counts, inner = list(settings.widths), [0] * len(settings.widths), []
    stage = 0
    for block in _blocks(network):
        stage += _pair(block.first)[0].stride != (1, 1)
        counts[stage] += 1
        widths[stage] = _pair(block.second)[0].out_channels
        inner.append(_pair(block.first)[0].out_channels)
    stem = _pair(network.stem)[0].out_channels
    full = [width for width, count in zip(widths, counts, strict=True) for _ in range(count)]
    bends = counts[0] > 0 and not _is_straight(_blocks(network)[0]) and stem == widths[0]
    update = {
        "stem_width": stem,
        "widths": tuple(widths),
        "blocks": tuple(counts),
        "inner": tuple(inner) if inner != full else (),
        "first_bends": bends,
    }
    return NetworkSettings.model_validate({**settings.model_dump(), **update})


Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@dataclass
class _Shared:
    """Channels that are added to by several blocks: the modules whose output they are, what makes and what takes them."""

    gated: list[nn.Module]
    makers: list[Pair]
    takers: list[nn.Conv2d | nn.Linear] = field(default_factory=list)


class Blocks(Structure):
    """Residual blocks that hand on as many channels as they take. With a gate of zero a block does nothing."""

    kind: StructureKind = "layers"
    name = "blocks"

    def __init__(self, network: ImageNetwork, changed: Callable[[], None]) -> None:
        self._network = network
        self._changed = changed
        self._straight = [block for block in _blocks(network) if _is_straight(block)]
        self.size = len(self._straight)
        self.weights = sum(p.numel() for block in self._straight for p in block.parameters()) // self.size

    def gated(self, gate: Tensor) -> AbstractContextManager[None]:
        return hooked([block.register_forward_hook(_passing(gate, i)) for i, block in enumerate(self._straight)])

    def keep(self, parts: Sequence[int]) -> None:
        kept = {id(self._straight[i]) for i in checked_parts(self, parts)}
        left = [block for block in _blocks(self._network) if not _is_straight(block) or id(block) in kept]
        self._network.stages = nn.Sequential(*left)
        self._straight = [block for block in left if _is_straight(block)]
        self.size = len(self._straight)
        self._changed()


class Channels(Structure):
    """Channels that some convolutions make and some modules take."""

    kind: StructureKind = "channels"

    def __init__(
        self,
        name: str,
        gated: Sequence[nn.Module],
        makers: Sequence[Pair],
        takers: Sequence[nn.Conv2d | nn.Linear],
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self._gated = gated
        self._makers = makers
        self._takers = takers
        self._changed = changed
        self.size = makers[0][0].out_channels
        numbers = sum(conv.weight.numel() + 2 * self.size for conv, _ in makers) + sum(t.weight.numel() for t in takers)
        self.weights = numbers // self.size

    def gated(self, gate: Tensor) -> AbstractContextManager[None]:
        return hooked([module.register_forward_hook(_scaling(gate)) for module in self._gated])

    def keep(self, parts: Sequence[int]) -> None:
        kept = torch.tensor(checked_parts(self, parts))
        for conv, norm in self._makers:
            conv.weight, conv.out_channels = _cut(conv.weight, 0, kept), len(kept)
            norm.weight, norm.bias, norm.num_features = _cut(norm.weight, 0, kept), _cut(norm.bias, 0, kept), len(kept)
            norm.running_mean = cast("Tensor", norm.running_mean)[kept]
            norm.running_var = cast("Tensor", norm.running_var)[kept]
        for taker in self._takers:
            taker.weight = _cut(taker.weight, 1, kept)
            if isinstance(taker, nn.Conv2d):
                taker.in_channels = len(kept)
            else:
                taker.in_features = len(kept)
        self.size = len(kept)
        self._changed()


def _cut(parameter: Tensor, dim: int, kept: Tensor) -> nn.Parameter:
    layout = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
    found = parameter.detach().index_select(dim, kept.to(parameter.device)).contiguous(memory_format=layout)
    return nn.Parameter(found, requires_grad=parameter.requires_grad)


def _blocks(network: ImageNetwork) -> list[ResidualBlock]:
    return [cast("ResidualBlock", block) for block in network.stages]


def _is_straight(block: ResidualBlock) -> bool:
    return isinstance(block.around, nn.Identity)


def _pair(convolution: nn.Sequential) -> Pair:
    return cast("nn.Conv2d", convolution[0]), cast("nn.BatchNorm2d", convolution[1])


def _scaling(gate: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that multiplies the channels [N, C, H, W] of what a module gives."""
    return lambda _, __, output: output * gate.to(output.device, output.dtype).view(1, -1, 1, 1)


def _passing(gate: Tensor, part: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(_: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        weight = gate[part].to(output.device, output.dtype)
        taken: Tensor = arguments[0]
        return weight * output + (1 - weight) * taken

    return hook
