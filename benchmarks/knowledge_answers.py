"""How well a knowledge base finds and answers, on questions that annotators asked about paragraphs (files in SQuAD's form).

    python benchmarks/knowledge_answers.py --home FOLDER --data squadshifts/dev.json --distractors squadshifts/train.json
    python benchmarks/knowledge_answers.py --home FOLDER --data cmrc2018/dev.json --language zh

Prints what `dense`, `sparse` and `hybrid` search find side by side (words alone, where a language has no embedding model), the
answers end to end beside those of the reader that is handed the right passage, what they are worth by how much the place of a
passage counts (on one half of the questions), and the confidence that fits them best: a logistic regression on that half,
measured on the other. Where articles of the data name their `domain`, it is told for each of them: some texts are asked about
by name, and of others a question says too little to be found by it. Questions of paragraphs that are not in the base (some of
the distractors are left out) say how often it answers what it can't know.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import opencc
from sklearn.linear_model import LogisticRegression

import taskloom.sdk
from taskloom.core.knowledge import Document, Hit, Mode, SearchMode
from taskloom.core.knowledge_calls import MAX_READ
from taskloom.core.knowledge_figures import Gain, KnownQuestion, ModeFigures
from taskloom.core.settings import Calibration, KnowledgeSettings
from taskloom.plugins.retrieval.evaluation import (
    MODES,
    RIGHT_F1,
    Places,
    Search,
    Tried,
    answer_figures,
    best_scores,
    gain_of,
    is_right,
    mode_figures,
    search_places,
    threshold_for,
)
from taskloom.sdk.cli.predict import parse_params
from taskloom.server.knowledge.answering import Candidate, candidates, log_odds
from taskloom.server.knowledge.models import Reading

BASE = "benchmark"
SPARSE: Mode = "sparse"
HYBRID: Mode = "hybrid"
READ = 5
RISK = 0.3
ROUNDS = 3
PLACES = (0.0, 1.0, 2.0, 3.0, 4.0)
THRESHOLDS = (0.1, 0.15, 0.2, 0.3)
KNOWN = ("reader", "answerable", "dense", "agreement")
BATCH = 500
SCRIPTS = {"simplified": "t2s", "traditional": "s2t"}
"""And what OpenCC calls the way there."""


@dataclass(frozen=True)
class Paragraph:
    document: Document
    questions: tuple[KnownQuestion, ...]
    domain: str


@dataclass(frozen=True)
class Answered:
    """A question, the passages that were found for it, and what the reader found in each."""

    question: KnownQuestion
    hits: tuple[Hit, ...]
    readings: tuple[Reading, ...]
    handed: str | None
    """What the reader finds in the right passage; None where no passage that was found has the whole answer."""


def main() -> None:
    asked = _arguments()
    languages = KnowledgeSettings().languages
    models = languages[asked.language]
    paragraphs = list(_paragraphs(asked.data, "q", asked.language, asked.script))
    questions = [question for paragraph in paragraphs for question in paragraph.questions]
    questions = random.Random(13).sample(questions, min(asked.questions, len(questions)))
    documents = [paragraph.document for paragraph in paragraphs]
    unknown: list[KnownQuestion] = []
    if asked.distractors:
        others = list(_paragraphs(asked.distractors, "x", asked.language))
        taken = random.Random(13).sample(others, min(asked.distractor_paragraphs, len(others)))
        documents += [paragraph.document for paragraph in taken]
        known = {document.document_id for document in documents}
        unknown = [
            question for paragraph in others if paragraph.document.document_id not in known for question in paragraph.questions
        ]
        unknown = random.Random(13).sample(unknown, min(asked.unanswerable, len(unknown)))
    served = [name for name in (models.reader, asked.reranker, *(one.embedding for one in languages.values())) if name]
    with taskloom.sdk.local(served, home=asked.home, timeout_s=600) as client:
        if BASE not in [info.base for info in client.knowledge_bases()]:
            client.create_knowledge(BASE, config=parse_params(asked.config, "--config"))
        base = client.knowledge(BASE)
        for start in range(0, len(documents), BATCH):
            base.upsert(documents[start : start + BATCH], timeout_s=3600)
        stats = base.stats().stats
        print(f"{stats.documents} documents, {stats.passages} passages, {len(questions)} questions", flush=True)

        def search(question: str, mode: SearchMode, limit: int) -> Sequence[Hit]:
            return base.search(question, mode=mode, limit=limit).hits

        found = {}
        for mode in MODES if models.embedding else (SPARSE,):
            found[mode] = _places(search, questions, mode)
        for mode in (mode for mode in found if mode != HYBRID and HYBRID in found):
            print(f"hybrid more than {mode}: {_told(gain_of(found[HYBRID], found[mode]))}", flush=True)
        if asked.reranker:
            base.configure(reranker=asked.reranker)
            reranked = _places(search, questions, "reranked")
            print(f"reranked more than hybrid: {_told(gain_of(reranked, found[HYBRID]))}", flush=True)
        answered = [_answered(client, models.reader, search, question) for question in questions]
        unknowable = [_answered(client, models.reader, search, one.model_copy(update={"answers": ()})) for one in unknown]
    domains = {paragraph.document.document_id: paragraph.domain for paragraph in paragraphs}
    _report_domains(answered, domains, models.calibration)
    _report(answered, unknowable, models.calibration)


def _places(search: Search, questions: Sequence[KnownQuestion], mode: SearchMode) -> Places:
    """The right passages' places, whose figures are printed."""
    found, took = search_places(search, questions, mode)
    figures = mode_figures(found, took)
    print(f"{mode}: {_told(figures)}; p50 {1e3 * figures.p50_s:.0f} ms, p99 {1e3 * figures.p99_s:.0f} ms", flush=True)
    return found


def _told(figures: ModeFigures | Gain) -> str:
    """Each figure with its interval."""
    return ", ".join(
        f"{name} {value:.3f} ({figures.intervals[name][0]:.3f} to {figures.intervals[name][1]:.3f})"
        for name, value in figures.metrics.items()
    )


def _answered(client: taskloom.sdk.LocalClient, reader: str, search: object, question: KnownQuestion) -> Answered:
    assert callable(search)
    hits = tuple(search(question.question, "hybrid", MAX_READ))
    right = next((hit for hit in hits if is_right(question, hit.passage)), None)
    read = [*hits[:READ], *([right] if right is not None else [])]
    inputs = [{"question": question.question, "context": hit.passage.text} for hit in read]
    results = [item.result for item in client.infer_many(reader, inputs, params={"no_answer_threshold": 1.0})]
    readings = []
    for result in results:
        assert result is not None
        best = (result.output["answers"] or [{"text": "", "start": 0, "end": 0, "score": 0.0}])[0]
        readings.append(Reading(best["text"], best["start"], best["end"], best["score"], result.output["no_answer_score"]))
    return Answered(question, hits[:READ], tuple(readings[: len(hits[:READ])]), readings[-1].text if right else None)


def _report_domains(answered: Sequence[Answered], domains: Mapping[str, str], used: Calibration) -> None:
    for domain in sorted({domains[one.question.document_id] for one in answered} - {""}):
        own = [one for one in answered if domains[one.question.document_id] == domain]
        found = np.mean([any(is_right(one.question, hit.passage) for hit in one.hits) for one in own])
        f1 = np.mean([_tried(one, used).f1 for one in own])
        handed = np.mean([best_scores(one.handed, one.question)[0] for one in own if one.handed is not None])
        print(
            f"{domain}: {len(own)} questions, recall@{READ} {found:.3f}, F1 {f1:.3f}, reader with the right passage "
            f"{handed:.3f}, {f1 / handed:.3f} of it"
        )


def _report(answered: Sequence[Answered], unknowable: Sequence[Answered], used: Calibration) -> None:
    """`unknowable` are questions that the base says nothing of: whatever is answered to them is wrong."""
    halves = answered[::2], answered[1::2]
    for place in PLACES:
        tried = [_tried(one, used.model_copy(update={"place": place})) for one in halves[0]]
        print(f"place {place:g}: F1 {np.mean([one.f1 for one in tried]):.3f} of the half that is fitted on")
    fitted = _fitted([*halves[0], *unknowable[::2]], used.place)
    for name, calibration in (("as it is set", used), ("fitted", fitted)):
        tried = [_tried(one, calibration) for one in halves[1]]
        handed = [best_scores(one.handed, one.question)[0] for one in halves[1] if one.handed is not None]
        figures = answer_figures(tried, float(np.mean(handed)))
        at = threshold_for(figures.risk, RISK)
        low, high = figures.intervals["f1"]
        print(
            f"{name}: F1 {figures.metrics['f1']:.3f} ({low:.3f} to {high:.3f}), exact {figures.metrics['exact_match']:.3f}, "
            f"reader with the right passage {figures.reader_f1:.3f}, calibration error "
            f"{figures.expected_calibration_error:.3f}, "
            + (f"risk {RISK} at threshold {at.threshold:.3f}: answers {at.coverage:.3f}" if at else f"risk never below {RISK}")
        )
        right = [one.confidence for one in tried if one.f1 >= RIGHT_F1]
        wrong = [_tried(one, calibration).confidence for one in unknowable[1::2]]
        for threshold in THRESHOLDS if wrong else ():
            kept, given = (np.mean(np.array(sure) >= threshold) for sure in (right, wrong))
            print(
                f"  threshold {threshold}: gives {kept:.3f} of the right answers, and one to {given:.3f} of unknown questions"
            )
    print(json.dumps(fitted.model_dump()))


def _fitted(answered: Sequence[Answered], place: float) -> Calibration:
    """Whether a span is right, from what is known of it (Platt 1999): first of all spans, to tell which is the best; then of
    those that were taken for the best, since it is them whose confidence is told."""
    calibration = Calibration(place=place)
    for attempt in range(ROUNDS):
        rows, right = [], []
        for one in answered:
            found = candidates(one.hits, one.readings, calibration)
            for candidate in found if attempt == 0 else found[:1]:
                rows.append(_known_of(candidate))
                right.append(best_scores(candidate.reading.text, one.question)[0] >= RIGHT_F1)
        intercept, weights = _weights(np.array(rows), np.array(right))
        calibration = Calibration(intercept=intercept, place=place, **dict(zip(KNOWN, weights, strict=True)))
        print(f"round {attempt}: {calibration.model_dump_json()}", flush=True)
    return calibration


def _known_of(candidate: Candidate) -> list[float]:
    """What `KNOWN` are the weights of."""
    reading, hit = candidate.reading, candidate.hit
    return [log_odds(reading.score), -log_odds(reading.no_answer), hit.dense or 0.0, candidate.agreement]


def _weights(rows: np.ndarray, right: np.ndarray) -> tuple[float, list[float]]:
    """A logistic regression's intercept and weights, none of them negative: of few rows one may point the wrong way, and is 0
    then."""
    weights = [0.0] * rows.shape[1]
    used = list(range(rows.shape[1]))
    while used:
        model = LogisticRegression(C=100.0).fit(rows[:, used], right)
        found = [float(value) for value in model.coef_[0]]
        if min(found) >= 0:
            for column, value in zip(used, found, strict=True):
                weights[column] = value
            return float(model.intercept_[0]), weights
        used.pop(int(np.argmin(found)))
    return log_odds(float(right.mean())), weights


def _tried(one: Answered, calibration: Calibration) -> Tried:
    found = candidates(one.hits, one.readings, calibration)
    text, sure = (found[0].reading.text, found[0].confidence) if found else ("", 0.0)
    overlap, exact = best_scores(text, one.question)
    return Tried(confidence=sure, f1=overlap, exact=exact, answerable=True, kind="span", took_s=0.0)


def _paragraphs(path: Path, prefix: str, language: str, script: str | None = None) -> Iterator[Paragraph]:
    written = opencc.OpenCC(SCRIPTS[script]).convert if script else str
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    number = 0
    for article in data:
        for paragraph in article["paragraphs"]:
            document = Document(document_id=f"{prefix}{number}", text=paragraph["context"], language=language)
            questions = tuple(
                KnownQuestion(
                    question=written(row["question"]),
                    document_id=document.document_id,
                    answers=tuple(dict.fromkeys(answer["text"] for answer in row["answers"])),
                )
                for row in paragraph["qas"]
                if row["answers"] and row["question"].strip()
            )
            number += 1
            yield Paragraph(document, questions, article.get("domain", ""))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    readers = sorted(name for name, models in KnowledgeSettings().languages.items() if models.reader)
    parser.add_argument("--language", default="en", choices=readers)
    parser.add_argument("--script", choices=sorted(SCRIPTS), help="ask in these Chinese characters, whatever the text is in")
    parser.add_argument("--distractors", type=Path, help="more paragraphs, whose questions are not asked")
    parser.add_argument("--distractor-paragraphs", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--unanswerable", type=int, default=200, help="questions of paragraphs that are left out")
    parser.add_argument("--reranker", default="", help="a model to order what `hybrid` finds by; the answers are made without")
    parser.add_argument("--config", action="append", default=[], metavar="KEY=VALUE", help="a setting of the base; repeatable")
    parser.add_argument("--home", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
