"""What an image classifier is worth on pictures that it was not trained on."""

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
    top3_accuracy,
)
from taskloom.plugins.tasks.vision.schema import VisionInput, VisionOutput, VisionParams

MEASURED = {"accuracy": accuracy, "macro_f1": macro_f1, "top3_accuracy": top3_accuracy, "ece": expected_calibration_error}


def evaluate(
    predictor: Predictor[VisionInput, VisionOutput, VisionParams],
    examples: Sequence[Example[VisionInput]],
    figures_folder: Path | None = None,
) -> EvaluationResult:
    """Every metric of the task, with 95% bootstrap intervals; figures go into `figures_folder` if there is one."""
    judged = judge(predictor, examples, VisionParams(top_k=None, threshold=0.0))
    return evaluate_labels(judged, MEASURED, figures_folder)
