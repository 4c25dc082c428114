"""What calls return beside `InferResult`: typed results of the built-in tasks, and the items of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from taskloom.core.errors import InternalError, TaskloomError, UnsupportedError
from taskloom.core.types import InferResult, Timings

# -- parts of results ------------------------------------------------------------------------------------------------------
# Offsets are Unicode code points, as in Python strings: `text[entity.start:entity.end] == entity.text`.


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its probability."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Entity:
    """A name in a text. `score` is a probability, 1 for a name of the caller's dictionary; `source` says which of the two,
    "model" or "dictionary"."""

    label: str
    start: int
    end: int
    text: str
    score: float
    source: str = "model"


@dataclass(frozen=True, slots=True)
class Answer:
    """The part of a context that answers a question, and the probability that it does."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class SummarySentence:
    """A sentence of a document, and the probability that a summary has it."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Reason:
    """An item of the user's history that a recommended one is near to; `similarity` is the cosine of their vectors."""

    item: str
    title: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An item for a user. `score` is higher for better ones, and comparable within one answer only."""

    item: str
    title: str
    score: float
    reasons: tuple[Reason, ...] = ()


# -- results of the built-in tasks -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What every typed result says beside its answer: who gave it, under which request id, and where the time went."""

    task: ClassVar[str]

    model: str
    version: str
    request_id: str = field(repr=False)
    timings: Timings = field(repr=False)

    @classmethod
    def of(cls, result: InferResult) -> Self:
        """The typed form of an answer; raises `UnsupportedError` for one of another task. What a newer server says beyond
        the fields here is left out.

        >>> output = {"labels": [{"label": "card_arrival", "score": 0.9}], "truncated": False}
        >>> ClassificationResult.of(InferResult(request_id="r", model="m", version="1", task="classification", output=output))
        ClassificationResult(model='m', version='1', labels=(LabelScore(label='card_arrival', score=0.9),), truncated=False)
        """
        if result.task != cls.task:
            raise UnsupportedError(
                f"{result.model} is a model for {result.task}, not {cls.task}; call it with infer(), or name another model"
            )
        facts = {"model": result.model, "version": result.version, "request_id": result.request_id, "timings": result.timings}
        try:
            typed: Self = _adapter(cls).validate_python({**result.output, **facts})  # type: ignore[arg-type]
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InternalError(
                f"the answer of {result.model} is not what this version of the SDK expects of {cls.task} "
                f"({where}: {first['msg']}); read it with infer(), or use the SDK of the server's version"
            ) from exc
        return typed


@lru_cache(maxsize=64)
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labelled(TaskResult):
    """An answer that consists of labels, best first: those that `top_k` and `threshold` leave."""

    labels: tuple[LabelScore, ...]

    @property
    def label(self) -> str | None:
        """The best label; None if no label reached the threshold."""
        return self.labels[0].label if self.labels else None

    @property
    def score(self) -> float | None:
        """The probability of the best label; None if no label reached the threshold."""
        return self.labels[0].score if self.labels else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationResult(_Labelled):
    """What a classification model says of a text."""

    task: ClassVar[str] = "classification"

    truncated: bool = False
    """The text was longer than the model takes, and its end was not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NerResult(TaskResult):
    """The names in a text, in its order. Entities of a nested model may lie in one another, the outer one first."""

    task: ClassVar[str] = "ner"

    entities: tuple[Entity, ...]

    @property
    def by_label(self) -> dict[str, tuple[Entity, ...]]:
        """The entities of each label that there is, labels in the order of their first entity."""
        return {
            label: tuple(entity for entity in self.entities if entity.label == label)
            for label in dict.fromkeys(entity.label for entity in self.entities)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerResult(TaskResult):
    """The answers that a context gives to a question, best first; none if the model holds that it has no answer."""

    task: ClassVar[str] = "qa"

    answers: tuple[Answer, ...]
    no_answer_score: float
    """The probability that the context has no answer."""

    @property
    def best(self) -> Answer | None:
        """The best answer with its place in the context."""
        return self.answers[0] if self.answers else None

    @property
    def answer(self) -> str | None:
        """The text of the best answer; None if the context has none."""
        return self.answers[0].text if self.answers else None

    @property
    def score(self) -> float | None:
        """The probability of the best answer; None if the context has none."""
        return self.answers[0].score if self.answers else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryResult(TaskResult):
    """A summary; `str(result)` is its text."""

    task: ClassVar[str] = "summarization"

    summary: str
    sentences: tuple[SummarySentence, ...] = ()
    """The sentences of the document that the summary consists of, in its order; none if the model wrote the summary."""
    truncated: bool = False
    """The document was longer than the model takes, and its end was not read."""

    def __str__(self) -> str:
        return self.summary


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendResult(TaskResult):
    """Items for a user, best first."""

    task: ClassVar[str] = "recommendation"

    items: tuple[Recommendation, ...]
    unknown: tuple[str, ...] = ()
    """Ids in the call that the model does not know; they were passed over."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The items' ids alone."""
        return tuple(recommendation.item for recommendation in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionResult(_Labelled):
    """What an image shows. `width` and `height` are those of the image as it was sent, in pixels."""

    task: ClassVar[str] = "vision"

    width: int
    height: int


# -- items of a batch --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one input among many: a result or an error, never both. `index` is the input's place, from 0."""

    index: int
    result: InferResult | None = None
    error: TaskloomError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    def value(self) -> InferResult:
        """The result; raises the error if there is one."""
        if self.result is None:
            raise self.error or ValueError("an item has a result or an error")
        return self.result
