"""Our own convolutional network, and the shell that makes a Hugging Face checkpoint look like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from taskloom.plugins.tasks.vision.schema import NetworkSettings


def convolution(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution without bias and its batch norm, which has one."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, (kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(width),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a way around them. It starts as that way alone: the last norm's scale is 0 (Goyal et al. 2017,
    https://arxiv.org/abs/1706.02677, section 5.1)."""

    def __init__(self, channels: int, width: int, stride: int, inner: int, *, bends: bool = False) -> None:
        super().__init__()
        self.first = convolution(channels, inner, 3, stride)
        self.second = convolution(inner, width, 3, 1)
        straight = stride == 1 and channels == width and not bends
        self.around = nn.Identity() if straight else convolution(channels, width, 1, stride)
        nn.init.zeros_(cast("Tensor", self.second[1].weight))

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.second(torch.relu(self.first(maps)))
        return torch.relu(inner + self.around(maps))


class ImageNetwork(nn.Module):
    """Pictures [N, C, S, S], as bytes or as numbers from 0 to 255, to logits [N, classes]. `mean` and `std` are per channel,
    of values from 0 to 1; they become part of the network, so that bytes are all that travels to the device."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, settings: NetworkSettings, channels: int, classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        stem = convolution(channels, settings.stem_width, settings.stem_kernel, settings.stem_stride)
        self.stem = nn.Sequential(*stem, nn.ReLU())
        stages: list[nn.Module] = []
        width = settings.stem_width
        for number, (wider, blocks) in enumerate(zip(settings.widths, settings.blocks, strict=True)):
            for block in range(blocks):
                inner = settings.inner[len(stages)] if settings.inner else wider
                bends = settings.first_bends and not stages
                stages.append(ResidualBlock(width, wider, 2 if number and not block else 1, inner, bends=bends))
                width = wider
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(width, classes)
        # Colours beside each other are what the CPU's and the GPU's convolutions like best.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch takes it, its types do not

    def forward(self, pixels: Tensor) -> Tensor:
        maps = (pixels.to(self.mean.dtype) - self.mean) / self.std
        maps = self.stages(self.stem(maps.contiguous(memory_format=torch.channels_last)))
        logits: Tensor = self.head(self.dropout(maps.mean((2, 3))))
        return logits


class CheckpointNetwork(nn.Module):
    """A Hugging Face image classifier. `pixels` [N, C, H, W] are as its processor makes them."""

    def __init__(self, checkpoint: Any) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.checkpoint(pixel_values=pixels.to(self.checkpoint.dtype)).logits
        return logits


def head_parameters(network: ImageNetwork | CheckpointNetwork) -> frozenset[str]:
    """The names of the parameters that turn features into logits."""
    trunk = f"checkpoint.{network.checkpoint.base_model_prefix}." if isinstance(network, CheckpointNetwork) else ""
    names = (name for name, _ in network.named_parameters())
    return frozenset(name for name in names if (not name.startswith(trunk) if trunk else name.startswith("head.")))
