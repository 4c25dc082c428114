"""What an evaluation says, checked against models whose answers are known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.errors import DataError
from taskloom.core.predictor import Predictor
from taskloom.core.task import Example
from taskloom.plugins._shared.robustness import perturbations
from taskloom.plugins.tasks.fill_mask.curve import CurveLog, CurvePoint, LossCurve
from taskloom.plugins.tasks.fill_mask.metrics import evaluate, read_row
from taskloom.plugins.tasks.fill_mask.model import FillMaskModel
from taskloom.plugins.tasks.fill_mask.plugin import FillMaskTask
from taskloom.plugins.tasks.fill_mask.reading import DocumentRows
from taskloom.plugins.tasks.fill_mask.schema import Candidate, FillMaskInput, FillMaskOutput, FillMaskTarget, Gap

AsPredictor = Callable[[FillMaskModel], Predictor[Any, Any, Any]]


def example(shown: str, *hidden: str) -> Example[FillMaskInput]:
    return Example(input=FillMaskInput(text=shown), target=FillMaskTarget(text=shown, hidden=hidden), path="d.txt", line=3)


class KnowingPredictor(Predictor[Any, Any, Any]):
    """Gives each target the probability `score`, and the best candidate is right where `right` says so of the token."""

    def __init__(self, model: FillMaskModel, score: float, right: Callable[[str], bool]) -> None:
        self.task, self.model = FillMaskTask(), model
        self.score, self.right = score, right
        self.read: list[str] = []

    def predict(self, inputs: Sequence[Any], params: Sequence[Any] | None = None) -> list[Any]:
        assert params is not None
        self.read += [item.text for item in inputs]
        return [FillMaskOutput(gaps=tuple(self._gap(token) for token in asked.targets)) for asked in params]

    def _gap(self, token: str) -> Gap:
        best = Candidate(token=token if self.right(token) else "错", score=0.9)
        return Gap(start=0, end=6, candidates=(best,), target_score=self.score)


def test_figures_are_of_tokens_and_words(model: FillMaskModel) -> None:
    rows = [example("[MASK][MASK]是[MASK]", "北", "京", "的"), example("有[MASK]个[MASK]", "1", "的")]
    found = evaluate(KnowingPredictor(model, 0.25, lambda token: token != "京"), rows)
    assert found.metrics == pytest.approx({"masked_accuracy": 0.8, "pseudo_perplexity": 4.0, "word_accuracy": 0.75})
    assert found.intervals["pseudo_perplexity"] == pytest.approx((4.0, 4.0))
    low, high = found.intervals["masked_accuracy"]
    assert low < 0.8 < high
    table = {row[0]: row[1:] for row in found.tables["per kind of word"]}
    assert table["Chinese"] == (0.75, 4.0, 4, 3)
    assert table["number"] == (1.0, 4.0, 1, 1)
    assert found.examples == 2


def test_a_word_of_several_tokens_has_as_many_gaps(model: FillMaskModel) -> None:
    pieces = model.processor.tokenize("xq7000")
    row = read_row(model, example("路由器[MASK]型", "xq7000"))
    assert len(pieces) > 1
    assert row.text == "路由器" + "[MASK]" * len(pieces) + "型"
    assert [word.tokens for word in row.words] == [pieces]


def test_a_word_that_the_vocabulary_cannot_write_is_shown(model: FillMaskModel) -> None:
    predictor = KnowingPredictor(model, 0.5, lambda _: True)
    found = evaluate(predictor, [example("[MASK]在[MASK]", "龘", "的"), example("只有[MASK]", "靐")])
    assert predictor.read == ["龘在[MASK]"]
    assert found.tables["per kind of word"][-1] == ("not in the vocabulary", 0.0, 0.0, 0, 2)
    with pytest.raises(DataError, match="none of the hidden words"):
        evaluate(predictor, [example("只有[MASK]", "靐")])


def test_every_model_is_asked_about_the_same_words(model: FillMaskModel, sample: Path) -> None:
    one, other = KnowingPredictor(model, 0.5, lambda _: True), KnowingPredictor(model, 0.5, lambda _: False)
    rows = DocumentRows(sample)
    first, second = evaluate(one, rows), evaluate(other, rows)
    assert one.read == other.read
    assert (first.metrics["masked_accuracy"], second.metrics["masked_accuracy"]) == (1.0, 0.0)
    assert first.pairing is not None
    assert len(first.pairing.rows) == len(rows)


def test_a_model_is_measured_by_its_own_probabilities(model: FillMaskModel, as_predictor: AsPredictor, sample: Path) -> None:
    found = evaluate(as_predictor(model), DocumentRows(sample)[:8])
    assert found.metrics["pseudo_perplexity"] > 100  # random weights
    assert math.isfinite(found.metrics["pseudo_perplexity"])


def test_rows_that_do_not_fit_are_refused(model: FillMaskModel) -> None:
    predictor = KnowingPredictor(model, 0.5, lambda _: True)
    with pytest.raises(DataError, match="line 3: 1 words are hidden at 2 gaps"):
        evaluate(predictor, [example("[MASK][MASK]", "的")])
    with pytest.raises(DataError, match="no rows"):
        evaluate(predictor, [])


def test_the_curve_of_a_training_is_kept_and_drawn(model: FillMaskModel, tmp_path: Path) -> None:
    said: list[str] = []
    log = CurveLog(tmp_path, lambda event: said.append(event["event"]), every_s=0.0)
    for step in (1, 2, 3):
        log.hear({"event": "step", "step": step, "steps": 3, "loss": 8.0 - step, "units": 64, "learning_rate": 1e-3})
    assert [point.loss for point in log.curve().points] == [7.0, 6.0, 5.0]
    assert [point.tokens for point in log.curve().points] == [64, 128, 192]
    assert said == ["progress", "step"] * 3
    # A training that was killed behind its last checkpoint goes on from there, and so does its curve.
    again = CurveLog(tmp_path, lambda _: None, every_s=0.0)
    again.hear({"event": "resumed", "step": 2, "steps": 3})
    again.hear({"event": "step", "step": 3, "steps": 3, "loss": 4.5, "units": 64, "learning_rate": 1e-3})
    assert [point.loss for point in again.curve().points] == [7.0, 6.0, 4.5]
    later = CurveLog(tmp_path / "later", lambda _: None, earlier=tmp_path, every_s=0.0)
    (tmp_path / "later").mkdir()
    later.hear({"event": "step", "step": 1, "steps": 1, "loss": 4.0, "units": 64, "learning_rate": 1e-3})
    assert [(point.step, point.tokens, point.loss) for point in later.curve().points[2:]] == [(3, 192, 4.5), (4, 256, 4.0)]
    model.curve = again.curve()
    found = evaluate(KnowingPredictor(model, 0.5, lambda _: True), [example("[MASK]", "的")], tmp_path / "figures")
    assert found.figures == ("training_loss.png",)
    assert (tmp_path / "figures" / "training_loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_survives_its_file(tmp_path: Path) -> None:
    point = CurvePoint(step=1, tokens=64, loss=6.5, learning_rate=1e-3, tokens_per_s=1000.0)
    LossCurve(points=(point,)).write(tmp_path / "curve.json")
    assert LossCurve.read(tmp_path / "curve.json").points == (point,)


def test_changed_texts_keep_their_gaps(sample: Path) -> None:
    """Robustness changes letters and words, and `[MASK]` is neither."""
    rows = DocumentRows(sample)
    for perturbation in perturbations(FillMaskTask()):
        changed = [perturbation.change(row, random.Random(1)) for row in rows]
        assert any(new.input != old.input for new, old in zip(changed, rows, strict=True)) or perturbation.name == "negation"
        for new, old in zip(changed, rows, strict=True):
            assert new.input.text.count("[MASK]") == len(old.target.hidden)
