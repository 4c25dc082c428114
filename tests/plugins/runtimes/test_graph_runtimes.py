"""ONNX Runtime and OpenVINO run a model's graph, and the model answers as it does by torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from one_export import OneExport

from taskloom.core.anatomy import Graph, GraphInput
from taskloom.core.artifact import Manifest
from taskloom.core.errors import ArtifactError, ConfigError, MissingDependencyError, UnsupportedError
from taskloom.core.loader import load_registry
from taskloom.core.ports import WorkItem
from taskloom.core.predictor import Predictor, choose_runtime, load_predictor
from taskloom.core.publishing import draft_artifact, write_model
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig, RuntimePlugin
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts, TaskModel
from taskloom.core.testing import EDGE_TEXTS
from taskloom.core.testing.conformance import assert_close, plain
from taskloom.plugins._shared import graph_export
from taskloom.plugins._shared.graph_export import ONNX_FILE, export_onnx
from taskloom.plugins.runtimes import onnx, openvino
from taskloom.plugins.runtimes.onnx import OnnxRuntime
from taskloom.plugins.runtimes.openvino import OpenVinoRuntime
from taskloom.plugins.tasks.ner.model import NerModel
from taskloom.plugins.tasks.ner.plugin import NerTask
from taskloom.plugins.tasks.ner.schema import NerInput
from taskloom.server.engine.host import ModelHost
from taskloom.server.engine.spec import ModelVersion, ReplicaSpec

TEXTS = ["where is my card", "a", "hello, the order is lost. refund? " * 30, "我的银行卡在哪里", "is the card here", "a"]
INPUTS = [NerInput(text=text) for text in TEXTS]
FP32 = RuntimeConfig(precision="fp32", device="cpu", threads=1)
ENGINES = (OnnxRuntime(), OpenVinoRuntime())


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="module", autouse=True)
def _one_export(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_export, "export_onnx", OneExport(tmp_path_factory.mktemp("graph")))
        yield


@pytest.fixture(scope="module")
def model(tiny_bert: str) -> NerModel:
    torch.manual_seed(6)
    made = NerModel.build(["PER", "ORG"], backbone=tiny_bert)
    for parameter in made.module.head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    made.own_backbone()
    return made


@pytest.fixture(scope="module")
def store(model: NerModel, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Version 1 holds weights; version 2 holds its graph for ONNX Runtime instead."""
    store = ModelStore([tmp_path_factory.mktemp("models")])
    known = {"model": "tiny", "task": "ner", "created": "2026-01-01T00:00:00Z", "labels": model.labels}
    with store.draft("tiny") as draft:
        store.publish(draft, Manifest(**known, config=write_model(draft, model, {})))
    with store.draft("tiny") as draft:
        graph_export.export_onnx(model.graph, draft / "g")
        files = {ONNX_FILE: (draft / "g").rename(draft.parent / "g.onnx")}
        config = write_model(draft, model, files, external=True)
        store.publish(draft, Manifest(**known, config=config, runtime="onnx"))
        files[ONNX_FILE].unlink()
    return store


def answers(predictor: Predictor[Any, Any, Any]) -> list[Any]:
    return [plain(answer) for answer in predictor.predict(INPUTS)]


@pytest.fixture(scope="module")
def by_torch(registry: Registry, store: ModelStore) -> list[Any]:
    return answers(load_predictor(registry, store.resolve("tiny@1"), FP32))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_ordinary_model_answers_as_by_torch(
    registry: Registry, store: ModelStore, by_torch: list[Any], runtime: str
) -> None:
    predictor = load_predictor(registry, store.resolve("tiny@1"), FP32.model_copy(update={"runtime": runtime}))
    assert (predictor.executor.plan.runtime, predictor.executor.plan.precision) == (runtime, "fp32")
    assert_close(answers(predictor), by_torch, 1e-4)
    for item, answer in zip(INPUTS, by_torch, strict=True):
        assert_close(plain(predictor.predict_one(item)), answer, 1e-4)
    assert any(answer["entities"] for answer in by_torch)
    outputs = predictor.executor.run(predictor.model.encode(INPUTS))
    assert outputs["logits"].dtype == torch.float32
    for name, text in EDGE_TEXTS.items():
        if "very long" not in name and "surrogate" not in name:
            predictor.predict_one(NerInput.model_construct(text=text))


def test_an_artifact_with_its_graph_is_run_by_its_runtime_in_process_and_in_a_replica(
    registry: Registry, store: ModelStore, by_torch: list[Any]
) -> None:
    artifact = store.resolve("tiny@2")
    assert not any(name.startswith("backbone/") and "safetensors" in name for name in artifact.manifest.files)
    assert_close(answers(load_predictor(registry, artifact, FP32)), by_torch, 1e-4)
    host = ModelHost(ReplicaSpec("default", (ModelVersion("tiny", "2"),), store.roots), registry, store)
    host.load()
    asked = [WorkItem(request_id=str(i), model="tiny", input={"text": text}, params={}) for i, text in enumerate(TEXTS)]
    assert_close([result.output for result in host.run(asked).results], by_torch, 1e-4)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_weights_that_are_nowhere_are_missed_by_name(engine: RuntimePlugin, model: NerModel, tmp_path: Path) -> None:
    manifest = Manifest(model="m", version="3", task="ner", created="2026-01-01T00:00:00Z", config=model.save_rest(tmp_path))
    artifact = draft_artifact(tmp_path, manifest)
    rest = NerTask().load(artifact, SharedParts())
    with pytest.raises(ArtifactError, match=r"m@3 has neither weights of its own nor graph/model.*--with quantize"):
        engine.load(rest, artifact, engine.plan(FP32))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_a_file_that_is_no_graph_is_refused(engine: RuntimePlugin, model: NerModel, tmp_path: Path) -> None:
    names = graph_export.OPENVINO_FILES if engine.name == "openvino" else (ONNX_FILE,)
    (tmp_path / "graph").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"nonsense")
    manifest = Manifest(model="m", version="3", task="ner", created="2026-01-01T00:00:00Z", config=model.save_rest(tmp_path))
    artifact = draft_artifact(tmp_path, manifest)
    with pytest.raises(ArtifactError, match="can't read model"):
        engine.load(NerTask().load(artifact, SharedParts()), artifact, engine.plan(FP32))


class RuleModel(TaskModel[Any, Any, Any]):
    """Has no graph."""

    def encode(self, inputs: Sequence[Any]) -> Mapping[str, Any]:
        return {}

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    def decode(self, outputs: Mapping[str, Any], inputs: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        return []

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_what_can_not_be_had_is_refused(engine: RuntimePlugin) -> None:
    with pytest.raises(UnsupportedError, match="no part of a RuleModel is a graph"):
        engine.load(RuleModel(), None, engine.plan(FP32))
    for asked in ({"device": "cuda"}, {"precision": "fp16"}, {"precision": "int8"}):
        with pytest.raises(ConfigError, match=f"{engine.name}|quantize"):
            engine.plan(RuntimeConfig(**asked))
    assert engine.plan(RuntimeConfig(threads=3)).threads == 3
    assert engine.environment(RuntimeConfig(threads=3))["OMP_NUM_THREADS"] == "3"


def test_a_precision_that_is_asked_of_one_runtime_leaves_a_model_of_another_as_it_is(
    registry: Registry, store: ModelStore
) -> None:
    asked = RuntimeConfig(precision="bf16", device="cpu", threads=1)
    with pytest.raises(ConfigError, match="onnx"):
        load_predictor(registry, store.resolve("tiny@2"), asked)
    of_torch = asked.model_copy(update={"precision_of": "torch"})
    plans = [load_predictor(registry, store.resolve(name), of_torch).executor.plan for name in ("tiny@1", "tiny@2")]
    assert [(plan.runtime, plan.precision) for plan in plans] == [("torch", "bf16"), ("onnx", "fp32")]


@pytest.mark.parametrize(("module", "package"), [(onnx, "onnxruntime"), (openvino, "openvino")])
def test_a_runtime_that_is_not_installed_says_how_to_get_it(
    registry: Registry, module: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else object())
    name = module.__name__.rpartition(".")[2]
    with pytest.raises(
        MissingDependencyError, match=rf"{package} is not installed; run: pip install 'taskloom\[local,{name}\]'"
    ):
        choose_runtime(registry, name)
    assert choose_runtime(registry, "auto").name == "torch"


def test_a_graph_that_torch_can_not_trace_is_refused_with_the_cause(tmp_path: Path) -> None:
    class Fickle(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if bool((x > 0).all()) else -x

    graph = Graph(Fickle(), (GraphInput(name="x", dtype="float32", dims=("n",)),), ("y",), lambda _: [], lambda _, batch: batch)
    with pytest.raises(UnsupportedError, match="can't be written as ONNX"):
        export_onnx(graph, tmp_path / "x.onnx")


def test_openvino_sends_nothing_and_writes_nothing_at_home() -> None:
    import os
    import subprocess
    import sys

    script = "; ".join(
        [
            "import sys",
            "from taskloom.plugins._shared.engines import import_openvino, import_nncf",
            "import_openvino(), import_nncf()",
            "loaded = [name for name in sys.modules if name.startswith('openvino_telemetry')]",
            "assert not loaded, loaded",
        ]
    )
    environment = {**os.environ, "HOME": os.environ["TASKLOOM_HOME"]}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr
    assert not Path(environment["HOME"], "intel").exists()
