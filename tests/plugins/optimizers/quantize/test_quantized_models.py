"""Each mode of quantization makes an artifact that is smaller, says what was done, and answers alike wherever it is read."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from one_export import OneExport

from taskloom.core.artifact import Artifact, DataInfo, Manifest
from taskloom.core.errors import ArtifactError, InvalidInputError, MissingDependencyError, UnsupportedError
from taskloom.core.loader import load_registry
from taskloom.core.optimizer import OptimizeContext
from taskloom.core.optimizing import Optimizing, StepRequest
from taskloom.core.predictor import load_predictor
from taskloom.core.publishing import ModelStory, publish_model
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, TaskModel, TrainRun
from taskloom.plugins.optimizers.quantize import apply
from taskloom.plugins.optimizers.quantize.config import QuantizeConfig
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import ClassificationInput
from taskloom.plugins.tasks.recommendation.catalogue import Catalogue, Item
from taskloom.plugins.tasks.recommendation.model import RecommendationModel
from taskloom.plugins.tasks.recommendation.schema import CatalogueConfig, RecommendationInput, TowerConfig

WORDS = ["where", "is", "my", "card", "lost", "order", "refund", "hello", "the", "a", "我的", "银行", "卡"]
LABELS = ["one", "two", "three"]
CPU = RuntimeConfig(device="cpu", precision="fp32", threads=1)
MODES = ("static", "dynamic", "bf16")
DATA = DataInfo(name="rows.jsonl", sha256="0" * 64, rows=60)


@dataclasses.dataclass(frozen=True)
class World:
    registry: Registry
    store: ModelStore
    parent: Artifact
    rows: list[Example[Any]]
    folder: Path

    def chain(self) -> Optimizing:
        run = TrainRun(work_folder=self.folder / "work", show_progress=False)
        parts = {"train": self.rows[:30], "validation": self.rows[30:]}
        return Optimizing(self.registry, self.parent, **parts, identity=["rows"], run=run, runtime=CPU)

    def optimized(self, **config: Any) -> Artifact:
        chain = self.chain().run([StepRequest(name="quantize", config=config)])
        return publish_model(
            self.store,
            self.registry,
            self.registry.tasks.get("classification"),
            chain.model,
            ModelStory(name="tiny"),
            steps=chain.steps,
            data=[],
            evaluation=self.rows,
            evaluation_data=DATA,
            demanded_runtime=chain.runtime,
            files=chain.files,
            external=chain.external,
            runtime=CPU,
        )

    def answers(self, artifact: Artifact, runtime: str = "auto") -> torch.Tensor:
        """The scores of each label for each row, in the order of the labels."""
        predictor = load_predictor(self.registry, artifact, CPU.model_copy(update={"runtime": runtime}))
        params = predictor.task.Params(top_k=len(LABELS))
        found = predictor.predict([row.input for row in self.rows], [params] * len(self.rows))
        predictor.close()
        rows = [{each.label: each.score for each in answer.labels} for answer in found]
        return torch.tensor([[row[label] for label in LABELS] for row in rows])


@pytest.fixture(scope="module")
def world(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    """A random classifier, and rows whose labels are what it says."""
    folder = tmp_path_factory.mktemp("quantize")
    torch.manual_seed(4)
    model = ClassificationModel.build(LABELS, backbone=str(checkpoint("bert", hidden_size=64, intermediate_size=256)))
    torch.nn.init.normal_(model.module.head.linear.weight, std=0.5)
    model.own_backbone()
    texts = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1 + i % 17)) for i in range(60)]
    inputs = [ClassificationInput(text=text) for text in texts]
    model.module.eval()
    with torch.inference_mode():
        best = model.forward(model.encode(inputs))["logits"].argmax(1).tolist()
    rows = [Example(input=item, target=LABELS[i]) for item, i in zip(inputs, best, strict=True)]
    store = ModelStore([folder / "models"])
    with store.draft("tiny") as draft:
        manifest = Manifest(
            model="tiny",
            task="classification",
            created="2026-01-01T00:00:00Z",
            config=model.save(draft),
            labels=model.labels,
            backbone=model.backbone,
        )
        parent = store.publish(draft, manifest)
    return World(load_registry(), store, parent, rows, folder)


@pytest.fixture(scope="module", autouse=True)
def _one_export(world: World) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "export_onnx", OneExport(world.folder))
        yield


@pytest.fixture(scope="module")
def made(world: World, _one_export: None) -> Mapping[str, Artifact]:
    return {mode: world.optimized(mode=mode, calibration_rows=20) for mode in MODES}


def weights_bytes(artifact: Artifact) -> int:
    """Bytes of the encoder's weights, whatever holds them."""
    ends = (".safetensors", ".bin", ".onnx")
    return sum(file.size_bytes for name, file in artifact.manifest.files.items() if name.endswith(ends) and "/" in name)


@pytest.mark.parametrize("mode", MODES)
def test_a_fresh_process_would_measure_the_same(world: World, made: Mapping[str, Artifact], mode: str) -> None:
    artifact = made[mode]
    assert artifact.manifest.runtime == {"static": "openvino", "dynamic": "onnx", "bf16": ""}[mode]
    predictor = load_predictor(world.registry, artifact, CPU)
    assert predictor.executor.plan.runtime == (artifact.manifest.runtime or "torch")
    assert predictor.executor.plan.precision == {"static": "int8", "dynamic": "int8", "bf16": "fp32"}[mode]
    assert predictor.task.evaluate(predictor, world.rows).metrics == artifact.manifest.metrics
    assert artifact.manifest.metrics["accuracy"] > 0.9, "the labels are what the parent said"
    alone = [predictor.predict_one(row.input).labels[0].score for row in world.rows[:6]]
    together = [answer.labels[0].score for answer in predictor.predict([row.input for row in world.rows])]
    assert alone == pytest.approx(together[:6], abs=1e-4 if mode != "dynamic" else 0.05)


@pytest.mark.parametrize(("mode", "bits"), [("static", "int8"), ("dynamic", "int8"), ("bf16", "bf16")])
def test_the_lineage_says_what_is_in_which_precision(made: Mapping[str, Artifact], mode: str, bits: str) -> None:
    (step,) = made[mode].manifest.steps
    assert step.config["mode"] == mode
    layers = step.facts["layers"]
    if mode == "bf16":
        assert layers.keys() == {"all"}
    else:
        assert layers["linear"] == {bits: 12}
        assert layers["embedding"] == {bits: 3}
        assert step.facts["accuracy"]["drop"] <= 0.1
        assert step.facts["compared"]["cosine_least"] > 0.98


@pytest.mark.parametrize("mode", MODES)
def test_weights_shrink_and_are_in_the_artifact_once(world: World, made: Mapping[str, Artifact], mode: str) -> None:
    share = weights_bytes(made[mode]) / weights_bytes(world.parent)
    assert share < (0.52 if mode == "bf16" else 0.4), "a graph's own structure weighs something in a model this small"
    if mode != "bf16":
        assert not any(name.startswith("backbone/") and "safetensors" in name for name in made[mode].manifest.files)


@pytest.mark.parametrize("mode", MODES)
def test_scores_stay_near_the_parents(world: World, made: Mapping[str, Artifact], mode: str) -> None:
    before, after = world.answers(world.parent), world.answers(made[mode])
    assert 1e-7 < float((before - after).abs().max()) < 0.15


@pytest.mark.parametrize(("mode", "file"), [("static", "graph/model.bin"), ("dynamic", "graph/model.onnx")])
def test_an_altered_graph_is_refused(made: Mapping[str, Artifact], world: World, mode: str, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made[mode].folder, folder)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(ArtifactError, match=file):
        load_predictor(world.registry, Artifact.open(folder), CPU)


def test_nothing_in_a_graph_tells_of_the_machine_that_made_it(made: Mapping[str, Artifact]) -> None:
    import taskloom.plugins

    here = str(Path(taskloom.plugins.__file__).resolve().parent).encode()
    for mode, file in (("static", "graph/model.xml"), ("dynamic", "graph/model.onnx")):
        text = made[mode].path(file).read_bytes()
        assert here not in text
        assert b"site-packages" not in text


def test_layers_that_are_named_stay_as_they_were(world: World) -> None:
    chain = world.chain().run(
        [
            StepRequest(
                name="quantize", config={"mode": "dynamic", "keep": [r"layer\.0\."], "search_s": 0, "calibration_rows": 4}
            )
        ]
    )
    assert chain.steps[0].facts["layers"]["linear"] == {"int8": 6, "fp32": 6}
    assert "accuracy" not in chain.steps[0].facts


class RuleModel(TaskModel[Any, Any, Any]):
    """Has neither weights nor a graph."""

    def encode(self, inputs: Sequence[Any]) -> Mapping[str, Any]:
        return {}

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    def decode(self, outputs: Mapping[str, Any], inputs: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        return []

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


@pytest.mark.parametrize(("mode", "told"), [("static", "no part of a RuleModel is a graph"), ("bf16", "has no weights")])
def test_a_model_that_can_not_be_quantized_is_refused_with_the_reason(world: World, mode: Any, told: str) -> None:
    run = TrainRun(work_folder=world.folder / "rule", show_progress=False)
    task = world.registry.tasks.get("classification")
    context = OptimizeContext(task, world.parent, world.rows, world.rows, run, lambda _: {})
    with pytest.raises(UnsupportedError, match=told):
        world.registry.optimizers.get("quantize").apply(RuleModel(), QuantizeConfig(mode=mode), context)


def test_static_ranges_need_rows(world: World) -> None:
    chain = Optimizing(
        world.registry,
        world.parent,
        train=[],
        validation=[],
        identity=["nothing"],
        run=TrainRun(work_folder=world.folder / "work", show_progress=False),
    )
    with pytest.raises(InvalidInputError, match="rows to calibrate with"):
        chain.run([StepRequest(name="quantize")])


def test_a_recommender_of_histories_is_calibrated_by_its_items_in_words(tiny_bert: str) -> None:
    items = [Item(item=f"i{n}", title=f"the {WORDS[n % 10]} {WORDS[n // 3]}") for n in range(24)]
    model = RecommendationModel.build(
        Catalogue(items, CatalogueConfig()), backbone=tiny_bert, towers=TowerConfig(dimensions=8, hidden=8, reading=8)
    )
    rows = [
        Example(input=RecommendationInput(history=tuple(f"i{(n + k) % 24}" for k in range(5))), target=None) for n in range(30)
    ]
    graph = model.graph
    assert graph is not None
    before = torch.get_rng_state()
    feeds = apply._feeds(model, graph, rows, QuantizeConfig(calibration_rows=20))
    assert 3 <= len(feeds) <= 20
    assert torch.equal(before, torch.get_rng_state())
    again = apply._feeds(model, graph, rows, QuantizeConfig(calibration_rows=20))
    assert all((one[name] == other[name]).all() for one, other in zip(feeds, again, strict=True) for name in one)
    asked = [Example(input=RecommendationInput(likes=("hello the card",)), target=None), *rows]
    assert len(apply._feeds(model, graph, asked, QuantizeConfig(calibration_rows=100))) > 10, (
        "one that says something is not all"
    )


def test_nothing_follows_a_graph(world: World, made: Mapping[str, Artifact]) -> None:
    steps = [StepRequest(name="quantize", config={"mode": "dynamic", "calibration_rows": 20}), StepRequest(name="quantize")]
    with pytest.raises(UnsupportedError, match="last step"):
        world.chain().run(steps)
    quantize = world.registry.optimizers.get("quantize")
    with pytest.raises(UnsupportedError, match="quantized already"):
        quantize.check(world.registry.tasks.get("classification"), made["static"], QuantizeConfig())


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"mode": "int4"}, "4-bit weights"),
        ({"mode": "fp8"}, "fp8 tensor cores"),
        ({"mode": "static", "runtime": "onnx"}, "'dynamic' for 'onnx'"),
        ({"mode": "bf16", "runtime": "onnx"}, "any runtime"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(world: World, config: dict[str, Any], told: str) -> None:
    with pytest.raises(UnsupportedError, match=told):
        world.chain().run([StepRequest(name="quantize", config=config)])


def test_a_missing_package_is_named_with_its_extra(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskloom.plugins.optimizers.quantize import plugin

    monkeypatch.setattr(plugin, "find_spec", lambda name: None if name == "nncf" else object())
    with pytest.raises(MissingDependencyError, match=r"nncf; run: pip install 'taskloom\[optimize\]'"):
        world.chain().run([StepRequest(name="quantize")])
