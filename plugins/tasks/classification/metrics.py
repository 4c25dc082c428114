"""What a classifier is worth on rows that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example
from taskloom.plugins._shared.label_metrics import (
    accuracy,
    evaluate_labels,
    expected_calibration_error,
    judge,
    labels_of,
    macro_f1,
    micro_f1,
)
from taskloom.plugins.tasks.classification.schema import ClassificationInput, ClassificationOutput, ClassificationParams
from taskloom.plugins.tasks.classification.zero_shot import ZeroShotModel

MEASURED = {"accuracy": accuracy, "macro_f1": macro_f1, "micro_f1": micro_f1, "ece": expected_calibration_error}


def evaluate(
    predictor: Predictor[ClassificationInput, ClassificationOutput, ClassificationParams],
    examples: Sequence[Example[ClassificationInput]],
    figures_folder: Path | None = None,
) -> EvaluationResult:
    """Every metric of the task, with 95% bootstrap intervals; figures go into `figures_folder` if there is one."""
    asked = None
    if isinstance(predictor.model, ZeroShotModel):  # it has no labels of its own: it is asked for those that the rows have
        asked = tuple(sorted({label for example in examples for label in labels_of(example)}))
    everything = ClassificationParams(top_k=None, threshold=0.0, labels=asked)
    judged = judge(predictor, examples, everything, labels=asked, size=lambda item: len(item.text))
    return evaluate_labels(judged, MEASURED, figures_folder)
