"""Prompt and prefix tuning of a classifier: learnt within the budget, kept as a file of their own, served beside others, and
what other steps make of such a model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import Steps, published, shuffled_words

from taskloom.core.artifact import Artifact
from taskloom.core.errors import UnsupportedError
from taskloom.core.optimizing import StepRequest
from taskloom.core.predictor import load_predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import Example
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.backbones.virtual_tokens import VirtualMethod, VirtualTokens
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import ClassificationInput, ClassificationParams

WORDS = ["where", "is", "my", "lost", "refund", "hello", "the", "a"]
FAST: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 5e-2,
    "head_learning_rate": 1e-2,
    "ema_decay": 0.0,
    "early_stopping_patience": 0,
    "budget": 0.2,
    "precision": "fp32",
    "device": "cpu",
}
AGAIN = """
import json, sys
from pathlib import Path
from taskloom.core.artifact import Artifact
from taskloom.core.loader import load_registry
from taskloom.core.predictor import load_predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.plugins.tasks.classification.schema import ClassificationInput
config = RuntimeConfig(runtime="torch", precision="fp32", device="cpu", threads=1)
inputs = [ClassificationInput(text=text) for text in sys.argv[3:]]
found = []
for folder in sys.argv[1:3]:
    predictor = load_predictor(load_registry(), Artifact.open(Path(folder)), config)
    found.append([[label.score for label in answer.labels] for answer in predictor.predict(inputs)])
print(json.dumps(found))
"""


def card_or_order(count: int, seed: int) -> list[Example[Any]]:
    found = []
    for i, text in enumerate(shuffled_words(WORDS, count, 4, seed)):
        label = ("card", "order")[i % 2]
        found.append(Example(input=ClassificationInput(text=f"{text} {label}"), target=label, path="d.jsonl", line=i))
    return found


@pytest.fixture(scope="session")
def parent(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(1)
    model = ClassificationModel.build(["card", "order"], backbone=tiny_bert, adapter=LoraSettings(r=2), dropout=0.0)
    return published("classification", model, tmp_path_factory.mktemp("store"))


@pytest.fixture
def steps(parent: Any, tmp_path: Path) -> Callable[[str], Steps]:
    return lambda name: Steps(parent, card_or_order(48, 3), tmp_path / name, card_or_order(16, 4))


def answers(model: Any, rows: Any) -> torch.Tensor:
    model.module.eval()
    with torch.inference_mode():
        found: torch.Tensor = model.forward(model.encode([row.input for row in rows]))["logits"]
    return found


def test_virtual_tokens_learn_within_their_budget_and_are_a_small_file(steps: Callable[[str], Steps]) -> None:
    chains = [learnt(steps(method), method) for method in ("prompt", "prefix")]
    rows = card_or_order(3, 4)
    command = [sys.executable, "-c", AGAIN, *(str(chain.artifact.folder) for chain in chains)]
    told = subprocess.run([*command, *(row.input.text for row in rows)], check=True, capture_output=True, text=True).stdout
    for chain, found in zip(chains, json.loads(told.splitlines()[-1]), strict=True):
        expected = torch.softmax(answers(chain.model, rows), -1).sort(descending=True).values
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=1e-4)


def learnt(here: Steps, method: str) -> Any:
    chain = here.run("lora", method=method, start="backbone", **FAST)
    facts = chain.steps[0].facts
    assert facts["trainable_parameters"] <= 0.2 * facts["parameters"]
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    assert facts["merged"] is False
    head = 2 * 32 + 2
    assert facts["adapter_bytes"] == 4 * (facts["trainable_parameters"] - head)
    files = {path.relative_to(chain.artifact.folder).as_posix() for path in chain.artifact.folder.rglob("*.safetensors")}
    assert files == {"adapter/adapter_model.safetensors", "head.safetensors"}
    weights = chain.model.parts.backbone.model.state_dict()
    fresh = ClassificationModel.build(["card", "order"], backbone=chain.model.backbone.id).parts.backbone.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in fresh.items()), "the backbone is as it was"
    return chain


def test_an_open_budget_gives_as_many_tokens_as_fit(steps: Callable[[str], Steps]) -> None:
    for method, each in (("prompt", 32), ("prefix", 2 * 2 * 32)):
        chain = steps(method).run("lora", method=method, **{**FAST, "epochs": 1, "budget": 0.015})
        facts = chain.steps[0].facts
        most = 0.015 * facts["parameters"]
        assert facts["trainable_parameters"] <= most < facts["trainable_parameters"] + each


def test_models_with_virtual_tokens_are_trained_further_or_begun_again(steps: Callable[[str], Steps]) -> None:
    here = steps("twice")
    first = StepRequest(name="lora", config={**FAST, "method": "prefix", "virtual_tokens": 3, "epochs": 1})
    again = StepRequest(name="lora", config={**FAST, "method": "prefix"})
    chain = here.optimizing().run([first, again])
    assert [step.facts["virtual_tokens"] for step in chain.steps] == [3, 3]
    assert chain.steps[1].facts["history"][-1]["loss"] < chain.steps[0].facts["history"][-1]["loss"]
    other = StepRequest(name="lora", config={**FAST, "method": "prompt"})
    with pytest.raises(UnsupportedError, match="3 virtual tokens of prefix tuning"):
        here.optimizing().run([first, other])
    apart = StepRequest(name="lora", config={**FAST, "merge": False, "epochs": 1})
    with pytest.raises(UnsupportedError, match="place for one adapter only"):
        here.optimizing().run([first, apart])
    merged = here.optimizing().run([first, StepRequest(name="lora", config={**FAST, "epochs": 1})])
    assert (merged.artifact.folder / "backbone/model.safetensors").is_file()
    assert (merged.artifact.folder / "adapter/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_other_steps_keep_what_virtual_tokens_learnt(method: VirtualMethod, tiny_bert: str, tmp_path: Path) -> None:
    """Steps that take next to nothing away: what comes out, read again, answers like the model, not like one without them."""
    model, gone = decisive(method, tiny_bert)
    artifact = published("classification", model, tmp_path / "store")
    here = Steps(artifact, card_or_order(32, 3), tmp_path / "work", card_or_order(16, 4))
    scores = card_scores(here, artifact)
    short = {"epochs": 1, "batch_size": 16, "device": "cpu", "learning_rate": 1e-6}
    for name, settings in [
        ("prune", {**short, "target": "parameters", "share": 0.98, "units_multiple": 1}),
        ("distill", {**short, "layers": 2, "hidden_weight": 1.0, "relation_weight": 0.1, "precision": "fp32"}),
        ("quantize", {"mode": "bf16"}),
        ("quantize", {"mode": "dynamic"}),
    ]:
        chain = here.optimizing().run([StepRequest(name=name, config=settings)])
        lost = (card_scores(here, chain.artifact) - scores).abs().mean()
        assert lost < gone / 2, (name, settings, float(lost), gone)


def decisive(method: VirtualMethod, backbone: str) -> tuple[ClassificationModel, float]:
    """An untrained model whose virtual tokens say much, and how far its scores are from those that it has without them."""
    torch.manual_seed(1)
    model = ClassificationModel.build(["card", "order"], backbone=backbone, frozen_layers=2, dropout=0.0)
    rows = card_or_order(16, 4)
    last = [module for module in model.module.head.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.nn.init.normal_(last.weight, std=10.0)
    without = answers(model, rows)
    names = [f"layers.{layer}.{name}" for layer in range(2) for name in ("key", "value")]
    shapes = {"prompt": (40, 32)} if method == "prompt" else dict.fromkeys(names, (4, 3, 8))
    weights = {name: 2 * torch.randn(1, shape[-1]).repeat(*shape[:-1], 1) for name, shape in shapes.items()}
    model.keep_virtual_tokens(VirtualTokens(method, weights))
    middle = answers(model, rows).mean(0)
    with torch.no_grad():
        last.bias -= middle  # where scores tell the most
    gone = torch.softmax(without - middle, -1) - torch.softmax(answers(model, rows), -1)
    assert gone.abs().mean() > 0.05
    return model, float(gone.abs().mean())


def card_scores(here: Steps, artifact: Artifact) -> torch.Tensor:
    predictor = load_predictor(here.registry, artifact, RuntimeConfig(device="cpu", threads=1, precision="fp32"))
    try:
        found = predictor.predict([row.input for row in here.held], [ClassificationParams(top_k=2)] * len(here.held))
    finally:
        predictor.close()
    return torch.tensor([next(label.score for label in answer.labels if label.label == "card") for answer in found])
