"""How good a knowledge base is at finding and at answering, on questions whose answers are known.

It asks through functions, so that the same figures come from a base in this process and from one behind a gateway.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from taskloom.core.errors import DataError
from taskloom.core.knowledge import Hit, Mode, Passage
from taskloom.core.knowledge_calls import KnowledgeAnswer
from taskloom.core.types import Frozen
from taskloom.plugins._shared.answer_scores import exact_match, f1, is_chinese
from taskloom.plugins._shared.bootstrap import percentile_intervals

CUTS = (1, 5, 20)
DEPTH = max(CUTS)
GAIN_DEPTH = 10
MODES: tuple[Mode, ...] = ("dense", "sparse", "hybrid")
RIGHT_F1 = 0.5
"""From this F1 on an answer counts as right where one has to say yes or no: for confidence, and for the risk."""

Search = Callable[[str, Mode, int], Sequence[Hit]]
"""`search(question, mode, limit)`."""
Ask = Callable[[str], KnowledgeAnswer]
"""Answers in any case: with a threshold of 0."""
Read = Callable[[str, str], str]
"""`read(question, passage)`: what the reader finds in the right passage."""


class KnownQuestion(Frozen):
    """A row of a question file (JSON lines). `document_id` has the answer; with `answers`, a passage of it is the right one if
    it contains one of them. Without a document, the base has no answer to it."""

    question: str
    document_id: str = ""
    answers: tuple[str, ...] = ()


class ModeFigures(Frozen):
    """What one way of searching finds. Each figure has its 95% bootstrap interval. Latencies in seconds."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    p50_s: float
    p99_s: float


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


@dataclass(frozen=True)
class Tried:
    """One question end to end: how sure the answer was, and how right (F1; 0 where there is nothing to answer)."""

    confidence: float
    f1: float
    exact: float
    answerable: bool
    kind: str
    took_s: float

    @property
    def right(self) -> bool:
        return self.answerable and self.f1 >= RIGHT_F1


def read_questions(path: Path) -> Iterator[KnownQuestion]:
    """The rows of a question file; raises `DataError` with the line of the first bad one."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield KnownQuestion.model_validate(json.loads(line))
            except (ValueError, ValidationError) as exc:
                told = exc.errors(include_url=False)[0]["msg"] if isinstance(exc, ValidationError) else str(exc)
                raise DataError(f"{path.name}, line {number}: {told}", path=str(path), line=number) from exc


def judge_search(search: Search, questions: Sequence[KnownQuestion], mode: Mode) -> ModeFigures:
    """Recall at 1, 5 and 20, the mean reciprocal rank and nDCG at 10, over the questions that have a document."""
    asked = [question for question in questions if question.document_id]
    if not asked:
        raise DataError("no question names the document that answers it: there is nothing to measure a search by")
    ranks, took = [], []
    for question in asked:
        began = time.perf_counter()
        hits = search(question.question, mode, DEPTH)
        took.append(time.perf_counter() - began)
        ranks.append(rank_of_right(question, hits))
    places = np.array([rank if rank is not None else np.inf for rank in ranks])
    intervals = percentile_intervals(lambda drawn: rank_metrics(places[drawn]), len(places))
    return ModeFigures(metrics=rank_metrics(places), intervals=intervals, p50_s=quantile(took, 0.5), p99_s=quantile(took, 0.99))


def rank_of_right(question: KnownQuestion, hits: Sequence[Hit]) -> int | None:
    """The first right passage's place, from 1; None if there is none among the hits."""
    return next((place for place, hit in enumerate(hits, start=1) if is_right(question, hit.passage)), None)


def is_right(question: KnownQuestion, passage: Passage) -> bool:
    if passage.document_id != question.document_id:
        return False
    return not question.answers or any(answer in passage.text for answer in question.answers)


def rank_metrics(places: NDArray[np.float64]) -> dict[str, float]:
    """From each question's rank of the right passage (infinite where it was not found). With one right passage a question,
    nDCG is 1 / log2(1 + rank) (Järvelin & Kekäläinen 2002)."""
    found = {f"recall@{cut}": float((places <= cut).mean()) for cut in CUTS}
    found["mrr"] = float((1 / places).mean())
    gains = np.where(places <= GAIN_DEPTH, 1 / np.log2(1 + places), 0.0)
    return {**found, f"ndcg@{GAIN_DEPTH}": float(gains.mean())}


def judge_answers(ask: Ask, questions: Sequence[KnownQuestion]) -> list[Tried]:
    tried = []
    for question in questions:
        began = time.perf_counter()
        told = ask(question.question)
        took = time.perf_counter() - began
        scores = [_scores(told.answer, true) for true in question.answers] or [(0.0, 0.0)]
        tried.append(
            Tried(
                confidence=told.confidence,
                f1=max(score[0] for score in scores),
                exact=max(score[1] for score in scores),
                answerable=bool(question.answers),
                kind=told.kind,
                took_s=took,
            )
        )
    return tried


def _scores(given: str, true: str) -> tuple[float, float]:
    chinese = is_chinese(true)
    return f1(given, true, chinese=chinese), exact_match(given, true, chinese=chinese)


def answer_figures(tried: Sequence[Tried], reader_f1: float | None = None) -> AnswerFigures:
    """Raises `DataError` if no question has an answer."""
    answerable = [one for one in tried if one.answerable]
    if not answerable:
        raise DataError("no question has an answer to compare with")
    overlaps, exacts = (np.array([getattr(one, name) for one in answerable]) for name in ("f1", "exact"))

    def metrics(drawn: NDArray[np.intp]) -> dict[str, float]:
        return {"f1": float(overlaps[drawn].mean()), "exact_match": float(exacts[drawn].mean())}

    took = [one.took_s for one in tried]
    return AnswerFigures(
        metrics=metrics(np.arange(len(answerable))),
        intervals=percentile_intervals(metrics, len(answerable)),
        reader_f1=reader_f1,
        risk=tuple(risk_coverage(tried)),
        expected_calibration_error=calibration_error(tried),
        p50_s=quantile(took, 0.5),
        p99_s=quantile(took, 0.99),
    )


def reader_f1(read: Read, questions: Sequence[KnownQuestion], passage_of: Callable[[KnownQuestion], str | None]) -> float:
    """The reader's F1 when it is handed the right passage, over the questions for which there is one."""
    scores = []
    for question in questions:
        passage = passage_of(question) if question.answers else None
        if passage is not None:
            given = read(question.question, passage)
            scores.append(max(_scores(given, true)[0] for true in question.answers))
    if not scores:
        raise DataError("no question has a passage that holds its answer")
    return float(np.mean(scores))


def risk_coverage(tried: Sequence[Tried]) -> Iterator[RiskPoint]:
    """The curve of El-Yaniv & Wiener 2010, from the surest answer to all; one point for each confidence."""
    ordered = sorted(tried, key=lambda one: -one.confidence)
    wrong = 0
    for count, one in enumerate(ordered, start=1):
        wrong += not one.right
        if count == len(ordered) or ordered[count].confidence < one.confidence:
            yield RiskPoint(threshold=one.confidence, coverage=count / len(ordered), risk=wrong / count)


def threshold_for(points: Sequence[RiskPoint], risk: float) -> RiskPoint | None:
    """The point that answers most questions at no more than this risk; None where even the surest are wrong more often."""
    return max((point for point in points if point.risk <= risk), key=lambda point: point.coverage, default=None)


def calibration_error(tried: Sequence[Tried], bins: int = 10) -> float:
    """The mean distance of confidence from the share that is right, in bins of equal width, weighed by their questions."""
    groups: dict[int, list[Tried]] = {}
    for one in tried:
        groups.setdefault(min(bins - 1, int(one.confidence * bins)), []).append(one)
    gaps = [abs(sum(one.confidence - one.right for one in group)) for group in groups.values()]
    return sum(gaps) / len(tried)


def quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(np.asarray(values), share)) if values else math.nan
