"""What relation classification takes, gives and can be told. Imports no ML library."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator

from taskloom.core.types import Frozen
from taskloom.plugins._shared.label_scores import LabelScore
from taskloom.plugins.backbones.settings import EncoderTrainConfig, SavedEncoder

MAX_CHARACTERS = 100_000
INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""Unicode categories of control and format characters and of every kind of blank."""

Direction = Literal["head_to_tail", "tail_to_head"]
ENDINGS: dict[str, Direction] = {"(e1,e2)": "head_to_tail", "(e2,e1)": "tail_to_head"}
"""How labels say which entity comes first in the relation (SemEval-2010 task 8): the head is e1, the tail e2."""
DIRECTED = re.compile(r"(?P<relation>.+?)(?P<ending>\(e1,e2\)|\(e2,e1\))")


def relation_of(label: str) -> tuple[str, Direction | None]:
    """A label's relation and its direction, None where the label names none.

    >>> relation_of("Cause-Effect(e2,e1)"), relation_of("收购")
    (('Cause-Effect', 'tail_to_head'), ('收购', None))
    """
    found = DIRECTED.fullmatch(label)
    return (found["relation"], ENDINGS[found["ending"]]) if found else (label, None)


def mirrored(label: str) -> str:
    """What a label becomes when head and tail change places.

    >>> mirrored("Cause-Effect(e1,e2)"), mirrored("Other")
    ('Cause-Effect(e2,e1)', 'Other')
    """
    relation, direction = relation_of(label)
    if direction is None:
        return label
    return relation + ("(e2,e1)" if direction == "head_to_tail" else "(e1,e2)")


def _visible(text: str) -> str:
    if all(unicodedata.category(character) in INVISIBLE for character in text):
        raise ValueError("the text is empty or blank; send at least one visible character")
    return text


class EntitySpan(Frozen):
    """A part of the text: its characters from `start` to before `end`, in Unicode code points."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"start": 0, "end": 13}]})

    start: int = Field(ge=0)
    end: int = Field(ge=1)


class RelationInput(Frozen):
    """A text, and two parts of it whose relation is asked for. They may come in any order, and may overlap."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "The fire was caused by a cigarette.",
                    "head": {"start": 4, "end": 8},
                    "tail": {"start": 25, "end": 34},
                },
                {"text": "The wheels of the car are new.", "head": {"start": 18, "end": 21}, "tail": {"start": 4, "end": 10}},
                {"text": "东方航空将与上航合并。", "head": {"start": 0, "end": 4}, "tail": {"start": 6, "end": 8}},
            ]
        }
    )

    text: Annotated[str, Field(strict=True, max_length=MAX_CHARACTERS), AfterValidator(_visible)]
    head: EntitySpan
    tail: EntitySpan

    @field_validator("head", "tail")
    @classmethod
    def _lies_in_the_text(cls, span: EntitySpan, info: ValidationInfo) -> EntitySpan:
        if span.end <= span.start:
            raise ValueError(f"it ends at {span.end}, which is not behind its start, {span.start}")
        text = info.data.get("text")
        if text is None:  # what is wrong with the text is said already
            return span
        if span.end > len(text):
            raise ValueError(f"it ends at {span.end}, and the text has {len(text)} characters (code points)")
        if all(unicodedata.category(character) in INVISIBLE for character in text[span.start : span.end]):
            raise ValueError(f"the characters from {span.start} to {span.end} are blank; mark at least one that is visible")
        return span


class RelationScore(LabelScore):
    """A label as the training data has it, with its probability. `relation` is the label without its direction; `direction` is
    None where the label names none."""

    relation: str
    direction: Direction | None = None


class RelationOutput(Frozen):
    """The labels that were asked for, best first. With `truncated`, the text was longer than the model takes, and what was read
    is what stands around the two entities."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "labels": [
                        {
                            "label": "Cause-Effect(e2,e1)",
                            "score": 0.97,
                            "relation": "Cause-Effect",
                            "direction": "tail_to_head",
                        },
                        {"label": "Other", "score": 0.02, "relation": "Other", "direction": None},
                    ],
                    "truncated": False,
                },
            ]
        }
    )

    labels: tuple[RelationScore, ...]
    truncated: bool = False


class RelationParams(Frozen):
    """How much of the answer to return: at most `top_k` labels (null for all) whose probability is at least `threshold`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"top_k": 1}, {"top_k": None, "threshold": 0.2}]})

    top_k: int | None = Field(default=3, ge=1)
    threshold: float | None = Field(default=None, ge=0, le=1)


Marker = Annotated[str, Field(strict=True, min_length=1, max_length=20)]


class TrainConfig(EncoderTrainConfig):
    """How to train a relation classifier. The defaults are good for English sentences and some thousand rows."""

    max_length: int = Field(default=128, ge=16)
    labels: tuple[str, ...] = ()
    """All labels, where the rows to train on may lack some; empty: those that the rows have."""
    uncounted: tuple[str, ...] = ()
    """Relations that are none, such as `Other`: macro and micro F1 are over the others."""
    in_text_order: bool = False
    """Read whichever entity stands first in the text as the head, and turn the answer round where that is the tail. For labels
    that say their direction: what is learnt of one order then holds for the other."""
    markers: tuple[Marker, Marker] = ("$", "#")
    """What stands on both sides of the head, and of the tail: pieces that the backbone's vocabulary has."""
    head_size: int = Field(default=256, ge=1)
    """The width of the layer between the entities' states and the labels."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class SavedRelation(SavedEncoder):
    """What an artifact's manifest keeps of a relation classifier."""

    labels: tuple[str, ...] = Field(min_length=1)
    uncounted: tuple[str, ...] = ()
    in_text_order: bool = False
    markers: tuple[str, str]
    head_size: int = Field(ge=1)
    dropout: float = 0.0
