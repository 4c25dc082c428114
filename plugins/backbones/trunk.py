"""One encoder for many models: an adapter for each, mixed in one batch.

The tokens of a branch lie side by side in the packed row, so each linear layer runs once over all of them, and then adds each
branch's low-rank part to that branch's stretch (the idea of Punica, Chen et al. 2023, https://arxiv.org/abs/2310.18547, for
rows of any lengths). Attention gives each branch's sequences the prefix of that branch; a prompt is part of the row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from taskloom.core.task import Batch, Branch, Trunk
from taskloom.plugins.backbones.adapters import read_adapter
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.loading import Backbone
from taskloom.plugins.backbones.packing import PREFIX, passes, plan_row
from taskloom.plugins.backbones.virtual_tokens import PROMPT, VirtualTokens, checked_shape, prefixed_layers, read_virtual_tokens


@dataclass(frozen=True)
class Stretch:
    """Where a branch's tokens lie in the row: from `start` to before `end`."""

    branch: str
    start: int
    end: int


class _Layout(threading.local):
    """How the row that this thread is running is divided: threads that run at a time keep apart."""

    stretches: tuple[Stretch, ...] = ()


class AdaptedLinear(nn.Module):
    """A linear layer and the low-rank additions of any number of branches."""

    def __init__(self, base: nn.Linear, layout: _Layout) -> None:
        super().__init__()
        self.base_layer = base
        self.layout = layout
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()

    def grow(self, branch: str, down: Tensor, up: Tensor) -> None:
        """`down` [r, in], `up` [out, r] with the adapter's scaling in it."""
        self.down[branch] = nn.Parameter(down, requires_grad=False)
        self.up[branch] = nn.Parameter(up, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[1, R, in] to [1, R, out]."""
        found: Tensor = self.base_layer(x)
        for stretch in self.layout.stretches:
            if stretch.branch in self.down:
                low = linear(x[0, stretch.start : stretch.end], self.down[stretch.branch])
                found[0, stretch.start : stretch.end].addmm_(low, self.up[stretch.branch].T)
        return found


class BranchedPrefix(nn.Module):
    """The learnt keys and values of one layer, for any number of branches: what `packing.packed_attention` asks for."""

    def __init__(self, layout: _Layout) -> None:
        super().__init__()
        self.layout = layout
        self.key = nn.ParameterDict()
        self.value = nn.ParameterDict()

    def grow(self, branch: str, key: Tensor, value: Tensor) -> None:
        """[heads, n, d] each."""
        self.key[branch] = nn.Parameter(key, requires_grad=False)
        self.value[branch] = nn.Parameter(value, requires_grad=False)

    def at(self, start: int) -> tuple[Tensor, Tensor] | None:
        for stretch in self.layout.stretches:
            if stretch.start <= start < stretch.end and stretch.branch in self.key:
                return self.key[stretch.branch], self.value[stretch.branch]
        return None


class EncoderTrunk(nn.Module, Trunk):
    """An encoder that branches stand on. It changes the backbone's model in place: linear layers that an adapter touches
    become `AdaptedLinear`, and attention gets a `BranchedPrefix`. For inference only."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.encoder = TextEncoder(backbone, "packed")
        self._layout = _Layout()
        self._branches = 0
        self.prompts = nn.ParameterDict()

    def grow(self, adapter: Path | None) -> EncoderBranch:
        """A new branch, with the adapter in a folder or, without one, with the backbone as it is."""
        branch = f"branch{self._branches}"
        self._branches += 1
        virtual = None if adapter is None else read_virtual_tokens(adapter)
        if virtual is not None:
            self._take(branch, virtual)
        elif adapter is not None:
            for path, (down, up) in read_adapter(adapter).items():
                self._adapted(path).grow(branch, down, up)
        return EncoderBranch(self, Branch(self, branch))

    def _take(self, branch: str, virtual: VirtualTokens) -> None:
        checked_shape(self.encoder, virtual)
        if virtual.method == "prompt":
            self.prompts[branch] = nn.Parameter(virtual.weights[PROMPT], requires_grad=False)
            return
        for number, layer in enumerate(prefixed_layers(self.encoder)):
            if not hasattr(layer.attention, PREFIX):
                layer.attention.add_module(PREFIX, BranchedPrefix(self._layout))
            getattr(layer.attention, PREFIX).grow(branch, *virtual.pair(number))

    def _adapted(self, path: str) -> AdaptedLinear:
        outer, _, last = path.rpartition(".")
        parent = self.encoder.model.get_submodule(outer)
        found = getattr(parent, last)
        if not isinstance(found, AdaptedLinear):
            found = AdaptedLinear(found, self._layout)
            setattr(parent, last, found)
        return found

    def run(self, parts: Sequence[tuple[str, Batch]]) -> list[Any]:
        """Hidden states [T, H] for each part."""
        ids = torch.cat([batch["input_ids"] for _, batch in parts])
        types = torch.cat([batch["token_type_ids"] for _, batch in parts])
        groups: list[list[int]] = [batch["lengths"].tolist() for _, batch in parts]
        if not any(groups):
            return [self.encoder(ids, types, batch["lengths"]) for _, batch in parts]
        prompts = [self.prompts.get(name) for name, _ in parts]
        counts = [0 if prompt is None else len(prompt) for prompt in prompts]
        virtual = torch.cat([prompt for prompt in prompts if prompt is not None]) if any(counts) else None
        sizes = [size for group in groups for size in group]
        whole = [size + count for group, count in zip(groups, counts, strict=True) for size in group]
        tokens, owned = [0, *accumulate(sizes)], list(pairwise(accumulate(map(len, groups), initial=0)))
        found = []
        for first, end in passes(whole):
            plan = plan_row(*(sizes[max(first, low) : min(end, high)] for low, high in owned), virtual=counts)
            stretches = tuple(Stretch(name, a, b) for (name, _), (a, b) in zip(parts, plan.stretches, strict=True) if b > a)
            part = slice(tokens[first], tokens[end])
            with self._running(stretches):
                found.append(self.encoder.run_row(ids[part], types[part], plan, virtual))
        return list(torch.split(torch.cat(found), [sum(group) for group in groups]))

    @contextmanager
    def _running(self, stretches: tuple[Stretch, ...]) -> Iterator[None]:
        self._layout.stretches = stretches
        try:
            yield
        finally:
            self._layout.stretches = ()


class EncoderBranch(nn.Module):
    """One model's view of a trunk: runs like a `TextEncoder` with that model's adapter."""

    def __init__(self, trunk: EncoderTrunk, place: Branch) -> None:
        super().__init__()
        self.trunk = trunk
        self.place = place

    @property
    def pad_token_id(self) -> int:
        return self.trunk.encoder.pad_token_id

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, lengths: Tensor) -> Tensor:
        batch = {"input_ids": input_ids, "token_type_ids": token_type_ids, "lengths": lengths}
        hidden: Tensor = self.trunk.run([(self.place.name, batch)])[0]
        return hidden
