"""What a relation classifier is worth on rows that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example
from taskloom.plugins._shared.label_metrics import Judged, accuracy, evaluate_labels, expected_calibration_error, judge
from taskloom.plugins.tasks.relation.model import RelationModel
from taskloom.plugins.tasks.relation.schema import RelationInput, RelationOutput, RelationParams, relation_of

Floats = NDArray[np.float64]
EVERYTHING = RelationParams(top_k=None, threshold=0.0)


def evaluate(
    predictor: Predictor[RelationInput, RelationOutput, RelationParams],
    examples: Sequence[Example[RelationInput]],
    figures_folder: Path | None = None,
) -> EvaluationResult:
    """Every metric of the task, with 95% bootstrap intervals; figures go into `figures_folder` if there is one."""
    model = predictor.model
    assert isinstance(model, RelationModel)
    uncounted = model.saved.uncounted
    judged = judge(predictor, examples, EVERYTHING, size=lambda item: len(item.text))
    measured: dict[str, Callable[[Judged], float]] = {
        "macro_f1": partial(macro_f1, uncounted=uncounted),
        "micro_f1": partial(micro_f1, uncounted=uncounted),
        "accuracy": accuracy,
        "ece": expected_calibration_error,
    }
    result = evaluate_labels(judged, measured, figures_folder)
    return result.model_copy(update={"tables": {**result.tables, "per_relation": relation_table(judged, uncounted)}})


def macro_f1(judged: Judged, uncounted: Sequence[str]) -> float:
    """F1 of each relation, averaged, as SemEval-2010 task 8 scores it (Hendrickx et al. 2010,
    https://aclanthology.org/S10-1006, section 4): a relation's labels in both directions count together, an answer in the wrong
    direction is wrong, and `uncounted` relations are left out of the mean. It is over the relations that rows have or were
    given."""
    hits, given, true = _by_relation(judged, uncounted)[1:]
    present = given + true > 0
    return float((2 * hits[present] / (given + true)[present]).mean()) if present.any() else 1.0


def micro_f1(judged: Judged, uncounted: Sequence[str]) -> float:
    """F1 over all decisions for a relation that counts (Zhang et al. 2017, https://aclanthology.org/D17-1004)."""
    hits, given, true = (counts.sum() for counts in _by_relation(judged, uncounted)[1:])
    return float(2 * hits / (given + true)) if given + true else 1.0


def relation_table(judged: Judged, uncounted: Sequence[str]) -> tuple[tuple[str | float | int, ...], ...]:
    """Precision, recall and F1 of each relation that counts: of both directions together, each right in its own alone."""
    rows: list[tuple[str | float | int, ...]] = [("relation", "precision", "recall", "f1", "support")]
    for name, hits, given, true in zip(*_by_relation(judged, uncounted), strict=True):
        rates = (
            hits / given if given else 0.0,
            hits / true if true else 0.0,
            2 * hits / (given + true) if given + true else 0.0,
        )
        rows.append((name, *(round(float(rate), 4) for rate in rates), int(true)))
    return tuple(rows)


def _by_relation(judged: Judged, uncounted: Sequence[str]) -> tuple[tuple[str, ...], Floats, Floats, Floats]:
    """The relations that count, and of each: how often its label was given rightly, was given, and was true."""
    relations = [relation_of(label)[0] for label in judged.labels]
    names = tuple(dict.fromkeys(name for name in relations if name not in uncounted))
    belongs = np.array([[float(name == relation) for name in names] for relation in relations]).reshape(len(relations), -1)
    counts = ((judged.true & judged.given).sum(0), judged.given.sum(0), judged.true.sum(0))
    hits, given, true = (count.astype(float) @ belongs for count in counts)
    return names, hits, given, true
