"""The model in the box, on rows that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.predictor import Predictor
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts
from taskloom.core.types import PRODUCTION
from taskloom.plugins.tasks.relation.metrics import evaluate
from taskloom.plugins.tasks.relation.model import RelationModel
from taskloom.plugins.tasks.relation.plugin import RelationTask
from taskloom.plugins.tasks.relation.schema import RelationInput

ROOT = Path(__file__).parents[3]

Ask = Predictor[Any, Any, Any]


@pytest.fixture(scope="module")
def store() -> ModelStore:
    return ModelStore([ROOT / "models"])


@pytest.fixture(scope="module")
def predictor(store: ModelStore, as_predictor: Callable[[RelationModel], Ask]) -> Ask:
    artifact = store.resolve("relation-en@1")
    artifact.verify()
    return as_predictor(RelationModel.load(artifact, SharedParts()))


def test_it_is_about_as_good_as_its_report_says(predictor: Ask) -> None:
    rows = list(RelationTask().read_examples(ROOT / "tests" / "data" / "semeval2010-sample.jsonl"))
    found = evaluate(predictor, rows)
    assert found.examples == 36
    assert found.metrics["macro_f1"] > 0.75


def test_it_follows_the_question_when_that_is_turned_round(predictor: Ask, pair: Callable[..., RelationInput]) -> None:
    text = "The fire was caused by a cigarette."
    forth, back = predictor.predict([pair(text, "fire", "cigarette"), pair(text, "cigarette", "fire")])
    assert (forth.labels[0].relation, forth.labels[0].direction) == ("Cause-Effect", "tail_to_head")
    assert (back.labels[0].relation, back.labels[0].direction) == ("Cause-Effect", "head_to_tail")
    assert forth.labels[0].score == pytest.approx(back.labels[0].score, abs=1e-6)


def test_a_gateway_that_is_told_nothing_does_not_load_it(store: ModelStore) -> None:
    """It would take two seconds of each start, of the quickstart's too, for a task that few ask for."""
    assert PRODUCTION not in store.aliases("relation-en")
    assert PRODUCTION in store.aliases("intent-en")
