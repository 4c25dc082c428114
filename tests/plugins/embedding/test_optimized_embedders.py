"""Optimizers know nothing of embedding, and work on it: the graph in int8, fewer parts, a student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import FP32, Steps, published, shuffled_words

from taskloom.core.artifact import Manifest
from taskloom.core.predictor import load_predictor
from taskloom.core.publishing import draft_artifact, write_model
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import Example
from taskloom.plugins.tasks.embedding.model import EmbeddingModel
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput

WORDS = ["where", "is", "my", "card", "lost", "order", "refund", "hello", "the", "a"]
FAST: dict[str, Any] = {"epochs": 6, "batch_size": 4, "ema_decay": 0.0, "early_stopping_patience": 0, "device": "cpu"}

Row = Callable[..., Example[EmbeddingInput]]


@pytest.fixture(scope="module")
def parent(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(4)
    backbone = checkpoint("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return published("embedding", EmbeddingModel.build(backbone=str(backbone)), tmp_path_factory.mktemp("store"))


@pytest.fixture
def steps(parent: Any, row: Row, tmp_path: Path) -> Steps:
    texts = shuffled_words(WORDS, 40, 6, 5)
    rows = [row(text[: len(text) // 2], text, negatives=(texts[i - 1],) if i % 3 else ()) for i, text in enumerate(texts)]
    return Steps(parent, rows[:32], tmp_path / "work", rows[32:])


def test_int8_vectors_lie_where_those_of_the_parent_do(steps: Steps, tmp_path: Path) -> None:
    chain = steps.run("quantize", mode="dynamic", calibration_rows=8, search_s=0.0)
    assert chain.runtime == "onnx"
    folder = tmp_path / "made"
    folder.mkdir()
    config = write_model(folder, chain.model, chain.files, external=True)
    manifest = Manifest(
        model="small", version="1", task="embedding", created="2026-01-01T00:00:00Z", config=config, runtime="onnx"
    )
    small = load_predictor(steps.registry, draft_artifact(folder, manifest), RuntimeConfig(device="cpu", threads=1))
    whole = load_predictor(steps.registry, steps.parent, FP32)
    inputs = [row.input for row in steps.rows]
    one, other = (torch.tensor([output.vector for output in each.predict(inputs)]) for each in (whole, small))
    small.close()
    assert not torch.equal(one, other)
    torch.testing.assert_close(other.norm(dim=1), torch.ones(len(inputs)))
    assert float((one * other).sum(1).min()) > 0.98


def test_what_is_pruned_answers_and_is_smaller(steps: Steps, tmp_path: Path) -> None:
    quick = {"importance_rows": 8, "timed_rows": 2, "epochs": 0, "units_multiple": 16}
    chain = steps.run("prune", target="parameters", share=0.85, **quick)
    facts = chain.steps[0].facts
    assert facts["parameters_after"] <= 0.85 * facts["parameters_before"]
    assert len(steps.predictor(chain.model, tmp_path / "again").predict_one(steps.rows[0].input).vector) == 32


def test_a_student_with_half_the_layers_learns_the_vectors(steps: Steps) -> None:
    chain = steps.run("distill", layers=1, alpha=0.0, hidden_weight=0.0, learning_rate=3e-3, **FAST)
    facts = chain.steps[0].facts
    assert facts["answers"] == "kept on disk"
    assert facts["history"][-1]["loss"] < 0.5 * facts["history"][0]["loss"]


def test_an_adapter_is_trained_on_the_tasks_own_loss(steps: Steps) -> None:
    chain = steps.run("lora", learning_rate=1e-2, budget=0.3, dropout=0.0, precision="fp32", **FAST)
    history = chain.steps[0].facts["history"]
    assert history[-1]["loss"] < history[0]["loss"]
