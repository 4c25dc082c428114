"""How good a knowledge base is at finding and at answering, on questions whose answers are known.

It asks through functions, so that the same figures come from a base in this process and from one behind a gateway.
"""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from taskloom.core.errors import DataError, UnsupportedError
from taskloom.core.knowledge import Hit, Mode, Passage, SearchMode
from taskloom.core.knowledge_calls import KnowledgeAnswer
from taskloom.core.knowledge_figures import (
    AnswerFigures,
    AskedBase,
    Gain,
    KnowledgeFigures,
    KnownQuestion,
    ModeFigures,
    RiskPoint,
)
from taskloom.plugins._shared.answer_scores import exact_match, f1, is_chinese
from taskloom.plugins._shared.bootstrap import percentile_intervals
from taskloom.plugins._shared.datasets import read_rows
from taskloom.plugins._shared.squad import squad_questions

COLUMNS = ("question", "answers", "document", "document_id", "context")
CUTS = (1, 5, 20)
DEPTH = max(CUTS)
GAIN_DEPTH = 10
MODES: tuple[Mode, ...] = ("dense", "sparse", "hybrid")
RIGHT_F1 = 0.5
"""From this F1 on an answer counts as right where one has to say yes or no: for confidence, and for the risk."""

Places = NDArray[np.float64]
"""The rank of the right passage for each question, from 1."""
Search = Callable[[str, SearchMode, int], Sequence[Hit]]
"""`search(question, mode, limit)`."""
Ask = Callable[[str], KnowledgeAnswer]
"""Answers in any case: with a threshold of 0."""
Read = Callable[[str, str], str]
"""`read(question, passage)`: what the reader finds in the right passage."""


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
    """The questions of a file. `.json` is SQuAD's form: the paragraph of a question is its context, and one without answers has
    none in the base. `.jsonl` has a `question` in each row, perhaps its `answers` (a list of texts), and perhaps `document`,
    the id of the document that has the answer, or `context`, a text that does. Raises `DataError` for the first bad row."""
    found = _squad_rows(path) if path.suffix == ".json" else _json_rows(path)
    first = next(found, None)
    if first is None:
        raise DataError(f"{path} has no questions", path=str(path))
    yield first
    yield from found


def _json_rows(path: Path) -> Iterator[KnownQuestion]:
    for row in read_rows(path, columns=COLUMNS, required=("question",)):
        given = {("document_id" if name == "document" else name): value for name, value in row.values.items()}
        try:
            yield KnownQuestion.model_validate({name: value for name, value in given.items() if value is not None})
        except ValidationError as exc:
            raise row.error(_told(exc)) from exc


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _squad_rows(path: Path) -> Iterator[KnownQuestion]:
    for asked in squad_questions(path):
        raw = () if asked.raw.get("is_impossible") else asked.raw.get("answers", ())
        try:
            answers = tuple(dict.fromkeys(str(answer["text"]) for answer in raw))
        except (KeyError, TypeError) as exc:
            raise DataError(
                f"{path}, {asked.place}: `answers` is {raw!r}; expected objects with `text`", path=str(path)
            ) from exc
        try:
            yield KnownQuestion(question=asked.question, context=asked.context if answers else "", answers=answers)
        except ValidationError as exc:
            raise DataError(f"{path}, {asked.place}: {_told(exc)}", path=str(path)) from exc


def judge(
    base: AskedBase, questions: Sequence[KnownQuestion], plot: Path | None = None, tell: Callable[[str], None] = lambda _: None
) -> KnowledgeFigures:
    """Every figure of a base: each way of searching that it has, side by side, and its answers. Raises `DataError` where no
    question says what is right."""
    if plot is not None:
        from taskloom.plugins.retrieval.risk_figure import draw_risk  # first of all: who lacks what draws need not wait for it
    modes: dict[SearchMode, ModeFigures] = {}
    places: dict[SearchMode, Places] = {}
    unmeasured: dict[SearchMode, str] = {}
    for mode in base.modes:
        tell(f"{mode} search")
        try:
            places[mode], took = search_places(base.search, questions, mode)
            modes[mode] = mode_figures(places[mode], took)
        except UnsupportedError as exc:  # no model that embeds the language of a question
            unmeasured[mode] = exc.message
    answers = None
    if any(question.answers for question in questions):
        tell("answers")
        answers = answer_figures(judge_answers(base.ask, questions))
        if plot is not None:
            draw_risk(answers.risk, plot)
    gain = gain_of(places["graph"], places["hybrid"]) if places.keys() >= {"graph", "hybrid"} else None
    return KnowledgeFigures(questions=len(questions), modes=modes, unmeasured=unmeasured, answers=answers, graph_gain=gain)


def judge_search(search: Search, questions: Sequence[KnownQuestion], mode: SearchMode) -> ModeFigures:
    """Recall at 1, 5 and 20, the mean reciprocal rank and nDCG at 10, over the questions that say what is right."""
    return mode_figures(*search_places(search, questions, mode))


def search_places(search: Search, questions: Sequence[KnownQuestion], mode: SearchMode) -> tuple[Places, list[float]]:
    """The right passage's rank for each question that says what is right, infinite where it was not found; and the seconds that
    each search took."""
    asked = [question for question in questions if question.has_passage]
    if not asked:
        raise DataError("no question says what answers it: there is nothing to measure a search by")
    ranks, took = [], []
    for question in asked:
        began = time.perf_counter()
        hits = search(question.question, mode, DEPTH)
        took.append(time.perf_counter() - began)
        ranks.append(rank_of_right(question, hits))
    return np.array([rank if rank is not None else np.inf for rank in ranks]), took


def mode_figures(places: Places, took: Sequence[float]) -> ModeFigures:
    intervals = percentile_intervals(lambda drawn: rank_metrics(places[drawn]), len(places))
    return ModeFigures(metrics=rank_metrics(places), intervals=intervals, p50_s=quantile(took, 0.5), p99_s=quantile(took, 0.99))


def gain_of(places: Places, over: Places) -> Gain:
    """From the ranks that two ways of searching have for the same questions, in the same order."""

    def differences(drawn: NDArray[np.intp]) -> dict[str, float]:
        before = rank_metrics(over[drawn])
        return {name: value - before[name] for name, value in rank_metrics(places[drawn]).items()}

    intervals = percentile_intervals(differences, len(places))
    return Gain(metrics=differences(np.arange(len(places))), intervals=intervals)


def rank_of_right(question: KnownQuestion, hits: Sequence[Hit]) -> int | None:
    """The first right passage's place, from 1; None if there is none among the hits."""
    return next((place for place, hit in enumerate(hits, start=1) if is_right(question, hit.passage)), None)


def is_right(question: KnownQuestion, passage: Passage) -> bool:
    if question.document_id and passage.document_id != question.document_id:
        return False
    if question.context and _plain(passage.text) not in _plain(question.context):
        return False
    return not question.answers or any(_plain(answer) in _plain(passage.text) for answer in question.answers)


def _plain(text: str) -> str:
    """Documents are cleaned when they are put in, as by this: forms of letters and blanks don't tell texts apart."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def rank_metrics(places: Places) -> dict[str, float]:
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
        overlap, exact = best_scores(told.answer, question)
        tried.append(
            Tried(
                confidence=told.confidence,
                f1=overlap,
                exact=exact,
                answerable=bool(question.answers),
                kind=told.kind,
                took_s=took,
            )
        )
    return tried


def best_scores(given: str, question: KnownQuestion) -> tuple[float, float]:
    """F1 and exact match with whichever true answer each is best with; 0 for a question without one."""
    scores = [(0.0, 0.0)]
    for true in question.answers:
        chinese = is_chinese(true)
        scores.append((f1(given, true, chinese=chinese), exact_match(given, true, chinese=chinese)))
    return max(score[0] for score in scores), max(score[1] for score in scores)


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
            scores.append(best_scores(read(question.question, passage), question)[0])
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
