"""Small relation classifiers with random weights, rows for them, and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import Example
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.relation.model import RelationModel
from taskloom.plugins.tasks.relation.plugin import RelationTask
from taskloom.plugins.tasks.relation.schema import RelationInput


def ready(model: RelationModel) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1))
    return Predictor(RelationTask(), model, runtime.load(model, None, plan))


def between(text: str, head: str, tail: str) -> RelationInput:
    """The first places of two parts of a text."""
    spans = [{"start": text.index(part), "end": text.index(part) + len(part)} for part in (head, tail)]
    return RelationInput.model_validate({"text": text, "head": spans[0], "tail": spans[1]})


def labelled(text: str, head: str, tail: str, relation: str, line: int = 1) -> Example[RelationInput]:
    return Example(input=between(text, head, tail), target=relation, path="pairs.jsonl", line=line)


@pytest.fixture(scope="session")
def as_predictor() -> Callable[[RelationModel], Predictor[Any, Any, Any]]:
    return ready


@pytest.fixture(scope="session")
def pair() -> Callable[..., RelationInput]:
    return between


@pytest.fixture(scope="session")
def row() -> Callable[..., Example[RelationInput]]:
    return labelled


@pytest.fixture(scope="session")
def small_bert(checkpoint: Callable[..., Path]) -> str:
    """Its vocabulary has the markers."""
    return str(checkpoint("bert", pieces=["$", "#"]))
