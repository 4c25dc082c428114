"""How good a knowledge base is at finding and at answering: the questions that it is asked, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import Field

from taskloom.core.knowledge import Hit, SearchMode
from taskloom.core.knowledge_calls import KnowledgeAnswer
from taskloom.core.types import Frozen


class KnownQuestion(Frozen):
    """A question whose answer is known. The right passage is of the document `document_id`, lies in the text `context`, and
    holds one of the `answers`: as far as these are told. Without any of the three, nothing in the base answers it."""

    question: str = Field(min_length=1)
    document_id: str = ""
    context: str = ""
    answers: tuple[str, ...] = ()

    @property
    def has_passage(self) -> bool:
        return bool(self.document_id or self.context or self.answers)


class ModeFigures(Frozen):
    """What one way of searching finds. Each figure has its 95% bootstrap interval. Latencies in seconds."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    p50_s: float
    p99_s: float


class Gain(Frozen):
    """What one way of searching has more of each figure than another, on the same questions; the 95% intervals are of the
    difference (paired bootstrap): one that has 0 in it shows no gain."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


class RiskPoint(Frozen):
    """Answering the share `coverage` of the questions whose confidence is at least `threshold`: the share of these answers that
    is wrong."""

    threshold: float
    coverage: float
    risk: float


class AnswerFigures(Frozen):
    """End to end, always answering: F1 and exact match over the questions that have an answer; `reader_f1` is what the reader
    has when it is handed the right passage. `risk` is drawn over all questions, those without an answer included: any answer to
    these is wrong. `expected_calibration_error` says how far confidence is from being right (Naeini et al. 2015)."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    reader_f1: float | None
    risk: tuple[RiskPoint, ...]
    expected_calibration_error: float
    p50_s: float
    p99_s: float


class KnowledgeFigures(Frozen):
    """Of each way of searching, and of the answers: None where no question has one. `unmeasured` says why a way of searching is
    not among the `modes`."""

    questions: int
    modes: Mapping[SearchMode, ModeFigures]
    unmeasured: Mapping[SearchMode, str] = Field(default_factory=dict)
    answers: AnswerFigures | None = None
    graph_gain: Gain | None = None
    """Of `graph` over `hybrid`, where the base keeps a graph."""


class AskedBase(Protocol):
    """A knowledge base to be measured, wherever it is. `modes` are the ways of searching that it has, in the order in which
    they are shown. Sync."""

    modes: Sequence[SearchMode]

    def search(self, question: str, mode: SearchMode, limit: int) -> Sequence[Hit]: ...

    def ask(self, question: str) -> KnowledgeAnswer:
        """Answers in any case: with a threshold of 0."""
