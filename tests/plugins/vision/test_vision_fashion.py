"""The image model in the box: it is whole, small, and as good as its report says."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskloom.core.artifact import Artifact
from taskloom.core.loader import load_registry
from taskloom.core.predictor import load_predictor, validated
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.plugins.tasks.vision.image_sets import read_examples

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return ModelStore([ROOT / "models"]).resolve("vision-fashion")


def test_it_is_small_and_better_than_the_published_small_networks(artifact: Artifact) -> None:
    assert artifact.manifest.metrics["accuracy"] > 0.935
    assert artifact.manifest.steps[0].facts["parameters"] < 2_000_000
    assert artifact.manifest.data[0].licence == "MIT"


def test_it_knows_clothes_that_it_has_not_seen(artifact: Artifact) -> None:
    rows = list(read_examples(ROOT / "tests" / "data" / "fashion-mnist-sample" / "rows.jsonl"))
    predictor = load_predictor(load_registry(), artifact, RuntimeConfig(precision="fp32", device="cpu", threads=1))
    answers = predictor.predict([row.input for row in rows])
    right = [answer.labels[0].label == row.target for answer, row in zip(answers, rows, strict=True)]
    assert sum(right) >= 18
    assert all((answer.width, answer.height) == (28, 28) for answer in answers)
    task = predictor.task
    given = predictor.predict([validated(task.Input, example, "input") for example in artifact.manifest.examples])
    assert [answer.labels[0].label for answer in given] == ["Ankle boot", "Dress", "Bag"]
    predictor.close()
