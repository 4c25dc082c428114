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
from taskloom.core.task import Example, SharedParts
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import ClassificationInput

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
predictor = load_predictor(load_registry(), Artifact.open(Path(sys.argv[1])), config)
print(json.dumps([[x.score for x in y.labels] for y in predictor.predict([ClassificationInput(text=t) for t in sys.argv[2:]])]))
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


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_virtual_tokens_learn_within_their_budget_and_are_a_small_file(method: str, steps: Callable[[str], Steps]) -> None:
    here = steps("work")
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
    texts = [row.input.text for row in here.held[:3]]
    command = [sys.executable, "-c", AGAIN, str(chain.artifact.folder), *texts]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    scores = torch.tensor(json.loads(told.splitlines()[-1]))
    expected = torch.softmax(answers(chain.model, here.held[:3]), -1).sort(descending=True).values
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


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
def test_other_steps_take_a_model_with_virtual_tokens(method: str, steps: Callable[[str], Steps]) -> None:
    """Each gives a model that, read again, answers as the one in memory did; what it learnt is still in it."""
    here = steps("chains")
    tuned = StepRequest(name="lora", config={**FAST, "method": method, "virtual_tokens": 4, "start": "backbone"})
    short = {"epochs": 1, "batch_size": 16, "device": "cpu", "precision": "fp32"}
    before = here.optimizing().run([tuned])
    for name, settings in [
        ("prune", {**short, "target": "parameters", "share": 0.9, "epochs": 0}),
        ("distill", {**short, "layers": 1, "hidden_weight": 1.0, "relation_weight": 0.1}),
        ("quantize", {"mode": "dynamic"}),
        ("quantize", {"mode": "bf16"}),
    ]:
        chain = here.optimizing().run([tuned, StepRequest(name=name, config=settings)])
        made = here.registry
        assert isinstance(chain.artifact, Artifact)
        from taskloom.core.predictor import load_predictor

        predictor = load_predictor(made, chain.artifact)
        rows = [row.input for row in here.held]
        top = [answer.labels[0].label for answer in predictor.predict(rows)]
        predictor.close()
        model = made.tasks.get("classification").load(before.artifact, SharedParts())
        own = [("card", "order")[int(i)] for i in answers(model, here.held).argmax(-1)]
        assert sum(a == b for a, b in zip(top, own, strict=True)) >= 14, name
