"""Adapters: within their budget, alike merged and apart, on text and on pictures; and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import Steps, published, shuffled_words
from vision_pictures import LABELS, shades

from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.optimizing import StepRequest
from taskloom.core.task import Example, SharedParts
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.optimizers.lora.memory import checkpointing
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import ClassificationInput
from taskloom.plugins.tasks.classification.zero_shot import ZeroShotModel
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.schema import NetworkSettings

WORDS = ["where", "is", "my", "lost", "refund", "hello", "the", "a"]
FAST: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 2e-2,
    "head_learning_rate": 1e-2,
    "ema_decay": 0.0,
    "early_stopping_patience": 0,
    "budget": 0.2,
    "dropout": 0.0,
    "precision": "fp32",
    "device": "cpu",
}


def card_or_order(count: int, seed: int) -> list[Example[Any]]:
    found = []
    for i, text in enumerate(shuffled_words(WORDS, count, 4, seed)):
        label = ("card", "order")[i % 2]
        found.append(Example(input=ClassificationInput(text=f"{text} {label}"), target=label, path="d.jsonl", line=i))
    return found


@pytest.fixture(scope="session")
def parent(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An untrained classifier that stands on a backbone by name, with an adapter that says nothing yet."""
    torch.manual_seed(1)
    model = ClassificationModel.build(["card", "order"], backbone=tiny_bert, adapter=LoraSettings(r=2), dropout=0.0)
    model.module.eval()
    return published("classification", model, tmp_path_factory.mktemp("store"))


@pytest.fixture
def steps(parent: Any, tmp_path: Path) -> Callable[..., Steps]:
    return lambda name, artifact=None: Steps(artifact or parent, card_or_order(48, 3), tmp_path / name, card_or_order(16, 4))


def answers(model: Any, rows: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.forward(model.encode([row.input for row in rows]))["logits"]
    return found


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "ia3"])
def test_an_adapter_learns_within_its_budget_and_is_alike_merged_and_apart(method: str, steps: Callable[..., Steps]) -> None:
    made = {}
    for merge in (True, False):
        here = steps(f"{method}-{merge}")
        chain = here.run("lora", method=method, merge=merge, start="backbone", **FAST)
        facts = chain.steps[0].facts
        assert facts["trainable_parameters"] <= 0.2 * facts["parameters"]
        assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
        assert facts["memory"]["optimizer_bytes"] == 8 * facts["trainable_parameters"]
        artifact = next((here.folder).glob("*/artifact"))
        files = {path.relative_to(artifact).as_posix() for path in artifact.rglob("*.safetensors")}
        whole = {"backbone/model.safetensors", "head.safetensors"}
        assert files == (whole if merge else {"adapter/adapter_model.safetensors", "head.safetensors"})
        made[merge] = answers(chain.model, here.held)
        assert 0 < facts["adapter_bytes"] <= 4 * facts["trainable_parameters"]
    assert torch.allclose(made[True], made[False], atol=1e-4)


def test_an_adapter_beside_a_backbone_that_is_the_models_own(steps: Callable[..., Steps]) -> None:
    """The model that the step is given had an adapter merged into it, or lost a layer: no backbone by name is like it."""
    merged, apart = (steps(str(merge)).run("lora", merge=merge, **FAST) for merge in (True, False))
    here = steps("False")
    artifact = next(here.folder.glob("*/artifact"))
    assert (artifact / "backbone/model.safetensors").is_file()
    assert (artifact / "adapter/adapter_model.safetensors").is_file()
    assert torch.allclose(answers(merged.model, here.held), answers(apart.model, here.held), atol=1e-4)


def test_a_pruned_model_keeps_its_shape_under_an_adapter_that_is_apart(
    parent: Any, steps: Callable[..., Steps], tmp_path: Path
) -> None:
    here = steps("pruned")
    model = here.registry.tasks.get("classification").load(parent, SharedParts())
    heads = next(part for part in model.structures() if part.kind == "heads")
    heads.keep([0, 2])
    pruned = published("classification", model, tmp_path / "pruned-store")
    chains = [steps(f"pruned-{merge}", pruned).run("lora", merge=merge, **{**FAST, "epochs": 1}) for merge in (True, False)]
    one, other = (answers(chain.model, here.held) for chain in chains)
    assert torch.allclose(one, other, atol=1e-4)


def test_all_weights_are_the_reference(steps: Callable[..., Steps]) -> None:
    here = steps("full")
    chain = here.run("lora", method="full", **{**FAST, "learning_rate": 1e-3})
    facts = chain.steps[0].facts
    assert facts["trainable_share"] == 1.0
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    assert "adapter_bytes" not in facts


def test_a_merged_adapter_is_taken_out_of_the_weights_again(steps: Callable[..., Steps]) -> None:
    here = steps("unmerged")
    train = StepRequest(name="lora", config={**FAST, "r": 3, "start": "backbone", "epochs": 1})
    merged = here.optimizing().run([train])
    apart = here.optimizing().run([train, StepRequest(name="lora", config={"method": "extract"})])
    facts = apart.steps[1].facts
    assert facts["r"] == 3
    assert facts["kept_difference"] > 0.9999
    files = {path.relative_to(apart.artifact.folder).as_posix() for path in apart.artifact.folder.rglob("*.safetensors")}
    assert files == {"adapter/adapter_model.safetensors", "head.safetensors"}
    assert torch.allclose(answers(merged.model, here.held), answers(apart.model, here.held), atol=1e-4)
    less = here.optimizing().run([train, StepRequest(name="lora", config={"method": "extract", "r": 1})])
    assert less.steps[1].facts["kept_difference"] < 0.9999
    with pytest.raises(UnsupportedError, match="merge open"):
        here.run("lora", method="extract", merge=True)


def test_checkpointing_keeps_less_of_a_batch_and_changes_no_gradient(parent: Any, steps: Callable[..., Steps]) -> None:
    found, kept = [], []
    for wanted in (False, True):
        model = steps("unused").registry.tasks.get("classification").load(parent, SharedParts())
        model.module.requires_grad_(True).train()
        bytes_kept = 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal bytes_kept
            bytes_kept += tensor.nbytes
            return tensor

        torch.manual_seed(5)
        with checkpointing(model, wanted), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.loss(model.collate(card_or_order(16, 3))).backward()
        kept.append(bytes_kept)
        found.append([parameter.grad for parameter in model.module.parameters() if parameter.grad is not None])
    assert kept[1] < kept[0] / 4
    assert len(found[0]) > 20
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


class Interrupted(Exception):
    pass


def test_an_interrupted_training_goes_on_to_the_same_adapter(steps: Callable[..., Steps]) -> None:
    settings = {**FAST, "epochs": 2, "checkpoint_steps": 2, "dropout": 0.1}
    whole = steps("whole").run("lora", **settings)
    broken = steps("broken")

    def interrupt(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event.get("step") == 9:
            raise Interrupted

    request = [StepRequest(name="lora", config=settings)]
    with pytest.raises(Interrupted):
        broken.optimizing(interrupt).run(request)
    chain = broken.optimizing().run(request)
    assert chain.steps[0].facts["resumed_at_steps"] == [8]
    for one, other in zip(whole.model.module.parameters(), chain.model.module.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_convolutions_take_adapters_that_are_merged(method: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = VisionModel.build(LABELS, network=NetworkSettings(stem_width=8, widths=(8, 16), blocks=(1, 1)), size=16)
    torch.nn.init.ones_(model.module.stages[0].second[1].weight)
    model.module.eval()
    rows = shades(36)
    here = Steps(published("vision", model, tmp_path / "store"), rows, tmp_path / "work", rows[:9])
    chain = here.run("lora", method=method, **FAST)
    facts = chain.steps[0].facts
    assert facts["trainable_parameters"] <= 0.2 * facts["parameters"]
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    with pytest.raises(UnsupportedError, match="one network"):
        here.run("lora", merge=False, **FAST)


def test_what_makes_no_sense_is_refused_with_the_reason(steps: Callable[..., Steps], tiny_bert: str, tmp_path: Path) -> None:
    here = steps("refused")
    for settings, error, told in [
        ({"method": "prompt", "merge": True}, UnsupportedError, "no weights that they could be added to"),
        ({"method": "prefix", "merge": True}, UnsupportedError, "no weights that they could be added to"),
        ({"method": "lora", "virtual_tokens": 4}, ConfigError, "prompt or prefix"),
        ({"method": "prefix", "r": 4}, ConfigError, "no rank"),
        ({"method": "prefix", "budget": 1e-3}, ConfigError, "one virtual token has 128; raise it"),
        ({"method": "ia3", "r": 4}, ConfigError, "no rank"),
        ({"budget": 1e-4}, ConfigError, "raise it"),
        ({"target_modules": ["nothing"]}, UnsupportedError, "attention.self.query"),
    ]:
        with pytest.raises(error, match=told):
            here.run("lora", **{**FAST, **settings})
    torch.manual_seed(1)
    full = ClassificationModel.build(["card", "order"], backbone=tiny_bert)
    with pytest.raises(UnsupportedError, match="holds weights of its own"):
        steps("own", published("classification", full, tmp_path / "full")).run("lora", start="backbone", **FAST)
    zero = ZeroShotModel.build(["card", "order"], backbone=tiny_bert)
    for name in ("lora", "distill"):
        with pytest.raises(UnsupportedError, match="names of labels"):
            steps("zero", published("classification", zero, tmp_path / f"zero-{name}")).run(name)
