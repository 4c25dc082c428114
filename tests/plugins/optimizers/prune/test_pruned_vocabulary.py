"""Taking the pieces that no training row has out of a model: alone, with its heads and units, and before other optimizers."""

from __future__ import annotations

import io
import string
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
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, SharedParts, TaskModel, TrainRun
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import ClassificationInput
from taskloom.plugins.tasks.embedding.model import EmbeddingModel
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingTarget
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.schema import NetworkSettings, VisionInput

CPU = RuntimeConfig(device="cpu", precision="fp32", threads=1)
INSIDE = tuple(f"##{c}" for c in string.ascii_lowercase)
WORDS = ["where", "is", "my", "card", "lost", "order"]
ALONE = {"vocabulary": "seen", "share": 1, "epochs": 0, "timed_rows": 2}
BOTH = {
    **ALONE,
    "share": 0.7,
    "target": "parameters",
    "importance_rows": 4,
    "units_multiple": 16,
    "epochs": 1,
}

Model = TaskModel[Any, Any, Any]


def optimized(folder: Path, task: str, model: Model, rows: list[Example[Any]], *steps: StepRequest) -> Chain:
    store = ModelStore([folder / "models"])
    with store.draft("tiny") as draft:
        manifest = Manifest(
            model="tiny",
            task=task,
            created="2026-01-01T00:00:00Z",
            config=model.save(draft),
            labels=model.labels,
            backbone=model.backbone,
        )
        parent = store.publish(draft, manifest)
    run = TrainRun(work_folder=folder / "work", show_progress=False)
    chain = Optimizing(load_registry(), parent, train=rows[:16], validation=rows[16:], identity=["rows"], run=run, runtime=CPU)
    return chain.run(steps)


@pytest.fixture
def classifier(checkpoint: Callable[..., Path]) -> Model:
    """An adapter and a head on a backbone that is found by its name."""
    torch.manual_seed(4)
    backbone = str(checkpoint("bert", pieces=INSIDE))
    model = ClassificationModel.build(["one", "two"], backbone=backbone, adapter=LoraSettings(r=2, target_modules=("query",)))
    for name, parameter in model.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert model.saved.form == "adapter"
    return model


@pytest.fixture
def rows() -> list[Example[Any]]:
    texts = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1 + i % 7)) for i in range(24)]
    return [Example(input=ClassificationInput(text=text), target=("one", "two")["card" in text]) for text in texts]


def logits(model: Model, texts: list[str]) -> torch.Tensor:
    model.module.eval()
    with torch.inference_mode():
        found: torch.Tensor = model.forward(model.encode([ClassificationInput(text=text) for text in texts]))["logits"]
    return found


def test_rows_are_answered_as_before_and_other_words_still(classifier: Model, rows: list[Example[Any]], tmp_path: Path) -> None:
    chain = optimized(tmp_path, "classification", classifier, rows, StepRequest(name="prune", config=ALONE))
    parent = load_registry().tasks.get("classification").load(Artifact.open(tmp_path / "models/tiny/1"), SharedParts())
    texts = [row.input.text for row in rows]
    assert torch.allclose(logits(chain.model, texts), logits(parent, texts), atol=1e-5)
    assert not torch.allclose(logits(chain.model, ["refund"]), logits(parent, ["refund"]), atol=1e-3)
    assert logits(chain.model, ["hello refund", "zebra!"]).isfinite().all()
    told = chain.steps[0].facts["vocabulary"]
    assert (told["of"], told["validation_tokens_after"]) == (5 + 16 + 12 + 52, told["validation_tokens_before"])
    assert told["pieces"] < told["of"]
    saved = chain.artifact.manifest
    assert saved.config["form"] == "full"
    assert {"backbone/tokenizer.json", "backbone/model.safetensors"} <= set(saved.files)
    lost = chain.steps[0].facts["parameters_before"] - chain.steps[0].facts["parameters_after"]
    assert lost == 32 * (told["of"] - told["pieces"])


def test_an_embedder_keeps_the_words_of_its_passages(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    model = EmbeddingModel.build(backbone=str(checkpoint("bert", pieces=INSIDE)))
    target = EmbeddingTarget(positives=("lost order",), negatives=("refund",))
    rows = [Example(input=EmbeddingInput(text="where is my card", kind="query"), target=target) for _ in range(20)]
    chain = optimized(tmp_path, "embedding", model, rows, StepRequest(name="prune", config=ALONE))
    names = chain.model.parts.tokenizer.processor.get_vocab()  # type: ignore[attr-defined]
    assert {"where", "card", "lost", "order", "refund"} <= set(names)
    assert "hello" not in names


def test_a_piece_that_is_too_rare_goes_too(classifier: Model, rows: list[Example[Any]], tmp_path: Path) -> None:
    rows[3] = Example(input=ClassificationInput(text="refund"), target="one")
    often = StepRequest(name="prune", config={**ALONE, "seen_at_least": 2})
    chain = optimized(tmp_path, "classification", classifier, rows, often)
    names = chain.model.parts.tokenizer.processor.get_vocab()  # type: ignore[attr-defined]
    assert "card" in names
    assert "refund" not in names


@pytest.mark.parametrize("later", [["quantize"], ["distill", "quantize"]])
def test_other_optimizers_go_on_from_it(classifier: Model, rows: list[Example[Any]], tmp_path: Path, later: list[str]) -> None:
    settings: dict[str, dict[str, Any]] = {"quantize": {"mode": "dynamic"}, "distill": {"epochs": 1}}
    steps = [StepRequest(name="prune", config=BOTH), *(StepRequest(name=name, config=settings[name]) for name in later)]
    chain = optimized(tmp_path, "classification", classifier, rows, *steps)
    facts = chain.steps[0].facts
    assert facts["parameters_after"] <= 0.7 * facts["parameters_before"]
    assert any(len(kept["parts"]) < kept["of"] for kept in facts["kept"].values())
    assert chain.runtime == "onnx"
    assert chain.external
    tokenizer = chain.model.parts.tokenizer.processor  # type: ignore[attr-defined]
    assert len(tokenizer) == facts["vocabulary"]["pieces"]


def test_recovery_trains_the_layers_that_an_adapter_had_frozen(
    classifier: Model, rows: list[Example[Any]], tmp_path: Path
) -> None:
    config = {**BOTH, "vocabulary": "whole", "share": 0.85}
    chain = optimized(tmp_path, "classification", classifier, rows, StepRequest(name="prune", config=config))
    facts = chain.steps[0].facts
    table = chain.model.parts.backbone.model.get_input_embeddings().weight.numel()  # type: ignore[attr-defined]
    assert facts["recovery"]["trained_parameters"] == facts["parameters_after"] - table


def test_what_has_no_vocabulary_is_told_so(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    rows: list[Example[Any]] = [Example(input=VisionInput(image=file.getvalue()), target="ab"[i % 2]) for i in range(20)]
    model = VisionModel.build(["a", "b"], network=NetworkSettings(stem_width=16, widths=(16,), blocks=(1,)), size=16)
    with pytest.raises(UnsupportedError, match="no text encoder whose vocabulary could shrink"):
        optimized(tmp_path, "vision", model, rows, StepRequest(name="prune", config=ALONE))


def test_asking_for_nothing_is_an_error(classifier: Model, rows: list[Example[Any]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing goes"):
        optimized(tmp_path, "classification", classifier, rows, StepRequest(name="prune", config={"share": 1}))


def test_zeros_and_a_smaller_vocabulary_are_two_things(classifier: Model, rows: list[Example[Any]], tmp_path: Path) -> None:
    config = {"kind": "magnitude", "vocabulary": "seen"}
    with pytest.raises(ConfigError, match="makes zeros and takes nothing out"):
        optimized(tmp_path, "classification", classifier, rows, StepRequest(name="prune", config=config))
