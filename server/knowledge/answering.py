"""From passages that were found and read to one answer, or to none: what each candidate is worth, how sure the best is."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from taskloom.core.knowledge import Hit
from taskloom.core.knowledge_calls import KnowledgeAnswer, Source
from taskloom.core.language import simplified
from taskloom.core.settings import Calibration
from taskloom.server.knowledge.models import Reading

LEAST = 1e-6
"""Probabilities are kept this far from 0 and 1, whose log-odds are endless."""
PLACE_WEIGHT = 4.0
"""What the place that a search gave a passage weighs beside the log-odds of a model that re-ranks. Chosen for the bundled
readers as such models; docs/knowledge.md has what they are worth with it."""


@dataclass(frozen=True)
class Candidate:
    """A passage and what a reader found in it. `agreement` is the share of the other passages that were read in which the
    reader found the same; `confidence` how likely it is right."""

    hit: Hit
    reading: Reading
    agreement: float
    confidence: float


def candidates(hits: Sequence[Hit], readings: Sequence[Reading], calibration: Calibration) -> list[Candidate]:
    """Every passage in which something was found, best first: by how sure it is and by the place of its passage among `hits`,
    so the first need not be the surest. Equal ones stay in the order in which they were found."""
    said = [plain(reading.text) for reading in readings]
    found: list[tuple[float, Candidate]] = []
    for i, (hit, reading) in enumerate(zip(hits, readings, strict=True)):
        if not said[i]:
            continue
        others = [other for j, other in enumerate(said) if j != i]
        agreement = sum(other == said[i] for other in others) / len(others) if others else 0.0
        odds = span_odds(reading, hit.dense, agreement, calibration)
        found.append((odds + calibration.place / (i + 1), Candidate(hit, reading, agreement, logistic(odds))))
    return [candidate for _, candidate in sorted(found, key=lambda one: -one[0])]


def span_odds(reading: Reading, dense: float | None, agreement: float, calibration: Calibration) -> float:
    """Log-odds that a span is right, by Platt scaling (Platt 1999) of what is known of it: the reader's log-odds of the span
    and of there being an answer, the cosine of question and passage (0 where the passage was found by its words alone), and
    the agreement of other passages. Its place among what was found is no part of it: some passage is the first whatever is
    asked."""
    return (
        calibration.intercept
        + calibration.reader * log_odds(reading.score)
        + calibration.answerable * -log_odds(reading.no_answer)
        + calibration.dense * (dense or 0.0)
        + calibration.agreement * agreement
    )


def relevance(probability: float, place: int) -> float:
    """What orders passages that are re-ranked: how likely one answers the question, by the model that read both
    (`probability`) and the search that put it in this place, from 1: of what the search puts first, the model alone decides.
    Places mean the same whatever was searched by."""
    return logistic(log_odds(probability) + PLACE_WEIGHT * (1 / place - 1))


def log_odds(probability: float) -> float:
    bounded = min(max(probability, LEAST), 1 - LEAST)
    return math.log(bounded / (1 - bounded))


def faq_confidence(similarity: float, calibration: Calibration) -> float:
    """How sure it is that an entry's question, as similar as this to what was asked, means the same."""
    return logistic(calibration.faq * (similarity - calibration.faq_intercept))


def faq_similarity(question: str, hit: Hit) -> float:
    """The cosine of the two questions. Where there is none, only the same question is known to mean the same: "opened" and
    "unopened" share nearly all of their letters."""
    return hit.dense if hit.dense is not None else float(plain(question) == plain(hit.passage.question))


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def plain(answer: str) -> str:
    """An answer without what makes no difference: case, width, Chinese script, marks at its ends, English articles."""
    text = simplified(unicodedata.normalize("NFKC", answer)).casefold()
    bare = re.sub(r"^\W+|\W+$", "", text)
    return re.sub(r"^(the|a|an)\s+", "", bare)


@dataclass(frozen=True)
class Asked:
    """What an answer is made from: the question's circumstances, what was found for it, and what was read."""

    language: str
    understood_as: str
    version: int
    threshold: float
    models: tuple[str, ...]


def answer(asked: Asked, faq: Hit | None, faq_sure: float, found: Sequence[Candidate], hits: Sequence[Hit]) -> KnowledgeAnswer:
    """The FAQ entry if it is at least as sure as the best span; that span; or none if neither reaches the threshold."""
    best = found[0].confidence if found else 0.0
    made = partial(
        KnowledgeAnswer,
        language=asked.language,
        understood_as=asked.understood_as,
        version=asked.version,
        models=asked.models,
    )
    if faq is not None and faq_sure >= max(best, asked.threshold):
        rest = [span_source(candidate) for candidate in found]
        sources = (_faq_source(faq, faq_sure), *rest)
        return made(kind="faq", answer=faq.passage.text, confidence=faq_sure, sources=sources)
    if found and best >= asked.threshold:
        sources = tuple(span_source(candidate) for candidate in found)
        return made(kind="span", answer=found[0].reading.text, confidence=best, sources=sources)
    near = tuple(near_source(hit) for hit in hits)
    return made(kind="none", confidence=max(best, faq_sure if faq is not None else 0.0), sources=near)


def span_source(candidate: Candidate) -> Source:
    passage, reading = candidate.hit.passage, candidate.reading
    return Source(
        document_id=passage.document_id,
        passage_id=passage.passage_id,
        title=passage.title,
        source=passage.source,
        passage=passage.text,
        answer=reading.text,
        start=passage.start + reading.start,
        end=passage.start + reading.end,
        score=candidate.confidence,
        graph=candidate.hit.graph,
    )


def _faq_source(hit: Hit, sure: float) -> Source:
    near = near_source(hit)
    return near.model_copy(update={"answer": hit.passage.text, "score": sure})


def near_source(hit: Hit) -> Source:
    passage = hit.passage
    return Source(
        document_id=passage.document_id,
        passage_id=passage.passage_id,
        title=passage.title,
        source=passage.source,
        passage=passage.text,
        start=passage.start,
        end=passage.end,
        score=hit.score,
        graph=hit.graph,
    )
