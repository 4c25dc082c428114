"""What classification takes, gives and can be told. Imports no ML library."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from taskloom.core.types import Frozen
from taskloom.plugins._shared.label_scores import LabelScore
from taskloom.plugins.backbones.settings import EncoderTrainConfig, SavedEncoder

MAX_CHARACTERS = 100_000
INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""Unicode categories of control and format characters and of every kind of blank."""


def _not_blank(text: str) -> str:
    if all(unicodedata.category(character) in INVISIBLE for character in text):
        raise ValueError("the text is empty or blank; send at least one visible character")
    return text


Label = Annotated[str, Field(strict=True, min_length=1, max_length=200), AfterValidator(_not_blank)]
MAX_LABELS = 500

Text = Annotated[str, Field(strict=True, max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]


class ClassificationInput(Frozen):
    """A text to put into classes, or, for models that judge pairs, two texts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "I lost my card on holiday, please block it."},
                {"text": "我的银行卡丢了,请帮我冻结账户。"},
                {"text": "A man is playing a guitar.", "text_pair": "Somebody makes music."},
            ]
        }
    )

    text: Text
    text_pair: Text | None = None


class ClassificationOutput(Frozen):
    """The labels that were asked for, best first. With `truncated`, the input was longer than the model takes and its end
    was not read."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "labels": [{"label": "lost_or_stolen_card", "score": 0.94}, {"label": "card_arrival", "score": 0.02}],
                    "truncated": False,
                },
                {"labels": [{"label": "挂失", "score": 0.91}], "truncated": False},
            ]
        }
    )

    labels: tuple[LabelScore, ...]
    truncated: bool = False


class ClassificationParams(Frozen):
    """How much of the answer to return: at most `top_k` labels (null for all) whose score is at least `threshold`. A null
    `threshold` is 0 for models with one label per text and 0.5 for those with several. `labels` are the labels to choose from,
    for a zero-shot model."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"top_k": 1},
                {"top_k": None, "threshold": 0.5},
                {"labels": ["a question about a bill", "a complaint", "praise"]},
            ]
        }
    )

    top_k: int | None = Field(default=5, ge=1)
    threshold: float | None = Field(default=None, ge=0, le=1)
    labels: tuple[Label, ...] | None = Field(default=None, min_length=1, max_length=MAX_LABELS)


class TrainConfig(EncoderTrainConfig):
    """How to train a classifier. The defaults are good for short English texts and some thousand examples."""

    multi_label: bool = False
    """Any number of labels per text, instead of one."""
    pair: bool = False
    """Judge two texts at a time."""
    mark_shared: bool = False
    """Mark, by token types, the words of a pair's second text that its first one has too: what a small encoder can't tell by
    itself yet."""
    pooling: Literal["mean", "cls"] = "mean"
    head_init: Literal["centroids", "random"] = "centroids"
    """What the head starts from: the classes' mean embeddings, or noise (always so for several labels per text)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    zero_shot: bool = False
    """Embed the names of labels instead of learning them: the rows then set the scale of the scores alone, and `labels` are
    those of requests that bring none of their own."""
    pretrained: bool = False
    """Take the checkpoint `backbone` as it is, with the head that it has; `labels`, if there are any, are names for its logits,
    in their order. Nothing is trained."""
    labels: tuple[Label, ...] = ()
    template: Annotated[str, Field(pattern=r"\{\}")] = "{}"
    """What stands around a label's name, at `{}`, when a zero-shot model reads it."""

    @model_validator(mode="after")
    def _settings_go_together(self) -> TrainConfig:
        if self.mark_shared and not self.pair:
            raise ValueError("mark_shared marks what the texts of a pair share; set pair = true, or leave it out")
        kind = "pretrained" if self.pretrained else "zero_shot" if self.zero_shot else ""
        if kind and self.mark_shared:
            raise ValueError(f"a model with {kind} = true reads as its encoder has learnt to; leave mark_shared out")
        if self.zero_shot and (self.multi_label or self.pair):
            raise ValueError("a zero-shot model chooses one label for one text; leave multi_label and pair out")
        return self


class SavedClassifier(SavedEncoder):
    """What an artifact's manifest keeps of a classifier."""

    labels: tuple[str, ...] = Field(min_length=1)
    multi_label: bool = False
    pair: bool = False
    mark_shared: bool = False
    pooling: Literal["mean", "cls"] = "mean"
    dropout: float = 0.0
    zero_shot: bool = False
    template: str = "{}"
