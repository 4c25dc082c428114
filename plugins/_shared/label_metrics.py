"""What a model that chooses among labels is worth on rows that it was not trained on: rates with intervals, tables,
pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from sklearn.preprocessing import MultiLabelBinarizer

from taskloom.core.errors import DataError, TaskloomError
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, Pairing
from taskloom.plugins._shared.bootstrap import intervals_of, replicates

BINS = 15
CONFUSIONS_LISTED = 20
BATCH = 64
DECISION = 0.5
"""The score from which a label counts as given, where a text may have several."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Rows as matrices [N, classes]: which labels are true, which were given, and the scores. `single` is one label a row."""

    labels: tuple[str, ...]
    true: Flags
    given: Flags
    scores: Floats
    single: bool

    def part(self, rows: NDArray[np.intp]) -> Judged:
        return Judged(self.labels, self.true[rows], self.given[rows], self.scores[rows], self.single)


def evaluate_labels(
    judged: Judged, measured: Mapping[str, Callable[[Judged], float]], figures_folder: Path | None = None
) -> EvaluationResult:
    """The metrics in `measured`, with 95% bootstrap intervals, and tables; figures go into `figures_folder` if there is
    one."""

    def all_of(rows: NDArray[np.intp]) -> dict[str, float]:
        part = judged.part(rows)
        return {name: metric(part) for name, metric in measured.items()}

    drawn = replicates(all_of, len(judged.true))
    classes = replicates(lambda rows: _f1_by_label(judged.part(rows)), len(judged.true))
    tables = {"per_class": per_class_table(judged), "calibration": reliability_table(judged)}
    if judged.single:
        tables["confusions"] = confusion_table(judged)
    figures: list[str] = []
    if figures_folder is not None:
        from taskloom.plugins._shared.label_figures import draw_confusion, draw_reliability  # for whoever only reads rows

        figures_folder.mkdir(parents=True, exist_ok=True)
        if judged.single:
            matrix = confusion_matrix(judged.true.argmax(1), judged.given.argmax(1), labels=range(len(judged.labels)))
            draw_confusion(matrix, judged.labels, tables["confusions"][1:], figures_folder / "confusion.png")
            figures.append("confusion.png")
        error = expected_calibration_error(judged)
        draw_reliability(tables["calibration"][1:], error, figures_folder / "reliability.png")
        figures.append("reliability.png")
    return EvaluationResult(
        metrics={name: metric(judged) for name, metric in measured.items()},
        intervals=intervals_of(drawn),
        tables=tables,
        figures=tuple(figures),
        examples=len(judged.true),
        pairing=Pairing(metrics=drawn, classes=classes, rows=tuple(_true_scores(judged).tolist())),
    )


def _true_scores(judged: Judged) -> Floats:
    """For each row, the score of its label; the mean of them where it has several, and how sure the model was that it has
    none where it has none."""
    count = judged.true.sum(1)
    found = (judged.scores * judged.true).sum(1) / np.maximum(count, 1)
    sure: Floats = np.where(count > 0, found, 1 - judged.scores.max(1))
    return sure


def _f1_by_label(judged: Judged) -> dict[str, float]:
    """Of a label that rows neither have nor were given: 1, as nothing is wrong with it."""
    hits, wrong = _counts(judged)
    f1 = np.divide(2 * hits, 2 * hits + wrong, out=np.ones_like(hits), where=hits + wrong > 0)
    return dict(zip(judged.labels, f1.tolist(), strict=True))


def judge(
    predictor: Predictor[Any, Any, Any],
    examples: Sequence[Example[Any]],
    everything: Any,
    labels: Sequence[str] | None = None,
    size: Callable[[Any], int] = lambda _: 0,
) -> Judged:
    """Asks for every label of every row: `everything` are the params for that. `labels` are the model's own unless told
    otherwise; `size` of an input is what rows are put into batches by. Raises `DataError` for a label that the model doesn't
    know and for a row that it can't take."""
    if not examples:
        raise DataError("there are no rows to evaluate on")
    labels = labels or predictor.model.labels
    index = {label: i for i, label in enumerate(labels)}
    single = all(isinstance(example.target, str) for example in examples)
    targets = [labels_of(example) for example in examples]
    for example, target in zip(examples, targets, strict=True):
        for label in target:
            if label not in index:
                raise _bad(example, f"the model has no label {label!r}; it has {len(labels)}, such as {labels[0]!r}")
    scores = np.zeros((len(examples), len(labels)))
    order = sorted(range(len(examples)), key=lambda i: size(examples[i].input))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        answers = predictor.predict([examples[i].input for i in rows], [everything] * len(rows))
        for i, answer in zip(rows, answers, strict=True):
            if isinstance(answer, TaskloomError):
                raise _bad(examples[i], str(answer)) from answer
            for found in answer.labels:
                scores[i, index[found.label]] = found.score
    true = MultiLabelBinarizer(classes=list(labels)).fit_transform(targets).astype(bool)
    if single:
        given = np.zeros_like(true)
        given[np.arange(len(given)), scores.argmax(1)] = True
    else:
        given = scores >= DECISION
    return Judged(tuple(labels), true, given, scores, single)


def labels_of(example: Example[Any]) -> tuple[str, ...]:
    return (example.target,) if isinstance(example.target, str) else tuple(example.target)


def _bad(example: Example[Any], problem: str) -> DataError:
    return DataError(f"{example.path}, line {example.line}: {problem}", path=example.path, line=example.line)


def accuracy(judged: Judged) -> float:
    """The share of rows whose labels are exactly right."""
    return float((judged.true == judged.given).all(1).mean())


def top3_accuracy(judged: Judged) -> float:
    """The share of rows whose label is among the three with the highest scores, for one label a row."""
    best = np.argsort(-judged.scores, axis=1, kind="stable")[:, :3]
    return float(np.take_along_axis(judged.true, best, axis=1).any(1).mean())


def macro_f1(judged: Judged) -> float:
    """Over the labels that rows have or were given: one that the data doesn't hold says nothing about the model."""
    hits, wrong = _counts(judged)
    present = hits + wrong > 0
    return float((2 * hits[present] / (2 * hits + wrong)[present]).mean()) if present.any() else 1.0


def micro_f1(judged: Judged) -> float:
    hits, wrong = (counts.sum() for counts in _counts(judged))
    return float(2 * hits / (2 * hits + wrong)) if hits + wrong else 1.0


def _counts(judged: Judged) -> tuple[Floats, Floats]:
    """For each label, true positives, and false positives and negatives together: what F1 is made of. By hand, since the
    bootstrap asks a thousand times; the tests hold it against scikit-learn."""
    hits = (judged.true & judged.given).sum(0).astype(float)
    return hits, (judged.true ^ judged.given).sum(0).astype(float)


def expected_calibration_error(judged: Judged) -> float:
    """Guo et al. 2017 (https://arxiv.org/abs/1706.04599, eq. 5) with 15 bins of equal width."""
    confidence, right = _decisions(judged)
    total = 0.0
    for inside in _bins(confidence):
        if inside.any():
            total += inside.mean() * abs(float(right[inside].mean()) - float(confidence[inside].mean()))
    return float(total)


def _decisions(judged: Judged) -> tuple[Floats, Flags]:
    """The confidence of each decision and whether it was right: the best label of a row, or every label of every row."""
    if judged.single:
        best = judged.scores.argmax(1)
        rows = np.arange(len(best))
        return judged.scores[rows, best], judged.true[rows, best]
    confidence = np.where(judged.given, judged.scores, 1 - judged.scores)
    return confidence.ravel(), (judged.true == judged.given).ravel()


def _bins(confidence: Floats) -> list[Flags]:
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [number == i for i in range(BINS)]


def reliability_table(judged: Judged) -> tuple[tuple[str | float | int, ...], ...]:
    confidence, right = _decisions(judged)
    rows: list[tuple[str | float | int, ...]] = [("from", "to", "decisions", "confidence", "accuracy")]
    for i, inside in enumerate(_bins(confidence)):
        if inside.any():
            mean, share = float(confidence[inside].mean()), float(right[inside].mean())
            rows.append((round(i / BINS, 4), round((i + 1) / BINS, 4), int(inside.sum()), round(mean, 4), round(share, 4)))
    return tuple(rows)


def per_class_table(judged: Judged) -> tuple[tuple[str | float | int, ...], ...]:
    hits, misses = _counts(judged)
    given, support = judged.given.sum(0), judged.true.sum(0)
    precision, recall = hits / np.maximum(given, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(2 * hits + misses, 1)
    rows: list[tuple[str | float | int, ...]] = [("label", "precision", "recall", "f1", "support")]
    for i, label in enumerate(judged.labels):
        rows.append((label, round(float(precision[i]), 4), round(float(recall[i]), 4), round(float(f1[i]), 4), int(support[i])))
    return tuple(rows)


def confusion_table(judged: Judged) -> tuple[tuple[str | float | int, ...], ...]:
    """The confusions that happened most, with the share of the true label's rows."""
    matrix = confusion_matrix(judged.true.argmax(1), judged.given.argmax(1), labels=range(len(judged.labels)))
    support: Mapping[int, Any] = dict(enumerate(matrix.sum(1)))
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:CONFUSIONS_LISTED]
    rows: list[tuple[str | float | int, ...]] = [("true", "given", "rows", "share")]
    for flat in order:
        i, j = divmod(int(flat), len(judged.labels))
        if matrix[i, j]:
            rows.append((judged.labels[i], judged.labels[j], int(matrix[i, j]), round(float(matrix[i, j] / support[i]), 4)))
    return tuple(rows)
