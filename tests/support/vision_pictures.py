"""Pictures that are easy to tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from taskloom.core.task import Example
from taskloom.plugins.tasks.vision.schema import VisionInput

LABELS = ("dark", "light", "红")


def image_file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def shade(label: str, seed: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """A noisy picture of one of `LABELS`."""
    middle = {"dark": (60, 60, 60), "light": (200, 200, 200), "红": (200, 40, 40)}[label]
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return image_file(Image.fromarray((np.array(middle) + noise).clip(0, 255).astype(np.uint8)))


def shades(count: int, labels: Sequence[str] = LABELS, **options: Any) -> list[Example[VisionInput]]:
    return [
        Example(input=VisionInput(image=shade(label, i, **options)), target=label, path=f"{label}/{i}.png")
        for i in range(count // len(labels))
        for label in labels
    ]
