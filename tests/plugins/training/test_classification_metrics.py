"""The metrics of classification, against scikit-learn and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from taskloom.core.errors import DataError
from taskloom.core.predictor import Predictor
from taskloom.core.task import Example
from taskloom.plugins._shared.bootstrap import percentile_intervals
from taskloom.plugins._shared.label_figures import draw_confusion
from taskloom.plugins._shared.label_metrics import (
    Judged,
    expected_calibration_error,
    macro_f1,
    micro_f1,
    per_class_table,
)
from taskloom.plugins._shared.label_scores import LabelScore
from taskloom.plugins.tasks.classification.metrics import evaluate
from taskloom.plugins.tasks.classification.schema import ClassificationInput, ClassificationOutput

LABELS = ("a", "b", "c", "丢失")


class ScriptedModel:
    labels = LABELS


class ScriptedPredictor(Predictor[Any, Any, Any]):
    """Gives the scores that a text spells: `0.7 0.1 0.1 0.1`."""

    def __init__(self) -> None:
        self.model: Any = ScriptedModel()

    def predict(self, inputs: Any, params: Any = None) -> list[Any]:
        return [ClassificationOutput(labels=tuple(self._scored(i.text))) for i in inputs]

    @staticmethod
    def _scored(text: str) -> list[LabelScore]:
        return [LabelScore(label=name, score=float(score)) for name, score in zip(LABELS, text.split(), strict=True)]


def rows(seed: int = 0, count: int = 200, several: bool = False) -> list[Example[Any]]:
    random = np.random.default_rng(seed)
    found = []
    for i in range(count):
        scores = random.dirichlet([0.4] * 4).round(4)
        picked = int(scores.argmax()) if random.random() < 0.7 else int(random.integers(0, 4))
        noisy = scores + random.normal(0, 0.2, 4)
        target: Any = tuple(n for n, s in zip(LABELS, noisy, strict=True) if s > 0.5) if several else LABELS[picked]
        text = " ".join(map(str, scores))
        found.append(Example(input=ClassificationInput(text=text), target=target, path="d", line=i + 1))
    return found


def test_a_model_with_one_label_is_told_of_that_label() -> None:
    true, given = np.array([[True], [True], [False], [True]]), np.array([[True], [False], [False], [False]])
    judged = Judged(("spam",), true, given, given.astype(float), single=False)
    assert per_class_table(judged)[1] == ("spam", 1.0, 0.3333, 0.5, 3)


def test_single_label_metrics_equal_those_of_scikit_learn(tmp_path: Path) -> None:
    examples = rows()
    truth = [e.target for e in examples]
    given = [LABELS[int(np.argmax([float(s) for s in e.input.text.split()]))] for e in examples]
    result = evaluate(ScriptedPredictor(), examples, tmp_path)
    assert result.metrics["accuracy"] == pytest.approx(accuracy_score(truth, given))
    assert result.metrics["macro_f1"] == pytest.approx(f1_score(truth, given, average="macro"))
    assert result.metrics["micro_f1"] == pytest.approx(result.metrics["accuracy"])
    assert sum(int(row[4]) for row in result.tables["per_class"][1:]) == len(examples)
    scores = precision_recall_fscore_support(truth, given, labels=LABELS, zero_division=0.0)
    for place, (label, *told) in enumerate(result.tables["per_class"][1:]):
        assert (label, *told) == (LABELS[place], *(pytest.approx(float(column[place]), abs=5e-5) for column in scores))
    wrong = sum(t != g for t, g in zip(truth, given, strict=True))
    assert sum(int(row[2]) for row in result.tables["confusions"][1:]) == wrong
    for name, (low, high) in result.intervals.items():
        assert low < high
        if name != "ece":  # resampling can only add noise to a calibration error, so its interval lies above
            assert low <= result.metrics[name] <= high
    assert result.figures == ("confusion.png", "reliability.png")
    for name in result.figures:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
    assert evaluate(ScriptedPredictor(), examples).intervals == result.intervals


def test_multi_label_metrics_equal_those_of_scikit_learn() -> None:
    examples = rows(several=True)
    result = evaluate(ScriptedPredictor(), examples)
    truth = np.array([[label in e.target for label in LABELS] for e in examples])
    given = np.array([[float(s) >= 0.5 for s in e.input.text.split()] for e in examples])
    assert result.metrics["accuracy"] == pytest.approx(accuracy_score(truth, given))
    assert result.metrics["macro_f1"] == pytest.approx(f1_score(truth, given, average="macro"))
    assert result.metrics["micro_f1"] == pytest.approx(f1_score(truth, given, average="micro"))
    assert "confusions" not in result.tables


def test_calibration_error_by_hand() -> None:
    # Four answers at 0.9, two of them right: |0.5 - 0.9|. Four at 0.6, three right: |0.75 - 0.6|.
    scores = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 4)
    true = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0], [0, 1]], dtype=bool)
    given = np.array([[1, 0]] * 8, dtype=bool)
    assert expected_calibration_error(Judged(("a", "b"), true, given, scores, True)) == pytest.approx((0.4 + 0.15) / 2)


def test_labels_that_the_data_does_not_hold_do_not_lower_the_score() -> None:
    true = np.array([[1, 0, 0], [0, 1, 0]], dtype=bool)
    judged = Judged(("a", "b", "c"), true, true, true.astype(float), True)
    assert (macro_f1(judged), micro_f1(judged)) == (1.0, 1.0)


def test_an_interval_covers_what_it_says() -> None:
    hits = np.arange(400) < 300
    low, high = percentile_intervals(lambda drawn: {"rate": float(hits[drawn].mean())}, 400)["rate"]
    spread = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - spread, abs=0.01)
    assert high == pytest.approx(0.75 + spread, abs=0.01)


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        evaluate(ScriptedPredictor(), [])


def test_a_picture_of_many_classes_lists_the_largest_confusions(tmp_path: Path) -> None:
    matrix = np.diag([10] * 77)
    matrix[3, 4] = 5
    names = [f"an_intent_with_quite_a_long_name_{i}" for i in range(77)]
    draw_confusion(matrix, names, [(names[3], names[4], 5, 0.33)], tmp_path / "with.png")
    draw_confusion(matrix, names, [], tmp_path / "without.png")
    with Image.open(tmp_path / "with.png") as listed, Image.open(tmp_path / "without.png") as bare:
        assert listed.size[0] > 1500
        assert listed.tobytes() != bare.tobytes()
