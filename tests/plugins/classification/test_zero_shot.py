"""Labels by their names: each request has its own, and gets the same answer in any company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from taskloom.core.errors import ConfigError, InvalidInputError
from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, SharedParts, TaskModel, TrainRun
from taskloom.core.testing.conformance import publish
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.classification.model import ClassificationModel, load
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput, ClassificationParams, TrainConfig
from taskloom.plugins.tasks.classification.zero_shot import ZeroShotModel, fit_scale

FP32 = RuntimeConfig(precision="fp32", device="cpu", threads=1)
TEXT = ClassificationInput(text="where is my card?")


def ready(model: TaskModel[Any, Any, Any]) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    return Predictor(ClassificationTask(), model, runtime.load(model, None, runtime.plan(FP32)))


@pytest.fixture(scope="module")
def predictor(tiny_bert: str) -> Predictor[Any, Any, Any]:
    return ready(ZeroShotModel.build(["my_card", "the order"], backbone=tiny_bert))


def test_each_request_chooses_from_its_own_labels(predictor: Predictor[Any, Any, Any]) -> None:
    asked = [ClassificationParams(labels=("a", "b", "c")), ClassificationParams(), ClassificationParams(labels=("b", "hello"))]
    answers = predictor.predict([TEXT] * 3, asked)
    assert [{found.label for found in answer.labels} for answer in answers] == [
        {"a", "b", "c"},
        {"my_card", "the order"},
        {"b", "hello"},
    ]
    for params, answer in zip(asked, answers, strict=True):
        assert sum(found.score for found in answer.labels) == pytest.approx(1.0, abs=1e-5)
        alone = predictor.predict_one(TEXT, params)
        assert [x.label for x in answer.labels] == [x.label for x in alone.labels]
        assert [x.score for x in answer.labels] == pytest.approx([x.score for x in alone.labels], abs=1e-5)


def test_a_text_that_is_a_label_gets_it(predictor: Predictor[Any, Any, Any]) -> None:
    """The underscore is read as a blank, so the vectors are the same."""
    asked = ClassificationParams(labels=("refund", "my_card", "hello"))
    answer = predictor.predict_one(ClassificationInput(text="my card"), asked)
    assert answer.labels[0].label == "my_card"


def test_threshold_and_top_k(predictor: Predictor[Any, Any, Any]) -> None:
    labels = ("my card", "a", "b")
    text = ClassificationInput(text="my card")
    best = predictor.predict_one(text, ClassificationParams(labels=labels)).labels
    floor = best[0].score
    assert len(predictor.predict_one(text, ClassificationParams(labels=labels, threshold=floor)).labels) == 1
    assert predictor.predict_one(text, ClassificationParams(labels=labels, top_k=2)).labels == best[:2]


def test_a_trained_classifier_takes_no_labels(tiny_bert: str) -> None:
    predictor = ready(ClassificationModel.build(["a", "b"], backbone=tiny_bert))
    with pytest.raises(InvalidInputError, match="labels of its own"):
        predictor.predict_one(TEXT, ClassificationParams(labels=("x",)))


def test_the_scale_is_the_likeliest(tiny_bert: str) -> None:
    model = ZeroShotModel.build(["a", "b"], backbone=tiny_bert)
    torch.manual_seed(0)
    cosines, targets = torch.rand(200, 4), torch.randint(0, 4, (200,))
    cosines[torch.arange(200), targets] += 0.4
    loss = fit_scale(model, cosines * model.module.head.scale.detach(), targets)
    best = float(model.module.head.scale.detach())
    for other in (best * 0.8, best * 1.2):
        assert loss < float(cross_entropy(cosines * other, targets))


def test_it_is_made_from_rows_saved_and_loaded(tiny_bert: str, tmp_path: Path) -> None:
    task = ClassificationTask()
    rows = [
        Example(input=ClassificationInput(text=text), target=label)
        for text, label in [("my card", "card"), ("refund", "refund")]
    ]
    with pytest.raises(ConfigError, match="labels"):
        task.train(TrainConfig(backbone=tiny_bert, zero_shot=True), rows, [], TrainRun(tmp_path))
    config = TrainConfig(backbone=tiny_bert, zero_shot=True, labels=("card", "refund"), template="about {}")
    trained = task.train(config, rows, [], TrainRun(tmp_path))
    assert trained.facts["labels_seen"] == 2
    artifact = publish(task, trained.model, ModelStore([tmp_path / "models"]))
    assert not (artifact.folder / "backbone").exists(), "the bundle holds a head of one number"
    again = ready(load(artifact, SharedParts()))
    assert again.predict_one(TEXT) == ready(trained.model).predict_one(TEXT)
    result = task.evaluate(again, rows)
    assert result.metrics["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"zero_shot": True, "multi_label": True}, "leave multi_label and pair out"),
        ({"zero_shot": True, "pair": True}, "leave multi_label and pair out"),
        ({"pretrained": True, "pair": True, "mark_shared": True}, "leave mark_shared out"),
        ({"mark_shared": True}, "set pair = true"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, bool], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainConfig(**settings)
