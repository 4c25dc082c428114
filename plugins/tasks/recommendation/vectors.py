"""What a finished recommender knows of each item, in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from taskloom.core.errors import ArtifactError
from taskloom.plugins.tasks.recommendation.schema import TowerConfig


@dataclass(frozen=True)
class ItemVectors:
    """What is known of each item, by place: its vector `item` [I, D] and its `weight` [I, 1] in a history, from the item
    tower; and its compressed `text` [I, R]. Rounded to half precision, in which they are saved, so that a model answers alike
    before and after."""

    item: Tensor
    weight: Tensor
    text: Tensor

    @classmethod
    def rounded(cls, item: Tensor, weight: Tensor, text: Tensor) -> ItemVectors:
        return cls(*(part.detach().cpu().half().float().clone() for part in (item, weight, text)))

    def at(self, places: Tensor) -> ItemVectors:
        return ItemVectors(self.item[places], self.weight[places], self.text[places])

    def followed_by(self, other: ItemVectors) -> ItemVectors:
        pairs = ((self.item, other.item), (self.weight, other.weight), (self.text, other.text))
        return ItemVectors(*(torch.cat(pair) for pair in pairs))

    def save(self, path: Path) -> None:
        from safetensors.torch import save_file

        parts = {"item": self.item, "weight": self.weight, "text": self.text}
        save_file({name: part.half().contiguous() for name, part in parts.items()}, path)

    @classmethod
    def load(cls, path: Path, items: int, towers: TowerConfig) -> ItemVectors:
        """Raises `ArtifactError` if the file does not hold the vectors of so many items for such towers."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(path)
            vectors = cls(*(found[name].float() for name in ("item", "weight", "text")))
        except (SafetensorError, KeyError, OSError) as exc:
            raise ArtifactError(f"{path.name} holds no item vectors: {exc}") from exc
        sizes = (towers.dimensions, 1, towers.reading)
        if tuple(part.shape for part in (vectors.item, vectors.weight, vectors.text)) != tuple((items, size) for size in sizes):
            raise ArtifactError(f"{path.name} does not fit the artifact's items and towers; install it again")
        return vectors
