"""Changing pictures in training. Chance comes from torch's generator alone, which the training loop saves and restores."""

from __future__ import annotations

import torch
from torch import Tensor

from taskloom.plugins.tasks.vision.schema import Augmentation


def augment(pixels: Tensor, settings: Augmentation, blank: Tensor) -> Tensor:
    """Pictures [N, C, H, W] of any number type, each moved, mirrored and blotted out in part. `blank` [C] is the colour of
    the blots."""
    count, _, height, width = pixels.shape
    rows = _moved(count, height, settings.shift)
    columns = _moved(count, width, settings.shift)
    if settings.flip:
        flipped = torch.rand(count) < 0.5
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    changed = pixels[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if settings.erase == 0:
        return changed
    hidden = _square(count, height, settings)[:, :, None] & _square(count, width, settings)[:, None, :]
    hidden &= (torch.rand(count) < settings.erase)[:, None, None]
    return torch.where(hidden[:, None], blank.to(pixels.dtype).view(1, -1, 1, 1), changed)


def _moved(count: int, side: int, share: float) -> Tensor:
    """For each picture, which line of it each line shows: [N, side], moved by up to `share`, reflected at the edges."""
    most = min(int(side * share), side - 1)
    lines = torch.arange(side) + torch.randint(-most, most + 1, (count, 1))
    lines = lines.abs()
    return torch.where(lines >= side, 2 * (side - 1) - lines, lines)


def _square(count: int, side: int, settings: Augmentation) -> Tensor:
    """For each picture, which lines a blot covers: [N, side]."""
    longest = max(1, int(side * settings.erase_size))
    length = torch.randint(1, longest + 1, (count, 1))
    start = (torch.rand(count, 1) * (side - length + 1)).long()
    lines = torch.arange(side)
    return (lines >= start) & (lines < start + length)
