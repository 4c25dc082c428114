"""What a recogniser is worth on rows that it was not trained on: exact-match rates with intervals, tables of where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from taskloom.core.artifact import file_label
from taskloom.core.errors import DataError, TaskloomError
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, Pairing
from taskloom.plugins._shared.bootstrap import intervals_of, percentile_intervals, replicates
from taskloom.plugins._shared.datasets import bad_row
from taskloom.plugins.tasks.ner.reading import Annotation
from taskloom.plugins.tasks.ner.schema import NerInput, NerOutput, NerParams

if TYPE_CHECKING:
    from taskloom.plugins.tasks.ner.model import NerModel

BATCH = 64

Table = tuple[tuple[str | float | int, ...], ...]
Matrix = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Entities that were found exactly, that were given, and that are in the data."""

    hits: int = 0
    given: int = 0
    true: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(self.hits + other.hits, self.given + other.given, self.true + other.true)

    @property
    def precision(self) -> float:
        return self.hits / self.given if self.given else 0.0

    @property
    def recall(self) -> float:
        return self.hits / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """As seqeval's strict micro F1: 0 where there is nothing to find and nothing was given."""
        return 2 * self.hits / (self.given + self.true) if self.given + self.true else 0.0


def span_counts(true: set[Annotation], given: set[Annotation]) -> Counts:
    """An entity is found if its first character, its end and its label are all right."""
    return Counts(len(true & given), len(given), len(true))


@dataclass(frozen=True)
class Judged:
    """For each row, the entities of the data and those that the model gave. `labels` are the model's."""

    labels: tuple[str, ...]
    files: tuple[str, ...]
    true: tuple[set[Annotation], ...]
    given: tuple[set[Annotation], ...]

    def matrix(self) -> Matrix:
        """[N, labels, 3]: found, given and true."""
        index = {label: i for i, label in enumerate(self.labels)}
        counts = np.zeros((len(self.true), len(self.labels), 3), dtype=np.int64)
        for row, (true, given) in enumerate(zip(self.true, self.given, strict=True)):
            for place, entities in enumerate((true & given, given, true)):
                for _, _, label in entities:
                    counts[row, index[label], place] += 1
        return counts


def evaluate(
    predictor: Predictor[NerInput, NerOutput, NerParams],
    examples: Sequence[Example[NerInput]],
) -> EvaluationResult:
    """Every metric of the task, with 95% bootstrap intervals over rows."""
    judged = judge(predictor, examples)
    matrix = judged.matrix()
    tables = {"per_class": per_class_table(judged.labels, matrix), "errors": error_table(judged)}
    if len(set(judged.files)) > 1:
        tables["per_file"] = per_file_table(judged, matrix)
    drawn = replicates(lambda rows: rates(matrix[rows]), len(matrix))
    return EvaluationResult(
        metrics=rates(matrix),
        intervals=intervals_of(drawn),
        tables=tables,
        examples=len(examples),
        pairing=Pairing(
            metrics=drawn,
            classes=replicates(lambda rows: _f1_by_label(judged.labels, matrix[rows]), len(matrix)),
            rows=tuple(_sum(row).f1 if row.any() else 1.0 for row in matrix),
        ),
    )


def _f1_by_label(labels: Sequence[str], matrix: Matrix) -> dict[str, float]:
    """Of a label that rows neither have nor were given: 1, as nothing is wrong with it."""
    counts = [Counts(*column.tolist()) for column in matrix.sum(0)]
    return {label: own.f1 if own.given + own.true else 1.0 for label, own in zip(labels, counts, strict=True)}


def judge(predictor: Predictor[NerInput, NerOutput, NerParams], examples: Sequence[Example[NerInput]]) -> Judged:
    """Asks for the entities of every row. Raises `DataError` for a label that the model doesn't know and for a row that it
    can't take."""
    if not examples:
        raise DataError("there are no rows to evaluate on")
    label_map = cast("NerModel", predictor.model).saved.label_map
    labels = predictor.model.labels
    true: list[set[Annotation]] = []
    for example in examples:
        true.append({(start, end, label_map.get(label, label)) for start, end, label in example.target})
        for _, _, label in true[-1]:
            if label not in labels:
                known = ", ".join(labels[:12])
                raise bad_row(example.path, example.line, f"the model has no label {label!r}; it has {known}")
    given: list[set[Annotation]] = [set() for _ in examples]
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input.text))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        for i, answer in zip(rows, predictor.predict([examples[i].input for i in rows]), strict=True):
            if isinstance(answer, TaskloomError):
                raise bad_row(examples[i].path, examples[i].line, str(answer)) from answer
            # A model's own dictionary may have labels besides: nobody annotated those.
            given[i] = {entity for entity in predicted(answer) if entity[2] in labels}
    files = tuple(file_label(example.path) for example in examples)
    return Judged(tuple(labels), files, tuple(true), tuple(given))


def predicted(answer: NerOutput) -> set[Annotation]:
    return {(entity.start, entity.end, entity.label) for entity in answer.entities}


def rates(matrix: Matrix) -> dict[str, float]:
    total = _sum(matrix)
    return {"f1": total.f1, "precision": total.precision, "recall": total.recall, "macro_f1": macro_f1(matrix)}


def macro_f1(matrix: Matrix) -> float:
    """Over the labels that the data has."""
    found = [_sum(matrix[:, i]).f1 for i in range(matrix.shape[1]) if matrix[:, i, 2].any()]
    return float(np.mean(found)) if found else 0.0


def intervals(matrix: Matrix) -> dict[str, tuple[float, float]]:
    return percentile_intervals(lambda rows: rates(matrix[rows]), len(matrix))


def _sum(matrix: Matrix) -> Counts:
    hits, given, true = matrix.reshape(-1, 3).sum(0).tolist()
    return Counts(hits, given, true)


def per_class_table(labels: Sequence[str], matrix: Matrix) -> Table:
    rows: list[tuple[str | float | int, ...]] = [("label", "precision", "recall", "f1", "support")]
    for i, label in enumerate(labels):
        counts = _sum(matrix[:, i])
        rows.append((label, round(counts.precision, 4), round(counts.recall, 4), round(counts.f1, 4), counts.true))
    return tuple(rows)


def per_file_table(judged: Judged, matrix: Matrix) -> Table:
    """Each file apart. `f1_own` counts only the labels that the file has: entities of others may be right, but nobody
    annotated them there."""
    rows: list[tuple[str | float | int, ...]] = [
        ("file", "rows", "entities", "precision", "recall", "f1", "f1_low", "f1_high", "f1_own", "own_labels")
    ]
    for name in dict.fromkeys(judged.files):
        part = matrix[[file == name for file in judged.files]]
        counts = _sum(part)
        low, high = intervals(part)["f1"]
        own = [i for i in range(len(judged.labels)) if part[:, i, 2].any()]
        figures = (counts.precision, counts.recall, counts.f1, low, high, _sum(part[:, own]).f1)
        own_labels = " ".join(judged.labels[i] for i in own)
        rows.append((name, len(part), counts.true, *(round(figure, 4) for figure in figures), own_labels))
    return tuple(rows)


def error_table(judged: Judged) -> Table:
    """What became of the data's entities, and what was given besides."""
    kinds = dict.fromkeys(("found", "wrong label", "wrong boundaries", "wrong label and boundaries", "missed", "invented"), 0)
    for true, given in zip(judged.true, judged.given, strict=True):
        for entity in true:
            kinds[_fate(entity, given)] += 1
        kinds["invented"] += sum(not any(_overlap(entity, other) for other in true) for entity in given)
    return (("outcome", "entities"), *kinds.items())


def _fate(entity: Annotation, given: set[Annotation]) -> str:
    if entity in given:
        return "found"
    touching = [other for other in given if _overlap(entity, other)]
    if any(other[:2] == entity[:2] for other in touching):
        return "wrong label"
    if any(other[2] == entity[2] for other in touching):
        return "wrong boundaries"
    return "wrong label and boundaries" if touching else "missed"


def _overlap(one: Annotation, other: Annotation) -> bool:
    return one[0] < other[1] and other[0] < one[1]
