"""What summarization takes, gives and can be told. Imports no ML library."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from taskloom.core.types import Frozen
from taskloom.plugins._shared.loop_config import LoopConfig
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, LoraSettings, SavedEncoder

MAX_CHARACTERS = 200_000
INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""Unicode categories of control and format characters and of every kind of blank."""
WRITING_ONLY = ("num_beams", "min_tokens", "length_penalty", "no_repeat_ngram_size")
"""Params for models that write their summaries."""
CHOOSING_ONLY = ("max_sentences", "redundancy_penalty", "shorten")
"""Params for models that choose sentences."""


def _readable(text: str) -> str:
    if all(unicodedata.category(character) in INVISIBLE for character in text):
        raise ValueError("the document is empty or blank; send at least one visible character")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the document holds half of a surrogate pair, which is no character; send whole Unicode text")
    return text


Document = Annotated[str, Field(strict=True, max_length=MAX_CHARACTERS), AfterValidator(_readable)]

NEWS = (
    "The city council voted on Tuesday to replace all of its diesel buses with electric ones by 2030. The first twenty will be "
    "delivered next spring. Opponents said that the plan, which costs 90 million euros, was too expensive, and asked for a "
    "public vote. The mayor answered that lower running costs would pay for the new buses within nine years."
)
NEWS_ZH = (
    "市议会周二投票决定,到2030年用电动公交车取代全部柴油公交车。首批二十辆将于明年春天交付。反对者认为该计划耗资过高,要求公投。"
)


class SummarizationInput(Frozen):
    """A document to summarize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"document": NEWS}, {"document": NEWS_ZH}]})

    document: Document


class SummarySentence(Frozen):
    """A sentence of the document, or the part of it that was kept: `text` is the document from `start` to `end`, in Unicode
    code points. `score` is the probability that this sentence says most of the document."""

    text: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    score: float = Field(ge=0, le=1)


class SummarizationOutput(Frozen):
    """A summary, and the sentences that it consists of in the document's order; none if the model wrote it. With
    `truncated`, the document was longer than the model takes and its end was not read."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "summary": NEWS[:96],
                    "sentences": [{"text": NEWS[:96], "start": 0, "end": 96, "score": 0.71}],
                    "truncated": False,
                },
                {"summary": "A city buys electric buses.", "sentences": [], "truncated": True},
            ]
        }
    )

    summary: str
    sentences: tuple[SummarySentence, ...] = ()
    truncated: bool = False


class SummarizationParams(Frozen):
    """How long a summary to give, and how to make it. What is left out (null) is what the model was made for.

    A model that chooses sentences refuses the settings of one that writes (`num_beams`, `min_tokens`, `length_penalty`,
    `no_repeat_ngram_size`) and the other way round (`max_sentences`, `redundancy_penalty`, `shorten`)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"max_sentences": 3, "redundancy_penalty": 0.5},
                {"max_characters": 120, "shorten": False},
                {"num_beams": 4, "min_tokens": 10, "max_tokens": 60},
            ]
        }
    )

    max_sentences: int | None = Field(default=None, ge=1, le=100)
    max_characters: int | None = Field(default=None, ge=1)
    """The summary is never longer; what does not fit is cut at a word."""
    max_tokens: int | None = Field(default=None, ge=1, le=4096)
    """The same in tokens of the model."""
    redundancy_penalty: float | None = Field(default=None, ge=0, le=1)
    """0 takes the best sentences however alike they are, 1 the least alike however good."""
    shorten: bool | None = None
    """Whether to leave out the beginning and the end of a sentence if they say little."""
    num_beams: int | None = Field(default=None, ge=1, le=16)
    """1 writes the likeliest next token at each step; more search for the likeliest summary."""
    min_tokens: int | None = Field(default=None, ge=0, le=4096)
    length_penalty: float | None = Field(default=None, ge=-10, le=10)
    """Above 0 longer summaries are preferred, below 0 shorter ones; it needs more than one beam."""
    no_repeat_ngram_size: int | None = Field(default=None, ge=0, le=20)
    """No run of so many tokens is written twice; 0 allows it."""

    @model_validator(mode="after")
    def _some_length_is_left(self) -> SummarizationParams:
        if self.min_tokens is not None and self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens} and max_tokens {self.max_tokens}; min_tokens must not be more")
        return self


class TrainConfig(LoopConfig):
    """How to train a model that chooses sentences, or, with `kind = "seq2seq"`, one that writes."""

    kind: Literal["extractive", "seq2seq"] = "extractive"
    backbone: str = DEFAULT_BACKBONE
    """The encoder (bundled, a Hugging Face id or a local folder); with `kind = "seq2seq"`, the checkpoint to train."""
    adapter: LoraSettings | None = None
    """Train a small adapter too. Without one the backbone stays as it is, and each text runs through it only once. A model
    that writes has none: it is trained whole."""
    max_length: int = Field(default=256, ge=16)
    """Documents are read in windows of so many tokens."""
    training_tokens: int = Field(default=256, ge=16)
    """Tokens of each document that training reads: its first sentences, or what of them a model that writes would read first.
    Answers are made from the whole document."""
    max_documents: int = Field(default=0, ge=0)
    """Train on a random choice of so many rows; 0 is all."""
    sentences: int = Field(default=1, ge=1)
    """How many sentences a summary has if a request doesn't say: what the references are worth."""
    shorten: bool = True
    """Whether summaries leave out what says little at a sentence's ends, if a request doesn't say."""
    head_size: int = Field(default=256, ge=8)
    head_layers: int = Field(default=1, ge=0)
    """Transformer layers over a document's sentences."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    temperature: float = Field(default=0.1, gt=0)
    """How sharply a document's best sentences are told from its good ones: ROUGE is divided by it, then softmax."""
    keep_weight: float = Field(default=1.0, ge=0)
    """What finding the words that matter weighs beside finding the sentence; 0 leaves it out."""
    keep_states: bool = False
    """Leave the backbone's states of the training texts in the work folder's parent for the next training on them."""
    validation_documents: int = Field(default=300, ge=1)
    """At most so many of the rows held out are measured after each epoch."""

    @model_validator(mode="after")
    def _writers_are_trained_whole(self) -> TrainConfig:
        if self.kind == "seq2seq" and self.adapter is not None:
            raise ValueError('a model that writes (kind = "seq2seq") is trained whole; leave `adapter` out')
        return self


class SavedChooser(SavedEncoder):
    """What an artifact's manifest keeps of a model that chooses sentences. `max_length` is how many tokens are read
    together."""

    kind: Literal["extractive"] = "extractive"
    head_size: int = Field(ge=1)
    head_layers: int = Field(ge=0)
    dropout: float = 0.0
    sentences: int = Field(default=1, ge=1)
    shorten: bool = False
    unsaid: float = Field(default=1.0, ge=0)
    """Words of a reference for each of them that the sentence has: how long a summary is expected to be."""


class SavedWriter(Frozen):
    """What an artifact's manifest keeps of a model that writes: where it came from and how it writes if a request doesn't
    say. `prefix` stands before each document."""

    kind: Literal["seq2seq"] = "seq2seq"
    backbone: str
    backbone_digest: str = ""
    prefix: str = ""
    max_source_tokens: int = Field(ge=2)
    num_beams: int = Field(default=1, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=128, ge=1)
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = Field(default=0, ge=0)
