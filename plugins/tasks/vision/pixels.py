"""From image files to the pixel tensors of a model, and these to batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from taskloom.core.errors import InvalidInputError
from taskloom.core.task import Batch, Example
from taskloom.plugins._shared.datasets import bad_row
from taskloom.plugins.tasks.vision.cost import image_cost
from taskloom.plugins.tasks.vision.decoding import FIELD, decode_image
from taskloom.plugins.tasks.vision.schema import VisionInput

KEPT_BYTES = 1 << 30
"""Prepared pictures of a training that are kept in memory."""


@dataclass(frozen=True)
class Prepared:
    """A picture's `pixels` [C, H, W], as the network takes them, and the (width, height) that it was sent with."""

    pixels: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Blank:
    """A black picture of the size that a model looks at, and what the scheduler reckons for one such."""

    prepared: Prepared
    cost: int


class PixelReader(Protocol):
    """What prepares pictures for a network. Thread-safe."""

    def read(self, data: bytes) -> Prepared: ...

    def blank(self) -> Blank: ...

    def shape(self) -> tuple[int | None, int | None, int | None]:
        """(channels, height, width) of the pictures that it prepares, None where it varies."""
        ...


class FixedSize:
    """Pictures as bytes [C, size, size], for networks of our own: scaled until they cover the square, then cut around the
    middle. `channels` is 1 (grey) or 3 (red, green, blue)."""

    def __init__(self, size: int, channels: int) -> None:
        self.size = size
        self.mode = "L" if channels == 1 else "RGB"

    def read(self, data: bytes) -> Prepared:
        image, size = decode_image(data)
        return Prepared(self._pixels(image), size)

    def _pixels(self, image: Image.Image) -> Tensor:
        image = image if image.mode == self.mode else image.convert(self.mode)
        if image.size != (self.size, self.size):
            image = ImageOps.fit(image, (self.size, self.size), method=Image.Resampling.BILINEAR)
        values = np.array(image, dtype=np.uint8).reshape(self.size, self.size, -1)
        return torch.from_numpy(values).permute(2, 0, 1)

    def blank(self) -> Blank:
        side = (self.size, self.size)
        return Blank(Prepared(self._pixels(Image.new(self.mode, side)), side), image_cost(*side))

    def shape(self) -> tuple[int | None, int | None, int | None]:
        return (1 if self.mode == "L" else 3, self.size, self.size)


class ProcessorPixels:
    """Pictures as a Hugging Face image processor makes them, one at a time, so that each is the same alone and in a batch."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def read(self, data: bytes) -> Prepared:
        image, size = decode_image(data)
        return Prepared(self._pixels(image), size)

    def _pixels(self, image: Image.Image) -> Tensor:
        try:
            found: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        except ValueError as exc:
            raise InvalidInputError(
                f"the model's image processor can't take a picture of {image.width} x {image.height} pixels: {exc}", field=FIELD
            ) from exc
        return found.float()

    def blank(self) -> Blank:
        side = 224
        prepared = Prepared(self._pixels(Image.new("RGB", (side, side))), (side, side))
        return Blank(prepared, image_cost(*prepared.pixels.shape[1:]))

    def shape(self) -> tuple[int | None, int | None, int | None]:
        """Found out from two pictures, since processors say it in many ways."""
        one, other = (self._pixels(Image.new("RGB", side)).shape for side in ((224, 160), (320, 448)))
        channels, height, width = (a if a == b else None for a, b in zip(one, other, strict=True))
        return channels, height, width


class KeptPixels:
    """A reader that has the pictures of a training ready. Every one is decoded here, so that a damaged file ends a training
    before it begins: raises `DataError` that names it. Those beyond `most_bytes` are decoded anew each time."""

    def __init__(self, reader: PixelReader, rows: Iterable[Example[VisionInput]], most_bytes: int = KEPT_BYTES) -> None:
        self.reader = reader
        self._kept: dict[bytes, Prepared] = {}
        for row in rows:
            try:
                found = reader.read(row.input.image)
            except InvalidInputError as exc:
                raise bad_row(row.path, row.line, str(exc)) from exc
            most_bytes -= found.pixels.nbytes
            if most_bytes >= 0:
                self._kept[row.input.image] = found

    def read(self, data: bytes) -> Prepared:
        found = self._kept.get(data)
        return self.reader.read(data) if found is None else found

    def blank(self) -> Blank:
        return self.reader.blank()

    def shape(self) -> tuple[int | None, int | None, int | None]:
        return self.reader.shape()


def batch_of(pictures: Sequence[Prepared]) -> Batch:
    """Pictures of one size as `pixels`; of several sizes in groups, since a network takes one size at a time. See
    `VisionModel.encode`."""
    sizes = torch.tensor([picture.size for picture in pictures], dtype=torch.long)
    groups: dict[str, list[int]] = defaultdict(list)
    for place, picture in enumerate(pictures):
        groups["x".join(str(side) for side in picture.pixels.shape[1:])].append(place)
    if len(groups) == 1:
        return {"pixels": torch.stack([picture.pixels for picture in pictures]), "sizes": sizes}
    batch: dict[str, Tensor] = {"sizes": sizes}
    for name, places in groups.items():
        batch[f"pixels.{name}"] = torch.stack([pictures[place].pixels for place in places])
        batch[f"places.{name}"] = torch.tensor(places)
    return batch
