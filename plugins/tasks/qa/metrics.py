"""What a reader is worth on rows that it was not trained on: SQuAD's scores with intervals, and where they are lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import DataError, TaskloomError
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, Pairing
from taskloom.plugins._shared.answer_scores import exact_match, f1, is_chinese
from taskloom.plugins._shared.bootstrap import intervals_of, replicates
from taskloom.plugins.tasks.qa.schema import QaInput, QaOutput, QaParams
from taskloom.plugins.tasks.qa.scoring import best_match

BATCH = 32
BINS = 10
QUESTION_WORDS = ("what", "who", "when", "where", "why", "how", "which")
CHINESE_QUESTION_WORDS = (
    ("什么时候", re.compile("什么时候|什麼時候|何时|何時")),
    ("为什么", re.compile("为什么|為什麼|为何|為何")),
    ("什么", re.compile("什么|什麼")),
    ("谁", re.compile("[谁誰]")),
    ("哪", re.compile("哪|何地|何处|何處")),
    ("多少", re.compile("多少|(?<!茶)[几幾](?![乎何]|内亚|內亞)|(?<![很许許众眾])多[大高长長远遠重久]")),
    ("怎么", re.compile("怎么|怎麼|怎样|怎樣|如何")),
)
ANSWER_LENGTHS = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 0))
"""(from, to) words of the shortest true answer; 0 is no end."""
CHINESE_ANSWER_LENGTHS = ((1, 5), (6, 10), (11, 20), (21, 40), (41, 0))
"""The same in characters, of a context in Chinese."""

Floats = NDArray[np.float64]
Table = tuple[tuple[str | float | int, ...], ...]


@dataclass(frozen=True)
class Judged:
    """Rows as columns [N]: the scores of the best answer, and its probability (of "no answer", where none was given)."""

    f1: Floats
    exact_match: Floats
    confidence: Floats


def evaluate(predictor: Predictor[QaInput, QaOutput, QaParams], examples: Sequence[Example[QaInput]]) -> EvaluationResult:
    """F1 and exact match with 95% bootstrap intervals, and tables.

    If every row has an answer, the model must answer each, and the rules of SQuAD 1.1 hold; else it may give none, and those
    of SQuAD 2 hold. Rows in Chinese are scored as CMRC 2018 does.
    """
    judged, v2 = judge(predictor, examples)
    columns = {"f1": judged.f1, "exact_match": judged.exact_match}
    drawn = replicates(lambda rows: {name: float(values[rows].mean()) for name, values in columns.items()}, len(examples))
    tables = {
        "per domain": _grouped("domain", examples, judged, lambda row: row.target.domain),
        "per question word": _grouped("question", examples, judged, lambda row: question_word(row.input.question)),
        "per answer length": _grouped("length", examples, judged, answer_length),
        "calibration": calibration_table(judged),
    }
    if v2:
        tables["with and without an answer"] = _grouped("rows", examples, judged, _has)
    return EvaluationResult(
        metrics={name: float(values.mean()) for name, values in columns.items()},
        intervals=intervals_of(drawn),
        tables={name: table for name, table in tables.items() if len(table) > 2},
        examples=len(examples),
        pairing=Pairing(metrics=drawn, rows=tuple(judged.f1.tolist())),
    )


def judge(predictor: Predictor[QaInput, QaOutput, QaParams], examples: Sequence[Example[QaInput]]) -> tuple[Judged, bool]:
    """The model's answer to every row, scored, and whether SQuAD 2's rules were used. Raises `DataError` for a row that the
    model can't take."""
    if not examples:
        raise DataError("there are no rows to evaluate on")
    v2 = not all(example.target.answers for example in examples)
    params = QaParams() if v2 else QaParams(no_answer_threshold=1.0)
    found = np.zeros((3, len(examples)))
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input.context))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        outputs = predictor.predict([examples[i].input for i in rows], [params] * len(rows))
        for i, output in zip(rows, outputs, strict=True):
            if isinstance(output, TaskloomError):
                where = f"{examples[i].path}, question {examples[i].target.id or examples[i].input.question!r}"
                raise DataError(f"{where}: {output}", path=examples[i].path, line=examples[i].line) from output
            best = output.answers[0] if output.answers else None
            text = best.text if best else ""
            found[:, i] = (
                best_match(f1, text, examples[i], v2=v2),
                best_match(exact_match, text, examples[i], v2=v2),
                best.score if best else output.no_answer_score,
            )
    return Judged(*found), v2


def question_word(question: str) -> str:
    """The first of the words that open questions, in English or Chinese; "other" if there is none.

    >>> question_word("In which year was it built?"), question_word("鲁迅是哪一年出生的？")
    ('which', '哪')
    """
    words = question.lower().replace("'s", " ").split()
    found = {match.start(): name for name, word in reversed(CHINESE_QUESTION_WORDS) if (match := word.search(question))}
    chinese = found[min(found)] if found else "other"
    return next((word.strip("?,.") for word in words if word.strip("?,.") in QUESTION_WORDS), chinese)


def answer_length(row: Example[QaInput]) -> str:
    """The band that the shortest true answer's length lies in: in words, in Chinese in characters; "none" for a row without
    answers."""
    if not row.target.answers:
        return "none"
    chinese = is_chinese(row.input.context)
    size = min(len(answer.text if chinese else answer.text.split()) for answer in row.target.answers)
    unit, bands = ("characters", CHINESE_ANSWER_LENGTHS) if chinese else ("words", ANSWER_LENGTHS)
    low, high = next((low, high) for low, high in bands if size <= high or not high)
    return f"{low} word" if high == 1 else f"{low}-{high} {unit}" if high else f"{low} {unit} or more"


def _has(row: Example[QaInput]) -> str:
    return "with an answer" if row.target.answers else "without"


def _grouped(title: str, examples: Sequence[Example[QaInput]], judged: Judged, key: Callable[[Example[QaInput]], str]) -> Table:
    keys = [key(example) for example in examples]
    rows: list[tuple[str | float | int, ...]] = [(title, "f1", "exact_match", "rows")]
    for name in sorted(set(keys), key=lambda name: (-keys.count(name), name)):
        inside = np.array([own == name for own in keys])
        means = (round(float(values[inside].mean()), 4) for values in (judged.f1, judged.exact_match))
        rows.append((name or "(none)", *means, int(inside.sum())))
    return tuple(rows)


def calibration_table(judged: Judged) -> Table:
    """How often answers of each probability are exactly right; an answer that differs in a word counts as wrong."""
    rows: list[tuple[str | float | int, ...]] = [("from", "to", "answers", "score", "exact_match", "f1")]
    number = np.clip((judged.confidence * BINS).astype(int), 0, BINS - 1)
    for i in range(BINS):
        inside = number == i
        if inside.any():
            means = (round(float(v[inside].mean()), 4) for v in (judged.confidence, judged.exact_match, judged.f1))
            rows.append((i / BINS, (i + 1) / BINS, int(inside.sum()), *means))
    return tuple(rows)
