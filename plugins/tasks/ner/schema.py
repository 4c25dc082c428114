"""What entity recognition takes, gives and can be told. Imports no ML library."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from taskloom.core.types import Frozen
from taskloom.plugins.backbones.settings import EncoderTrainConfig, RecurrentNetwork, SavedEncoder

MAX_CHARACTERS = 100_000
MAX_TERMS = 10_000
MAX_TERM_CHARACTERS = 200
INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""Unicode categories of control and format characters and of every kind of blank."""


def _visible(text: str) -> str:
    if all(unicodedata.category(character) in INVISIBLE for character in text):
        raise ValueError("the text is empty or blank; send at least one visible character")
    return text


def _terms(terms: Mapping[str, str]) -> Mapping[str, str]:
    for term, label in terms.items():
        if len(term) > MAX_TERM_CHARACTERS or term != term.strip() or not term:
            raise ValueError(f"term {term[:40]!r} must have 1 to {MAX_TERM_CHARACTERS} characters and no blank at its ends")
        if not label.strip():
            raise ValueError(f"term {term!r} has no label")
    return terms


Label = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
Dictionary = Annotated[Mapping[str, Label], Field(max_length=MAX_TERMS), AfterValidator(_terms)]
"""Terms and their labels."""

Head = Literal["token", "crf", "span"]
Scheme = Literal["BIO", "BIOES"]


class NerInput(Frozen):
    """A text to find entities in."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "Angela Merkel met the board of Siemens in Berlin."},
                {"text": "马云在杭州创办了阿里巴巴。"},
            ]
        }
    )

    text: Annotated[str, Field(strict=True, max_length=MAX_CHARACTERS), AfterValidator(_visible)]


class Entity(Frozen):
    """A name in the text: `text` is the input's characters `start` to `end` (code points; `end` is the place after the
    last). `score` is the probability that exactly these words are an entity of this label: under the tag sequence model
    for flat models, the span's own for nested ones; 1 for an entity of a dictionary."""

    label: str
    start: int = Field(ge=0)
    end: int = Field(ge=1)
    text: str
    score: float = Field(ge=0, le=1)
    source: Literal["model", "dictionary"] = "model"


class NerOutput(Frozen):
    """The entities in the order of the text. Those of a nested model may lie in one another, the outer one first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "entities": [
                        {"label": "PER", "start": 0, "end": 13, "text": "Angela Merkel", "score": 0.99, "source": "model"},
                        {"label": "ORG", "start": 31, "end": 38, "text": "Siemens", "score": 0.97, "source": "model"},
                        {"label": "LOC", "start": 42, "end": 48, "text": "Berlin", "score": 1.0, "source": "dictionary"},
                    ]
                },
                {"entities": [{"label": "PER", "start": 0, "end": 2, "text": "马云", "score": 0.98, "source": "model"}]},
                {"entities": []},
            ]
        }
    )

    entities: tuple[Entity, ...]


class NerParams(Frozen):
    """Which entities to return, and what else the caller knows.

    `threshold` is the least score of a model's entity; null is 0 for flat models (the best tag sequence, whole) and 0.5 for
    nested ones. `labels` keeps those labels alone, which the model or a dictionary must have; null keeps all. `dictionary`
    gives terms and their labels: at each place the longest term that matches is an entity, with score 1, and wherever it
    meets an entity of the model the dictionary is right: the model's entity is dropped (a nested model keeps one that lies
    within the term, or around it). Words are
    matched whole, but in scripts that are written without blanks (Chinese, Japanese, Thai and the like), where a term is
    found anywhere.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"threshold": 0.8, "labels": ["PER", "ORG"]},
                {"dictionary": {"Taskloom": "PRODUCT", "退款": "业务"}, "ignore_case": True},
            ]
        }
    )

    threshold: float | None = Field(default=None, ge=0, le=1)
    labels: tuple[Label, ...] | None = None
    dictionary: Dictionary = Field(default_factory=dict)
    ignore_case: bool = Field(default=False, strict=True)
    """Whether terms of the dictionary are found in any letter case."""


class TrainConfig(EncoderTrainConfig):
    """How to train an entity recogniser. The defaults are good for short English texts and some thousand sentences."""

    network: RecurrentNetwork | None = None
    """Make an encoder from scratch and train it whole, with a vocabulary of the training texts, where a language or a machine
    has no pretrained one. `backbone`, `adapter` and `frozen_layers` are then left out."""

    head: Head = "crf"
    """`token` judges each word, `crf` whole tag sequences: both for flat entities. `span` judges every span of up to
    `max_span_words` words: entities may lie in one another."""
    scheme: Scheme = "BIO"
    """The tags of the flat heads. Whatever the data has, entities are the same."""
    max_span_words: int = Field(default=24, ge=1, le=128)
    """Longer entities can't be found by the span head; those in the data are not learnt."""
    span_size: int = Field(default=32, ge=2, le=512, multiple_of=2)
    """The width of the span head's queries and keys, for each label."""
    word_shapes: bool = True
    """Tell the head how each word and its neighbours are written (capitals, digits, marks): what an uncased backbone can't
    see."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    max_length: int = Field(default=128, ge=16)
    """Tokens in a window; longer texts are read in windows that overlap. The backbone's own maximum is kept if it is less."""
    label_map: Mapping[str, str] = Field(default_factory=dict)
    """Labels of the data, and what the model calls them: data sets that name one kind differently become one. It stays with
    the model, so that it can be evaluated on the same files."""
    unseen_labels: Literal["unknown", "absent"] = "unknown"
    """What it means that a file never has a label that others have: that nobody looked for it (`unknown`: a word without a
    label may have it), or that it has none (`absent`). With one file it makes no difference."""
    dictionary: Dictionary = Field(default_factory=dict)
    """Terms that the model comes with. A request's own terms go before these."""

    @model_validator(mode="after")
    def _one_encoder(self) -> TrainConfig:
        given = [name for name in ("backbone", "adapter", "frozen_layers") if name in self.model_fields_set]
        meant = [name for name in given if getattr(self, name)]
        if self.network is not None and meant:
            raise ValueError(
                f"network makes an encoder from scratch, and {', '.join(meant)} is of a pretrained one; leave one of them out"
            )
        return self


class SavedNer(SavedEncoder):
    """What an artifact's manifest keeps of an entity recogniser beside its encoder.

    `tags` are the flat heads' in the order of the logits, as the checkpoint calls them; empty for the span head. `head` is
    `imported` for the linear layer of a Hugging Face checkpoint.
    """

    labels: tuple[str, ...] = Field(min_length=1)
    head: Literal["token", "crf", "span", "imported"]
    tags: tuple[str, ...] = ()
    max_span_words: int = 24
    span_size: int = 32
    word_shapes: bool = False
    dropout: float = 0.0
    label_map: Mapping[str, str] = Field(default_factory=dict)
    dictionary: Dictionary = Field(default_factory=dict)
