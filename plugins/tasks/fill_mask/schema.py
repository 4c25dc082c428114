"""What a masked language model takes, gives and can be told. Imports no ML library."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from taskloom.core.types import Frozen
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, EncoderTrainConfig, LoraSettings, SavedEncoder

MASK = "[MASK]"
MAX_CHARACTERS = 20_000
MAX_TARGETS = 512

Masking = Literal["word", "character", "span"]


def _has_a_gap(text: str) -> str:
    if MASK not in text:
        raise ValueError(f"the text has no {MASK}; put one in the place of each token that is to be found")
    return text


class FillMaskInput(Frozen):
    """A text in which each `[MASK]` stands for one token: a Chinese character, a frequent Latin word, or a piece of a rarer
    one. A longer word that is wanted whole needs as many of them as it has tokens."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "北京是中国的首[MASK]。"},
                {"text": "该公司于1961年成[MASK],总部设在上[MASK]。"},
                {"text": "The head office is in [MASK]."},
            ]
        }
    )

    text: Annotated[str, Field(strict=True, max_length=MAX_CHARACTERS), AfterValidator(_has_a_gap)]


class Candidate(Frozen):
    """A token that may stand in a gap, as the tokenizer writes it (`##` before pieces inside a word), and its probability."""

    token: str
    score: float = Field(ge=0, le=1)


class Gap(Frozen):
    """One `[MASK]`: `text[start:end]` in Unicode code points; what may stand there, best first; and the probability of the
    token that `targets` asked about, null if it asked about none or the model has no such token."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    candidates: tuple[Candidate, ...]
    target_score: float | None = Field(default=None, ge=0, le=1)


class FillMaskOutput(Frozen):
    """The gaps of the text, in order. Each is filled by itself: the best tokens of two need not fit together."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"gaps": [{"start": 7, "end": 13, "candidates": [{"token": "都", "score": 0.93}]}]}],
        }
    )

    gaps: tuple[Gap, ...]


class FillMaskParams(Frozen):
    """`top_k` candidates for each gap; with `targets`, one token for each gap in order, the probabilities of these as well."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"top_k": 1, "targets": ["都"]}]})

    top_k: int = Field(default=5, ge=1, le=100)
    targets: tuple[str, ...] = Field(default=(), max_length=MAX_TARGETS)


class FillMaskTarget(Frozen):
    """A document of plain text, and what is hidden in the passage of it that the row's input shows: for each `[MASK]` there a
    Chinese character or another word. Training reads `text`, evaluation `hidden`."""

    text: str
    hidden: tuple[str, ...] = ()


class NetworkSettings(Frozen):
    """A new encoder, of BERT's architecture (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), with a vocabulary from the
    training data."""

    layers: int = Field(default=6, ge=1, le=48)
    width: int = Field(default=256, ge=16)
    heads: int = Field(default=8, ge=1)
    feed_forward: int = Field(default=1024, ge=16)
    positions: int = Field(default=512, ge=16)
    """The longest text, in tokens, that it can ever read."""
    vocabulary: int = Field(default=8500, ge=64)
    """Tokens, five special ones among them: the most frequent characters, then pieces of words of several letters."""
    characters: float = Field(default=0.8, gt=0, le=1)
    """Of the vocabulary, at most this share are single characters."""
    lowercase: bool = True
    """Fold case and take accents off before tokens are looked for."""
    first_vectors: bool = True
    """Start the token embeddings from the company that tokens keep in the text, instead of at random."""
    layers_from: str = ""
    """Start the layers, and the embeddings of positions, from those of this backbone, whatever its language (Artetxe, Ruder and
    Yogatama 2020, https://arxiv.org/abs/1910.11856): a BERT of the same width, heads and feed-forward width. Where it has more
    layers, those at even distances are taken, its first and its last among them."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """What its configuration says to those who train it further; `backbone_dropout` is for this training."""

    @model_validator(mode="after")
    def _heads_fit(self) -> NetworkSettings:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}; it must be a multiple of heads ({self.heads})")
        return self


class TrainConfig(EncoderTrainConfig):
    """How to pretrain an encoder as a masked language model: a new one (`network`), or a named `backbone` further, on text of a
    domain."""

    network: NetworkSettings | None = None
    """None trains the named backbone on, with its own vocabulary; `frozen_layers` of it may stay as they are."""
    adapter: LoraSettings | None = None
    """There is none: what comes out is a backbone that others are named after, so it is trained itself."""
    max_length: int = Field(default=512, ge=8)
    """Tokens of the longest text that the trained model takes."""
    train_length: int = Field(default=128, ge=16)
    """Tokens of a training row. Documents are laid end to end and cut into rows, so that none is padded."""
    rows: int = Field(default=0, ge=0)
    """Train on so many rows, drawn at random over the whole text; 0 takes all."""
    masking: Masking = "word"
    """What is hidden at a time: whole words (Cui et al. 2019, https://arxiv.org/abs/1906.08101), single tokens, or spans of
    whole words whose number is drawn from a geometric distribution (Joshi et al. 2020, https://arxiv.org/abs/1907.10529)."""
    mask_rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of the tokens that are hidden, drawn anew each time that a row is seen."""
    longest_word: int = Field(default=10, ge=1)
    """Tokens; a longer word, such as an address of a page, is never hidden."""
    span_stop: float = Field(default=0.2, gt=0, lt=1)
    """With `masking = "span"`: the chance that a span ends after each word."""
    longest_span: int = Field(default=10, ge=1)
    """Words."""
    backbone_dropout: float | None = Field(default=0.0, ge=0, lt=1)
    """Inside the encoder while it is trained here; None is what its configuration says. A training that sees each row once or
    twice has no use for any."""
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    head_learning_rate: float = Field(default=1e-3, gt=0)
    kept_in: Literal["fp32", "bf16"] = "bf16"
    """A backbone is measured and published in the precision that it is run in on most machines, at half the size."""
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Of the documents; with 0, and no validation file, the last weights are kept."""

    @model_validator(mode="after")
    def _one_start(self) -> TrainConfig:
        if self.adapter is not None:
            raise ValueError("an adapter is no backbone; leave `adapter` out, and set `frozen_layers` to train fewer weights")
        if self.network is None:
            return self
        if self.backbone != DEFAULT_BACKBONE:
            raise ValueError(f"`network` is a new encoder, and `backbone` names another ({self.backbone!r}); give one of them")
        if self.train_length > self.network.positions:
            raise ValueError(f"train_length is {self.train_length}; the network reads {self.network.positions} tokens at most")
        return self


class SavedFillMask(SavedEncoder):
    """What an artifact's manifest keeps of a masked language model."""
