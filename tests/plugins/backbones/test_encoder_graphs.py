"""The graph of each task's model gives what its `forward` gives, and a model can be kept apart from its graph's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taskloom.core.artifact import Artifact, Manifest
from taskloom.core.errors import UnsupportedError
from taskloom.core.publishing import draft_artifact
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import SharedParts, TaskModel, TaskPlugin
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput
from taskloom.plugins.tasks.classification.zero_shot import ZeroShotModel
from taskloom.plugins.tasks.ner.model import NerModel
from taskloom.plugins.tasks.ner.plugin import NerTask
from taskloom.plugins.tasks.ner.schema import NerInput
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.plugin import QaTask
from taskloom.plugins.tasks.qa.schema import QaInput
from taskloom.plugins.tasks.recommendation.catalogue import Catalogue, Item
from taskloom.plugins.tasks.recommendation.model import RecommendationModel
from taskloom.plugins.tasks.recommendation.plugin import RecommendationTask
from taskloom.plugins.tasks.recommendation.schema import CatalogueConfig, RecommendationInput, TowerConfig
from taskloom.plugins.tasks.summarization.model import SentenceChooser
from taskloom.plugins.tasks.summarization.plugin import SummarizationTask
from taskloom.plugins.tasks.summarization.schema import SummarizationInput

TEXTS = ["where is my card", "a", "hello, the order is lost. refund? " * 12, "我的银行卡在哪里", "is the card here"]
Asked = tuple[TaskPlugin[Any, Any, Any], TaskModel[Any, Any, Any], Sequence[Any]]


def classifier(backbone: str) -> Asked:
    model = ClassificationModel.build(["a", "b", "c"], backbone=backbone)
    return ClassificationTask(), model, [ClassificationInput(text=text) for text in TEXTS]


def zero_shot(backbone: str) -> Asked:
    model = ZeroShotModel.build(["lost card", "refund"], backbone=backbone)
    return ClassificationTask(), model, [ClassificationInput(text=text) for text in TEXTS]


def recogniser(backbone: str) -> Asked:
    return NerTask(), NerModel.build(["PER"], backbone=backbone), [NerInput(text=text) for text in TEXTS]


def reader(backbone: str) -> Asked:
    inputs = [QaInput(question="where is it?", context=text) for text in TEXTS]
    return QaTask(), QaModel.build(backbone=backbone, max_length=48, overlap=8), inputs


def chooser(backbone: str) -> Asked:
    model = SentenceChooser.build(backbone=backbone, max_length=32, head_size=16)
    return SummarizationTask(), model, [SummarizationInput(document=text) for text in TEXTS]


def recommender(backbone: str) -> Asked:
    items = [Item(item=f"i{n}", title=f"the card {letter}") for n, letter in enumerate("abcdef")]
    towers = TowerConfig(dimensions=8, hidden=8, reading=8)
    model = RecommendationModel.build(Catalogue(items, CatalogueConfig()), towers=towers, backbone=backbone)
    model.learn_to_read(model.embed([item.text() for item in items]))
    inputs = [RecommendationInput(likes=(text,)) for text in TEXTS]
    return RecommendationTask(), model, [*inputs, RecommendationInput(history=("i1", "i3"))]


TASKS: Mapping[str, Callable[[str], Asked]] = {
    make.__name__: make for make in (classifier, zero_shot, recogniser, reader, chooser, recommender)
}


def by_the_graph(model: TaskModel[Any, Any, Any], batch: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """The outputs, and how many places of the feeds were padding."""
    graph = model.graph
    assert graph is not None
    found, padding = [], 0
    for feed in graph.feeds(batch):
        padding += int((feed["attention_mask"] == 0).sum())
        assert [feed[put.name].dtype for put in graph.inputs] == [torch.int64] * len(graph.inputs)
        given = graph.module(*(feed[put.name] for put in graph.inputs))
        found.append(dict(zip(graph.outputs, [given] if isinstance(given, Tensor) else given, strict=True)))
    return graph.results(found, batch), padding


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(other[name], value, atol=1e-4, rtol=1e-4, msg=lambda told, name=name: f"{name}: {told}")
        else:
            assert other[name] == value


def kept_apart(task: TaskPlugin[Any, Any, Any], model: TaskModel[Any, Any, Any], folder: Path) -> Artifact:
    folder.mkdir()
    config = model.save_rest(folder)
    manifest = Manifest(model="m", version="1", task=task.name, created="2026-01-01T00:00:00Z", config=config, runtime="onnx")
    return draft_artifact(folder, manifest)


@pytest.mark.parametrize("name", TASKS)
@torch.inference_mode()
def test_the_graph_gives_what_forward_gives(name: str, tiny_bert: str) -> None:
    torch.manual_seed(1)
    _, model, inputs = TASKS[name](tiny_bert)
    model.module.eval()
    batch = model.encode(inputs)
    found, padding = by_the_graph(model, batch)
    assert_same(model.forward(batch), found)
    assert padding <= len(batch["input_ids"]) / 3


@torch.inference_mode()
def test_a_batch_without_texts_needs_no_feed(tiny_bert: str) -> None:
    _, model, _ = recommender(tiny_bert)
    batch = model.encode([RecommendationInput(history=("i1",))])
    assert model.graph is not None
    assert not model.graph.feeds(batch)
    assert_same(model.forward(batch), model.graph.results([], batch))


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "electra", "albert"])
@torch.inference_mode()
def test_other_encoders_have_graphs_too(kind: str, checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint(kind, **({"embedding_size": 16} if kind == "albert" else {}))
    _, model, inputs = classifier(str(folder))
    model.module.eval()
    batch = model.encode(inputs)
    assert_same(model.forward(batch), by_the_graph(model, batch)[0])


@pytest.mark.parametrize("name", TASKS)
@torch.inference_mode()
def test_a_model_without_its_graphs_weights_finishes_what_another_began(name: str, tiny_bert: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    task, model, inputs = TASKS[name](tiny_bert)
    model.module.eval()
    artifact = kept_apart(task, model, tmp_path / "rest")
    heavy = [file for file in artifact.manifest.files if file.startswith("backbone/") and file.endswith(".safetensors")]
    assert not heavy
    rest = task.load(artifact, SharedParts())
    rest.module.eval()
    assert rest.graph is not None
    assert all(weights.is_meta for weights in rest.graph.module.parameters())
    batch = rest.encode(inputs)
    assert model.graph is not None
    feeds = model.graph.feeds(batch)
    outputs = [{"last_hidden_state": model.graph.module(*feed.values())} for feed in feeds]
    assert_same(model.forward(batch), rest.graph.results(outputs, batch))
    with pytest.raises(UnsupportedError, match="the files of the runtime"):
        rest.forward(batch)
    with pytest.raises(UnsupportedError, match="the files of the runtime"):
        rest.save(tmp_path)
    again = kept_apart(task, rest, tmp_path / "again")
    assert again.manifest.files == artifact.manifest.files
    with pytest.raises(UnsupportedError, match="files of another runtime, 'onnx'"):
        TorchRuntime().load(rest, artifact, TorchRuntime().plan(RuntimeConfig(device="cpu")))


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@torch.inference_mode()
def test_the_head_of_a_checkpoint_stays_with_the_model(kind: str, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    model = ClassificationModel.import_checkpoint(str(checkpoint(kind, head=["yes", "no"])))
    artifact = kept_apart(ClassificationTask(), model, tmp_path / "rest")
    model.module.eval()
    rest = ClassificationTask().load(artifact, SharedParts())
    rest.module.eval()
    batch = rest.encode([ClassificationInput(text=text) for text in TEXTS])
    assert model.graph is not None
    assert rest.graph is not None
    outputs = [{"last_hidden_state": model.graph.module(*feed.values())} for feed in model.graph.feeds(batch)]
    assert_same(model.forward(batch), rest.graph.results(outputs, batch))


def test_an_adapter_that_is_apart_is_merged_first(tiny_bert: str, tmp_path: Path) -> None:
    model = ClassificationModel.build(["a", "b"], backbone=tiny_bert, adapter=LoraSettings(r=2))
    with pytest.raises(UnsupportedError, match="merges"):
        model.save_rest(tmp_path)
