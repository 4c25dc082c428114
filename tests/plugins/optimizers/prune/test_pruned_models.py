"""Pruning a model of each kind: what goes, what is said of it, and that what is saved answers as what was measured."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from taskloom.core.artifact import Artifact, Manifest
from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.loader import load_registry
from taskloom.core.optimizing import Chain, Optimizing, StepRequest
from taskloom.core.publishing import draft_artifact
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, SharedParts, TaskModel, TrainRun
from taskloom.plugins._shared import packed
from taskloom.plugins._shared.packed import linear_seconds
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.optimizers.prune import apply, latency
from taskloom.plugins.optimizers.prune.importance import importances
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import ClassificationInput
from taskloom.plugins.tasks.ner.model import NerModel
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.recommendation.catalogue import Catalogue, Item
from taskloom.plugins.tasks.recommendation.model import RecommendationModel
from taskloom.plugins.tasks.recommendation.schema import CatalogueConfig, HeldOut, RecommendationInput, TowerConfig
from taskloom.plugins.tasks.recommendation.vectors import ItemVectors
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.schema import NetworkSettings, VisionInput

DATA = Path(__file__).parents[3] / "data"
CPU = RuntimeConfig(device="cpu", precision="fp32", threads=1)
WORDS = ["where", "is", "my", "card", "lost", "order", "refund", "hello", "the", "a"]
QUICK: dict[str, Any] = {"importance_rows": 8, "timed_rows": 2, "epochs": 0, "units_multiple": 16}
PARAMETERS = {**QUICK, "target": "parameters", "share": 0.85}

Model = TaskModel[Any, Any, Any]


def published(folder: Path, task: str, model: Model) -> Artifact:
    store = ModelStore([folder / "models"])
    with store.draft("tiny") as draft:
        config = model.save(draft)
        manifest = Manifest(
            model="tiny",
            task=task,
            created="2026-01-01T00:00:00Z",
            config=config,
            labels=model.labels,
            backbone=model.backbone,
        )
        return store.publish(draft, manifest)


def optimized(folder: Path, task: str, model: Model, rows: list[Example[Any]], config: dict[str, Any]) -> Chain:
    parent = published(folder, task, model)
    run = TrainRun(work_folder=folder / "work", show_progress=False)
    half = len(rows) // 2
    chain = Optimizing(
        load_registry(), parent, train=rows[:half], validation=rows[half:], identity=["rows"], run=run, runtime=CPU
    )
    return chain.run([StepRequest(name="prune", config=config)])


def classifier(tiny_bert: str) -> tuple[Model, list[Example[Any]]]:
    torch.manual_seed(4)
    model = ClassificationModel.build(["one", "two"], backbone=tiny_bert)
    texts = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1 + i % 7)) for i in range(24)]
    rows = [Example(input=ClassificationInput(text=text), target=("one", "two")["card" in text]) for text in texts]
    return model, rows


def recogniser(tiny_bert: str) -> tuple[Model, list[Example[Any]]]:
    torch.manual_seed(4)
    rows = list(load_registry().tasks.get("ner").read_examples(DATA / "wikigold-sample.jsonl"))[:16]
    return NerModel.build(["PER", "ORG", "LOC", "MISC"], backbone=tiny_bert), rows


def reader(tiny_bert: str) -> tuple[Model, list[Example[Any]]]:
    torch.manual_seed(4)
    rows = list(load_registry().tasks.get("qa").read_examples(DATA / "squadshifts-sample.json"))[:12]
    return QaModel.build(backbone=tiny_bert), rows


def image_classifier(_: str) -> tuple[Model, list[Example[Any]]]:
    torch.manual_seed(4)
    network = NetworkSettings(stem_width=16, widths=(16, 24), blocks=(0, 2))
    rows = []
    for i in range(16):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (i * 15, 128, 255 * (i % 2))).save(file, "PNG")
        rows.append(Example(input=VisionInput(image=file.getvalue()), target="ab"[i % 2]))
    return VisionModel.build(["a", "b"], network=network, size=16), rows


def recommender(tiny_bert: str) -> tuple[Model, list[Example[Any]]]:
    torch.manual_seed(4)
    items = [Item(item=f"{word}-{i}", title=f"the {word} {chr(97 + i)}") for word in WORDS[:6] for i in range(4)]
    made = RecommendationModel.build(
        Catalogue(items, CatalogueConfig()), backbone=tiny_bert, towers=TowerConfig(dimensions=8, hidden=8, reading=8)
    )
    made.learn_to_read(made.embed([item.text() for item in items]))
    vectors = ItemVectors.rounded(torch.randn(24, 8), torch.rand(24, 1), torch.randn(24, 8))
    parts: dict[str, Any] = {"catalogue": made.catalogue, "users": made.users, "vectors": vectors}
    rows = [
        Example(
            input=RecommendationInput(history=tuple(items[(i + 5 * k) % 24].item for k in range(4))),
            target=HeldOut(warm=(items[(i + 3) % 24].item,)),
        )
        for i in range(24)
    ]
    return RecommendationModel(made.parts, made.towers, made.saved, **parts), rows


MAKERS: dict[str, Callable[[str], tuple[Model, list[Example[Any]]]]] = {
    "classification": classifier,
    "ner": recogniser,
    "qa": reader,
    "vision": image_classifier,
    "recommendation": recommender,
}


@pytest.mark.parametrize("task", MAKERS)
def test_what_is_pruned_is_saved_and_read_again(task: str, tiny_bert: str, tmp_path: Path) -> None:
    model, rows = MAKERS[task](tiny_bert)
    chain = optimized(tmp_path, task, model, rows, {**PARAMETERS, "epochs": 1, "share": 0.6 if task == "vision" else 0.85})
    facts = chain.steps[0].facts
    share = facts["parameters_after"] / facts["parameters_before"]
    assert share <= (0.6 if task == "vision" else 0.85)
    assert share == pytest.approx(facts["predicted_share"], abs=0.02)
    assert facts["parameters_after"] == sum(p.numel() for p in chain.model.module.parameters())
    assert any(len(kept["parts"]) < kept["of"] for kept in facts["kept"].values())
    assert {"validation_before", "validation_pruned", "validation_recovered", "recovery_kept"} <= set(facts)
    again = tmp_path / "again"
    again.mkdir()
    manifest = Manifest(
        model="tiny", task=task, created="2026-01-01T00:00:00Z", config=chain.model.save(again), labels=chain.model.labels
    )
    reloaded = load_registry().tasks.get(task).load(draft_artifact(again, manifest), SharedParts())
    inputs = [row.input for row in rows]
    reloaded.module.eval()
    chain.model.module.eval()
    with torch.inference_mode():
        batch = chain.model.encode(inputs)
        expected = chain.model.distillation_targets(chain.model.forward(batch))
        found = reloaded.distillation_targets(reloaded.forward(batch))
    assert expected
    assert all(torch.equal(found[name].values, target.values) for name, target in expected.items())


@pytest.mark.parametrize("how", ["fisher", "gradient"])
def test_a_useless_head_and_a_useless_unit_are_found(tiny_bert: str, how: Any) -> None:
    model, rows = classifier(tiny_bert)
    layer = model.parts.backbone.model.encoder.layer[1]  # type: ignore[attr-defined]
    with torch.no_grad():
        layer.attention.output.dense.weight[:, 16:24] = 0  # the third of four heads of 8
        layer.output.dense.weight[:, 7] = 0
    parts = {s.name: s for s in model.structures() if s.name in {"layers.1.heads", "layers.1.units"}}
    found = importances(model, list(parts.values()), rows[:6], how)
    assert found["layers.1.heads"].argmin() == 2
    assert found["layers.1.units"].argmin() == 7
    assert found["layers.1.heads"][[0, 1, 3]].min() > 0
    assert sum(found["layers.1.units"] == 0) == 1


def test_fisher_is_the_mean_of_squares_over_rows(tiny_bert: str) -> None:
    model, rows = classifier(tiny_bert)
    part = [s for s in model.structures() if s.name == "layers.0.heads"]
    each = [importances(model, part, [row], "gradient")["layers.0.heads"] for row in rows[:3]]
    assert torch.allclose(importances(model, part, rows[:3], "fisher")["layers.0.heads"], torch.stack(each).square().mean(0))


def test_the_latency_target_is_met_by_the_prediction(tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_size(models: Any, *_: Any) -> list[float]:
        """Times of a machine that takes a microsecond for each parameter, whatever else runs on it."""
        return [1e-6 * sum(p.numel() for p in model.module.parameters()) for model in models]

    monkeypatch.setattr(latency, "times", by_size)
    monkeypatch.setattr(apply, "times", by_size)
    model, rows = classifier(tiny_bert)
    facts = optimized(tmp_path, "classification", model, rows, {**QUICK, "share": 0.85}).steps[0].facts
    assert facts["predicted_share"] <= 0.85 + 1e-9
    assert facts["measured_latency_share"] == pytest.approx(facts["predicted_share"], abs=1e-6)
    assert facts["measured_latency_share"] == pytest.approx(facts["parameters_after"] / facts["parameters_before"])
    assert {curve["sizes"][-1] for curve in facts["table"]["curves"]} == {4, 64}
    assert all(curve["seconds"] == sorted(curve["seconds"]) for curve in facts["table"]["curves"])
    assert all(len(kept["parts"]) >= 1 for kept in facts["kept"].values())
    assert {len(kept["parts"]) % 16 for name, kept in facts["kept"].items() if "units" in name} == {0}


@pytest.mark.skipif(math.isinf(linear_seconds(torch.float32, packed=True)), reason="this torch has no packed kernels of oneDNN")
@pytest.mark.parametrize(("gain", "packs"), [(2.0, True), (1.0, False)])
def test_models_are_timed_with_their_weights_as_they_are_served(
    gain: float, packs: bool, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "packing_gain", lambda _: gain)
    called: list[torch.Tensor] = []
    computed = packed.packed_linear
    monkeypatch.setattr(packed, "packed_linear", lambda x, weight, bias: called.append(weight) or computed(x, weight, bias))
    model, rows = classifier(tiny_bert)
    batch = model.encode([row.input for row in rows])
    [seconds] = latency.times([model], [batch], rounds=1)
    assert seconds > 0
    assert bool(called) == packs
    assert not any(isinstance(part, packed.PackedLinear) for part in model.module.modules())


def test_a_recommender_is_timed_where_it_reads_words(tiny_bert: str, tmp_path: Path) -> None:
    """Requests with a history alone never run its encoder: what a part of that saves can't be seen in their times."""
    model, rows = recommender(tiny_bert)
    reading = [structure for structure in model.structures() if structure.kind != "layers"]
    asked = model.encode([row.input for row in rows])
    assert not latency.runs_through(model, reading, asked)
    told = model.encode([RecommendationInput(likes=("lost order",))])
    assert latency.runs_through(model, reading, told)
    facts = optimized(tmp_path, "recommendation", model, rows, PARAMETERS).steps[0].facts
    assert facts["timed_on"] == "training rows"


def test_zeros_leave_the_towers_of_a_recommender_alone(tiny_bert: str, tmp_path: Path) -> None:
    """Its items' vectors were made with them."""
    model, rows = recommender(tiny_bert)
    before = {name: weight.clone() for name, weight in model.module.head.state_dict().items()}
    chain = optimized(tmp_path, "recommendation", model, rows, {**QUICK, "kind": "magnitude", "epochs": 1})
    after = chain.model.module.head.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert chain.steps[0].facts["zeros"] > 0


def test_whole_layers_go_first(tiny_bert: str, tmp_path: Path) -> None:
    model, rows = classifier(tiny_bert)
    facts = optimized(tmp_path, "classification", model, rows, {**PARAMETERS, "layers": 1, "share": 0.78}).steps[0].facts
    assert len(facts["kept_layers"]) == 1
    assert {name.split(".")[1] for name in facts["kept"]} == {"0"}


def test_a_target_out_of_reach_says_what_to_do(tiny_bert: str, tmp_path: Path) -> None:
    model, rows = classifier(tiny_bert)
    with pytest.raises(ConfigError, match="raise share, or take out whole layers"):
        optimized(tmp_path, "classification", model, rows, {**PARAMETERS, "share": 0.01})


def test_magnitude_says_what_it_is(tiny_bert: str, tmp_path: Path) -> None:
    model, rows = classifier(tiny_bert)
    before = sum(p.numel() for p in model.module.parameters())
    chain = optimized(tmp_path, "classification", model, rows, {**QUICK, "kind": "magnitude", "sparsity": 0.8, "epochs": 2})
    facts = chain.steps[0].facts
    assert "buy no speed" in facts["what_it_is"]
    assert facts["zeros_share_of_layers"] == pytest.approx(0.8, abs=0.01)  # the training has left the zeros where they were
    assert sum(p.numel() for p in chain.model.module.parameters()) == before
    weights = [m.weight for m in chain.model.module.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(int((w == 0).sum()) for w in weights) == facts["zeros"]  # saved, though the parent's backbone was only named


def test_zeros_stay_in_a_model_that_was_trained_as_an_adapter(tiny_bert: str, tmp_path: Path) -> None:
    _, rows = classifier(tiny_bert)
    model = ClassificationModel.build(["one", "two"], backbone=tiny_bert, adapter=LoraSettings(r=2))
    chain = optimized(tmp_path, "classification", model, rows, {**QUICK, "kind": "magnitude", "sparsity": 0.8, "epochs": 1})
    assert chain.steps[0].facts["zeros_share_of_layers"] == pytest.approx(0.8, abs=0.01)


def test_two_of_four_needs_a_gpu(tiny_bert: str, tmp_path: Path) -> None:
    model, rows = classifier(tiny_bert)
    with pytest.raises(UnsupportedError, match="sparse tensor cores"):
        optimized(tmp_path, "classification", model, rows, {**QUICK, "kind": "2:4"})


def checkpoint_folder(folder: Path, kind: str, **shape: Any) -> str:
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(4)
    classes: Any = AutoModelForImageClassification  # its methods have no types
    config = AutoConfig.for_model(kind, id2label={0: "a", 1: "b"}, num_labels=2, **shape)
    classes.from_config(config).save_pretrained(folder / kind)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / kind)
    return str(folder / kind)


VIT = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def test_an_imported_vision_transformer_loses_layers_heads_and_units(tmp_path: Path) -> None:
    _, rows = image_classifier("")
    model = VisionModel.import_checkpoint(checkpoint_folder(tmp_path, "vit", **VIT))
    config = {**PARAMETERS, "layers": 1, "share": 0.5, "epochs": 1}
    chain = optimized(tmp_path, "vision", model, rows, config)
    facts = chain.steps[0].facts
    assert len(facts["kept_layers"]) == 2
    assert facts["parameters_after"] <= 0.5 * facts["parameters_before"]
    assert {name.split(".")[2] for name, kept in facts["kept"].items() if len(kept["parts"]) < kept["of"]} == {"heads", "units"}
    again = tmp_path / "again"
    again.mkdir()
    saved = chain.model.save(again)
    manifest = Manifest(model="tiny", task="vision", created="2026-01-01T00:00:00Z", config=saved, labels=chain.model.labels)
    reloaded = load_registry().tasks.get("vision").load(draft_artifact(again, manifest), SharedParts())
    with torch.inference_mode():
        batch = chain.model.encode([row.input for row in rows])
        assert torch.equal(reloaded.forward(batch)["logits"], chain.model.forward(batch)["logits"])


def test_what_has_nothing_to_take_out_is_told_so(tmp_path: Path) -> None:
    _, rows = image_classifier("")
    folder = checkpoint_folder(tmp_path, "resnet", embedding_size=8, hidden_sizes=[8], depths=[1])
    with pytest.raises(UnsupportedError, match="no heads, units or channels"):
        optimized(tmp_path, "vision", VisionModel.import_checkpoint(folder), rows, QUICK)
