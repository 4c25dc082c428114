"""What an embedding model answers: whose vectors they are, how long, and alone as in company."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, InvalidInputError
from taskloom.core.loader import load_registry
from taskloom.core.ports import WorkItem
from taskloom.core.predictor import Predictor
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts
from taskloom.core.testing.conformance import assert_close, publish
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.backbones.trunk import EncoderTrunk
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.embedding.model import EmbeddingModel
from taskloom.plugins.tasks.embedding.plugin import EmbeddingTask
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingOutput, EmbeddingParams
from taskloom.server.engine.host import ModelHost
from taskloom.server.engine.spec import ModelVersion, ReplicaSpec

TEXTS = ["where is my card", "a", "hello, the order is lost. refund? " * 3, "我的银行卡在哪里"]
AsPredictor = Callable[[EmbeddingModel], Predictor[Any, Any, Any]]


def vectors(predictor: Predictor[Any, Any, Any], *asked: EmbeddingInput) -> torch.Tensor:
    return torch.tensor([output.vector for output in predictor.predict(asked)])


def passage(text: str) -> EmbeddingInput:
    return EmbeddingInput(text=text)


def query(text: str) -> EmbeddingInput:
    return EmbeddingInput(text=text, kind="query")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_vector_is_what_transformers_give_when_pooled(
    pooling: Any, checkpoint: Callable[..., Path], as_predictor: AsPredictor
) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = str(checkpoint("bert", seed=3))
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = vectors(as_predictor(EmbeddingModel.build(backbone=folder, pooling=pooling)), *map(passage, TEXTS))
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        pooled = states.mean(0) if pooling == "mean" else states[0]
        torch.testing.assert_close(vector, pooled / pooled.norm(), atol=1e-5, rtol=0)
        assert float(vector.norm()) == pytest.approx(1, abs=1e-6)


def test_the_prefix_of_its_kind_stands_before_a_text(tiny_bert: str, as_predictor: AsPredictor) -> None:
    plain = as_predictor(EmbeddingModel.build(backbone=tiny_bert))
    marked = as_predictor(EmbeddingModel.build(backbone=tiny_bert, query_prefix="where: ", passage_prefix="the "))
    assert torch.equal(*vectors(plain, query("card"), passage("card")))
    expected = vectors(plain, passage("where: card"), passage("the card"))
    torch.testing.assert_close(vectors(marked, query("card"), passage("card")), expected, atol=1e-6, rtol=0)


def test_a_long_text_is_cut_and_says_so(tiny_bert: str, as_predictor: AsPredictor) -> None:
    predictor = as_predictor(EmbeddingModel.build(backbone=tiny_bert, max_length=16))
    long, start, short = predictor.predict([passage("hello " * 30), passage("hello " * 14), passage("hello")])
    assert (long.truncated, start.truncated, short.truncated) == (True, False, False)
    assert_close(list(long.vector), list(start.vector), 1e-6)


def test_shorter_vectors_are_the_first_numbers_at_length_1(tiny_bert: str, as_predictor: AsPredictor) -> None:
    predictor = as_predictor(EmbeddingModel.build(backbone=tiny_bert, dimensions=(8, 16)))
    asked = [EmbeddingParams(), EmbeddingParams(dimensions=8), EmbeddingParams(dimensions=32)]
    whole, cut, same = predictor.predict([passage("my card")] * 3, asked)
    first = torch.tensor(whole.vector[:8])
    torch.testing.assert_close(torch.tensor(cut.vector), first / first.norm())
    assert_close(list(same.vector), list(whole.vector), 1e-6)
    with pytest.raises(InvalidInputError, match="have 32 and can be cut to 8, 16") as caught:
        predictor.predict_one(passage("my card"), EmbeddingParams(dimensions=12))
    assert caught.value.field == "params.dimensions"
    with pytest.raises(InvalidInputError, match="can't be cut"):
        as_predictor(EmbeddingModel.build(backbone=tiny_bert)).predict_one(passage("a"), EmbeddingParams(dimensions=8))
    with pytest.raises(InvalidInputError, match="has 32"):
        EmbeddingModel.build(backbone=tiny_bert, dimensions=(32,))


@pytest.mark.parametrize(
    "raw", [{"text": " \u200b"}, {"text": "\ud800"}, {"text": "x" * 100_001}, {"text": "a", "kind": "doc"}]
)
def test_inputs_that_make_no_sense_are_refused(raw: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        EmbeddingInput.model_validate(raw)


def test_an_artifact_of_a_pretrained_model_is_its_settings(tiny_bert: str, tmp_path: Path, as_predictor: AsPredictor) -> None:
    model = EmbeddingModel.build(backbone=tiny_bert, pretrained=True, pooling="cls", query_prefix="where: ")
    artifact = publish(EmbeddingTask(), model, ModelStore([tmp_path]))
    assert not artifact.manifest.files
    again = EmbeddingModel.load(artifact, SharedParts())
    assert again.saved == model.saved
    asked = (query("card"), passage("card"))
    assert torch.equal(vectors(as_predictor(again), *asked), vectors(as_predictor(model), *asked))


def test_a_manifest_of_another_task_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    other = publish(ClassificationTask(), ClassificationModel.build(["a"], backbone=tiny_bert), ModelStore([tmp_path]))
    with pytest.raises(ArtifactError, match="no embedding model's"):
        EmbeddingModel.load(other, SharedParts())


def test_directions_are_the_same_after_rounding_and_not_after_a_turn() -> None:
    task = EmbeddingTask()
    one, rounded, turned, cut = (
        task.answer(EmbeddingOutput(vector=vector)) for vector in ((0.6, 0.8), (0.601, 0.799), (0.8, 0.6), (1.0,))
    )
    assert one == rounded
    assert one not in (turned, cut)


def test_the_plugin_imports_no_ml_library() -> None:
    code = "import sys, taskloom.plugins.tasks.embedding.plugin; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# -- in company ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """An embedding model without and one with an adapter, and a classifier, all on one backbone."""
    made = ModelStore([tmp_path_factory.mktemp("models")])
    torch.manual_seed(5)
    adapter = LoraSettings(r=4)
    models: dict[str, tuple[str, Any]] = {
        "plain": ("embedding", EmbeddingModel.build(backbone=tiny_bert, pretrained=True)),
        "tuned": ("embedding", EmbeddingModel.build(backbone=tiny_bert, adapter=adapter, query_prefix="where: ")),
        "labels": ("classification", ClassificationModel.build(["a", "b"], backbone=tiny_bert, adapter=adapter)),
    }
    for name, (task, model) in models.items():
        for key, parameter in model.module.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        _publish(made, name, task, model)
    return made


def _publish(store: ModelStore, name: str, task: str, model: Any) -> Artifact:
    from taskloom.core.artifact import Manifest

    with store.draft(name) as folder:
        config = model.save(folder)
        manifest = Manifest(
            model=name,
            task=task,
            created="2026-01-01T00:00:00Z",
            config=config,
            labels=model.labels,
            backbone=model.backbone,
        )
        return store.publish(folder, manifest)


def test_one_pass_with_other_models_of_the_backbone_changes_nothing(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = load_registry()

    def host(*names: str) -> ModelHost:
        versions = tuple(ModelVersion(name, "1") for name in names)
        made = ModelHost(ReplicaSpec("default", versions, store.roots), registry, store)
        made.load()
        return made

    asked = [("plain", "query"), ("tuned", "query"), ("labels", ""), ("plain", "passage"), ("tuned", "passage")]
    items = [
        WorkItem(request_id="r", model=name, input={"text": text, **({"kind": kind} if kind else {})}, params={})
        for (name, kind), text in zip(asked, [*TEXTS, "where is the card " * 20], strict=True)
    ]
    held = host("plain", "tuned", "labels")  # before passes are counted: loading warms up
    passes: list[int] = []
    run = EncoderTrunk.run
    monkeypatch.setattr(EncoderTrunk, "run", lambda self, parts: [passes.append(len(parts)), run(self, parts)][1])
    together = held.run(items).results
    assert passes == [3]
    alone = {name: host(name) for name in ("plain", "tuned", "labels")}
    for item, result in zip(items, together, strict=True):
        assert result.error is None
        assert_close(result.output, alone[item.model].run([item]).results[0].output, 1e-4)
