"""Ranks by budget: what is worth most for each parameter goes first, within the budget, merged, apart and mixed alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimizer_steps import Steps, published, shuffled_words

from taskloom.core.errors import ConfigError
from taskloom.core.task import Example, SharedParts
from taskloom.plugins.backbones.adapters import mixable_adapter, read_adapter
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.optimizers.lora.ranks import KeptRanks, RankCosts, divided, gradient_spectra, rank_costs
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import ClassificationInput

WORDS = ["where", "is", "my", "lost", "refund", "hello", "the", "a"]
FAST: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 2e-2,
    "head_learning_rate": 1e-2,
    "ema_decay": 0.0,
    "early_stopping_patience": 0,
    "budget": 0.1,
    "ranks": "gradient",
    "start": "backbone",
    "precision": "fp32",
    "device": "cpu",
}

spectra = st.dictionaries(
    st.sampled_from("abcdef"),
    st.lists(st.just(0.0) | st.floats(1e-3, 100), min_size=1, max_size=5).map(lambda own: sorted(own, reverse=True)),
    min_size=1,
)


@given(found=spectra, each=st.integers(1, 9), first=st.integers(0, 5), room=st.integers(0, 120))
def test_ranks_keep_to_the_budget_and_no_worthier_rank_is_left_out(
    found: dict[str, list[float]], each: int, first: int, room: int
) -> None:
    costs = {name: RankCosts(each, first) for name in found}
    ranks = divided({name: torch.tensor(own, dtype=torch.float64) for name, own in found.items()}, costs, room)
    spent = sum(each * rank + first for rank in ranks.values())
    assert spent <= room
    assert all(0 < rank <= len(found[name]) for name, rank in ranks.items())
    if not first:
        taken = [found[name][i] for name, rank in ranks.items() for i in range(rank)]
        left = [value for name, own in found.items() for value in own[ranks.get(name, 0) :] if value > 0]
        assert not taken or not left or min(taken) >= max(left)
        assert not left or room - spent < each, "nothing more fits"


def test_a_cheap_rank_goes_before_a_dear_one() -> None:
    own = {"wide": torch.tensor([3.0]), "narrow": torch.tensor([2.0])}
    assert divided(own, {"wide": RankCosts(10), "narrow": RankCosts(2)}, 10) == {"narrow": 1}


def rows(count: int, seed: int) -> list[Example[Any]]:
    found = []
    for i, text in enumerate(shuffled_words(WORDS, count, 4, seed)):
        label = ("card", "order")[i % 2]
        found.append(Example(input=ClassificationInput(text=f"{text} {label}"), target=label, path="d.jsonl", line=i))
    return found


@pytest.fixture
def steps(tiny_bert: str, tmp_path: Path) -> Callable[[str], Steps]:
    torch.manual_seed(1)
    model = ClassificationModel.build(["card", "order"], backbone=tiny_bert, adapter=LoraSettings(r=2), dropout=0.0)
    torch.nn.init.normal_(model.module.head.linear.weight)  # type: ignore[union-attr, arg-type]
    model.module.eval()
    parent = published("classification", model, tmp_path / "store")
    return lambda name: Steps(parent, rows(48, 3), tmp_path / name, rows(16, 4))


def test_the_gradient_is_that_of_the_rows_and_leaves_the_model_as_it_was(tiny_bert: str) -> None:
    model = ClassificationModel.build(["card", "order"], backbone=tiny_bert, dropout=0.0)
    model.parts.backbone.model.requires_grad_(False)
    model.module.train()
    name = "encoder.layer.0.attention.self.query"
    layer = model.parts.backbone.model.get_submodule(name)
    some = rows(11, 5)
    found = gradient_spectra(model, {name: layer}, some, 13)
    assert not layer.weight.requires_grad
    assert model.module.training
    model.module.eval()
    layer.weight.requires_grad_(True)
    (whole,) = torch.autograd.grad(model.loss(model.collate(some)), [layer.weight])
    assert torch.allclose(found[name], torch.linalg.svdvals(whole), atol=1e-5)


def test_adapters_of_many_ranks_answer_alike_merged_apart_and_mixed(steps: Callable[[str], Steps]) -> None:
    made = {merge: steps(f"merge-{merge}").run("lora", merge=merge, **FAST) for merge in (True, False)}
    facts = [chain.steps[0].facts for chain in made.values()]
    ranks = facts[0]["ranks"]
    assert ranks == facts[1]["ranks"], "the same rows give the same ranks"
    assert len(set(ranks.values())) > 1
    assert facts[0]["trainable_parameters"] <= 0.1 * facts[0]["parameters"]
    held = [row.input for row in rows(16, 4)]

    def answers(model: Any) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = model.forward(model.encode(held))["logits"]
        return logits

    merged, apart = (answers(chain.model) for chain in made.values())
    assert torch.allclose(merged, apart, atol=1e-4)
    artifact = made[False].artifact
    folder = artifact.folder / "adapter"
    assert mixable_adapter(folder)
    assert {name: len(down) for name, (down, _) in read_adapter(folder).items()} == ranks
    task = steps("other").registry.tasks.get("classification")
    branch = task.load(artifact, SharedParts([artifact.manifest.backbone.digest]))
    assert branch.branch is not None
    assert torch.allclose(answers(branch), apart, atol=1e-4)


@pytest.mark.parametrize("method", ["rslora", "dora"])
def test_with_r_as_many_parameters_are_divided_as_that_rank_has(method: str, steps: Callable[[str], Steps]) -> None:
    chain = steps(method).run("lora", method=method, r=2, train_head=False, **FAST | {"epochs": 1, "ranks": "gradient"})
    facts = chain.steps[0].facts
    layers = {name: torch.nn.Linear(*shape) for name, shape in shapes(chain.model).items()}
    costs = rank_costs(layers, dora=method == "dora")
    even = sum(2 * own.each + own.first for own in costs.values())
    assert facts["trainable_parameters"] == sum(
        rank * costs[name].each + costs[name].first for name, rank in facts["ranks"].items()
    )
    assert 0.9 * even < facts["trainable_parameters"] <= even


def shapes(model: Any) -> dict[str, tuple[int, int]]:
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in model.parts.backbone.model.named_modules()
        if isinstance(layer, torch.nn.Linear) and ".layer." in name
    }


def test_an_interrupted_training_has_the_ranks_that_it_had(tmp_path: Path) -> None:
    kept = KeptRanks(tmp_path / "work", "these rows")
    assert kept.read() is None
    kept.write({"a": 3})
    assert KeptRanks(tmp_path / "work", "these rows").read() == {"a": 3}
    assert KeptRanks(tmp_path / "work", "other rows").read() is None


def test_what_has_no_ranks_is_refused(steps: Callable[[str], Steps]) -> None:
    with pytest.raises(ConfigError, match="ia3 has no ranks"):
        steps("ia3").run("lora", method="ia3", **FAST)
    with pytest.raises(ConfigError, match="too few for an adapter"):
        steps("small").run("lora", **FAST | {"budget": 1e-6})
