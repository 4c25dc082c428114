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
    macro_f1,
    micro_f1,
)
from taskloom.plugins.tasks.classification.schema import ClassificationInput, ClassificationOutput, ClassificationParams

MEASURED = {"accuracy": accuracy, "macro_f1": macro_f1, "micro_f1": micro_f1, "ece": expected_calibration_error}


def evaluate(
    predictor: Predictor[ClassificationInput, ClassificationOutput, ClassificationParams],
    examples: Sequence[Example[ClassificationInput]],
    figures_folder: Path | None = None,
) -> EvaluationResult:
    """Every metric of the task, with 95% bootstrap intervals; figures go into `figures_folder` if there is one."""
    everything = ClassificationParams(top_k=None, threshold=0.0)
    judged = judge(predictor, examples, everything, size=lambda item: len(item.text))
    return evaluate_labels(judged, MEASURED, figures_folder)
