"""What question answering takes, gives and can be told. Imports no ML library."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from taskloom.core.types import Frozen
from taskloom.plugins.backbones.settings import EncoderTrainConfig, SavedEncoder

MAX_CONTEXT_CHARACTERS = 100_000
MAX_QUESTION_CHARACTERS = 4_000
INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""Unicode categories of control and format characters and of every kind of blank."""
WINDOW_TOKENS = 160
OVERLAP_TOKENS = WINDOW_TOKENS // 3
ANSWER_TOKENS = 40


def _not_blank(text: str) -> str:
    if all(unicodedata.category(character) in INVISIBLE for character in text):
        raise ValueError("the text is empty or blank; send at least one visible character")
    return text


Question = Annotated[str, Field(strict=True, max_length=MAX_QUESTION_CHARACTERS), AfterValidator(_not_blank)]
Context = Annotated[str, Field(strict=True, max_length=MAX_CONTEXT_CHARACTERS), AfterValidator(_not_blank)]


class QaInput(Frozen):
    """A question, and the text in which its answer is looked for; long texts are read in windows that overlap."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "question": "Where is the head office?",
                    "context": "Acme was founded in Leeds in 1961. Its head office has been in York since 1999.",
                },
                {"question": "公司的总部在哪里?", "context": "该公司于1961年在利兹成立,1999年起总部设在约克。"},
            ]
        }
    )

    question: Question
    context: Context


class Answer(Frozen):
    """A part of the context: `text == context[start:end]`, in Unicode code points. `score` is its probability."""

    text: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    score: float = Field(ge=0, le=1)


class QaOutput(Frozen):
    """Answers, best first; none if the model holds that the context has no answer. Scores are probabilities over every part
    of the context and "no answer" (`no_answer_score`), which together make 1. The best has most in common with all
    that the model holds for likely, which need not be the likeliest part. Answers that share half of the shorter one with a
    better one are left out."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"answers": [{"text": "York", "start": 63, "end": 67, "score": 0.91}], "no_answer_score": 0.04},
                {"answers": [], "no_answer_score": 0.97},
            ]
        }
    )

    answers: tuple[Answer, ...]
    no_answer_score: float = Field(ge=0, le=1)


class QaParams(Frozen):
    """How much of the answer to return: at most `top_k` answers with a score of at least `threshold`, each of at most
    `max_answer_tokens` tokens of the model; and none at all where `no_answer_score` is above `no_answer_threshold`, so 1
    always answers."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"top_k": 3}, {"no_answer_threshold": 1.0, "max_answer_tokens": 15}]}
    )

    top_k: int = Field(default=1, ge=1, le=100)
    threshold: float = Field(default=0.0, ge=0, le=1)
    no_answer_threshold: float = Field(default=0.5, ge=0, le=1)
    max_answer_tokens: int = Field(default=ANSWER_TOKENS, ge=1, le=256)


class GoldAnswer(Frozen):
    """What an annotator marked: `text == context[start:end]`, in Unicode code points."""

    text: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class QaTarget(Frozen):
    """What should come out for a row: the answers of its annotators, none if the context has no answer. `id` and `domain`
    are the data's own names for the question and for the kind of text."""

    answers: tuple[GoldAnswer, ...] = ()
    id: str = ""
    domain: str = ""


class TrainConfig(EncoderTrainConfig):
    """How to train an extractive reader. `max_length` is the length of the windows in which the trained model reads."""

    max_length: int = Field(default=WINDOW_TOKENS, ge=16)
    overlap: int = Field(default=OVERLAP_TOKENS, ge=0)
    """Tokens of context that a window has in common with the next: at most a third of it, since a question may take half. Left
    out, it is that."""
    train_length: int = Field(default=96, ge=16)
    """Tokens of the windows to train on, question and special tokens included: one window of a row in each epoch, drawn
    at random from those that share a third with the next. Shorter than `max_length` makes training cheaper; more than that is
    `max_length`."""
    no_answer_share: float = Field(default=0.1, ge=0, le=1)
    """Share of windows without the answer among those drawn, where a row has both kinds: what "no answer" is learnt from."""
    max_answer_tokens: int = Field(default=ANSWER_TOKENS, ge=1, le=256)
    """Rows whose answers are all longer can't be learnt from and are left out."""
    head: Literal["linear", "mlp"] = "mlp"
    """One layer over each token, or two."""
    mark_shared: bool = False
    """Tell the encoder by token types which tokens of the context the question has too. It must have two types."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Before the head."""
    backbone_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Inside the backbone while it is trained; None leaves it as the backbone has it. 0 makes a short training cheaper."""

    @model_validator(mode="before")
    @classmethod
    def _a_third_overlaps(cls, given: Any) -> Any:
        if isinstance(given, dict) and "overlap" not in given and isinstance(length := given.get("max_length"), int):
            return {**given, "overlap": length // 3}
        return given

    @model_validator(mode="after")
    def _windows_go_forward(self) -> TrainConfig:
        if self.overlap * 3 > self.max_length:
            raise ValueError(f"overlap is {self.overlap}; it may be at most a third of max_length ({self.max_length})")
        return self


class SavedQa(SavedEncoder):
    """What an artifact's manifest keeps of a reader. `max_length` is the length of its windows."""

    overlap: int = Field(ge=0)
    head: Literal["linear", "mlp"] = "mlp"
    mark_shared: bool = False
    dropout: float = 0.0
