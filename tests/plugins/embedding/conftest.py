"""Small embedding models with random weights, rows for them, and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import Example
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.embedding.model import EmbeddingModel
from taskloom.plugins.tasks.embedding.plugin import EmbeddingTask
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingTarget


def ready(model: EmbeddingModel) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1))
    return Predictor(EmbeddingTask(), model, runtime.load(model, None, plan))


def pair(query: str, *positives: str, negatives: tuple[str, ...] = (), line: int = 1) -> Example[EmbeddingInput]:
    target = EmbeddingTarget(positives=positives, negatives=negatives)
    return Example(input=EmbeddingInput(text=query, kind="query"), target=target, path="pairs.jsonl", line=line)


@pytest.fixture(scope="session")
def as_predictor() -> Callable[[EmbeddingModel], Predictor[Any, Any, Any]]:
    return ready


@pytest.fixture(scope="session")
def row() -> Callable[..., Example[EmbeddingInput]]:
    return pair
