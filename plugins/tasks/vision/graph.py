"""An image classifier's network as a graph over dense tensors, which engines other than torch can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.anatomy import Graph, GraphInput
from taskloom.core.task import Batch, Outputs


def network_graph(network: nn.Module, shape: tuple[int | None, int | None, int | None], *, mirrored: bool) -> Graph:
    """The graph of `network`, which takes pictures of this (channels, height, width), None where it varies. With `mirrored`
    each picture is followed by its mirror image, and both count alike."""

    def feeds(batch: Batch) -> list[Mapping[str, Any]]:
        return [{"pixels": _beside_mirror(batch[name]) if mirrored else batch[name].float()} for name in groups_of(batch)]

    def results(found: Sequence[Mapping[str, Any]], batch: Batch) -> Outputs:
        parts = [_mean_of_both(outputs["logits"]) if mirrored else outputs["logits"] for outputs in found]
        return {"logits": in_places(parts, batch), "sizes": batch["sizes"]}

    dims = tuple(name if size is None else size for name, size in zip(("channels", "height", "width"), shape, strict=True))
    return Graph(network, (GraphInput(name="pixels", dtype="float32", dims=("pictures", *dims)),), ("logits",), feeds, results)


def groups_of(batch: Batch) -> list[str]:
    """The names of a batch's pictures, as `VisionModel.encode` gives them: one for each size."""
    return [name for name in batch if name == "pixels" or name.startswith("pixels.")]


def in_places(parts: Sequence[Tensor], batch: Batch) -> Tensor:
    """The rows of each of `groups_of(batch)` put where its pictures are in the batch."""
    names = groups_of(batch)
    if names == ["pixels"]:
        return parts[0]
    places = torch.cat([batch[name.replace("pixels.", "places.")] for name in names])
    return torch.cat(list(parts))[places.argsort()]


def _beside_mirror(pixels: Tensor) -> Tensor:
    return torch.cat([pixels, pixels.flip(-1)]).float()


def _mean_of_both(logits: Tensor) -> Tensor:
    one, other = logits.chunk(2)
    return (one + other) / 2
