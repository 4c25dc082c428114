"""Several models on one encoder give the same in one pass as each alone with its adapter merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.core.artifact import Artifact
from taskloom.core.errors import UnsupportedError
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts
from taskloom.core.testing.conformance import publish
from taskloom.plugins.backbones.packing import PackedRow, passes, plan_row, row_length
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.backbones.trunk import EncoderBranch
from taskloom.plugins.tasks.classification.model import ClassificationModel, load
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput

SIZES = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 100)), max_size=8)


@given(groups=st.lists(SIZES, min_size=1, max_size=4).filter(any))
def test_a_row_of_groups_keeps_every_token_and_each_group_together(groups: list[list[int]]) -> None:
    row = plan_row(*groups)
    total = sum(map(sum, groups))
    assert row.source[row.restore].tolist() == list(range(total))
    assert len(row.source) == row_length(len(row.source))
    owner = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([sum(group) for group in groups]))
    for number, (start, end) in enumerate(row.stretches):
        inside = (row.restore >= start) & (row.restore < end)
        assert torch.equal(inside, owner == number)
    assert [(a, b) for a, b in row.stretches] == sorted(row.stretches)


def trained(labels: list[str], backbone: str, seed: int, settings: LoraSettings | None) -> ClassificationModel:
    torch.manual_seed(seed)
    model = ClassificationModel.build(labels, backbone=backbone, adapter=settings)
    for name, parameter in model.module.named_parameters():
        if "lora_B" in name or (settings is None and name.startswith("head.")):
            torch.nn.init.normal_(parameter, std=0.3)
    if settings is None:
        model.parts.backbone.model.requires_grad_(False)
        model.parts.saved = model.parts.saved.model_copy(update={"form": "adapter"})
        model.saved = model.saved.model_copy(update={"form": "adapter"})
    return model


@pytest.fixture(scope="module")
def artifacts(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    found = []
    adapters = [
        LoraSettings(r=4, alpha=8),
        LoraSettings(r=2, alpha=4, use_rslora=True, target_modules=("value", "intermediate.dense")),
        None,
    ]
    for number, adapter in enumerate(adapters):
        store = ModelStore([tmp_path_factory.mktemp("store")])
        model = trained([str(i) for i in range(2 + number)], tiny_bert, number, adapter)
        found.append(publish(ClassificationTask(), model, store))
    return found


def loaded(artifacts: list[Artifact], shared: SharedParts) -> list[ClassificationModel]:
    models = [load(artifact, shared) for artifact in artifacts]
    for model in models:
        model.module.eval()
    return models


@pytest.fixture(scope="module")
def both(artifacts: list[Artifact]) -> tuple[list[ClassificationModel], list[ClassificationModel]]:
    digest = artifacts[0].manifest.backbone.digest if artifacts[0].manifest.backbone else ""
    return loaded(artifacts, SharedParts()), loaded(artifacts, SharedParts([digest]))


@given(sizes=st.lists(st.lists(st.integers(1, 30), max_size=4), min_size=3, max_size=3).filter(any))
@settings(deadline=None, max_examples=15)
def test_one_pass_equals_each_alone(
    both: tuple[list[ClassificationModel], list[ClassificationModel]], sizes: list[list[int]]
) -> None:
    assert_same_in_one_pass(*both, sizes)


def assert_same_in_one_pass(
    alone: list[ClassificationModel], together: list[ClassificationModel], sizes: list[list[int]]
) -> None:
    assert len({id(model.branch.trunk) for model in together if model.branch}) == 1
    inputs = [[ClassificationInput(text="where is my card " * n) for n in group] for group in sizes]
    with torch.inference_mode():
        parts = [(i, together[i].encode(group)) for i, group in enumerate(inputs) if group]
        trunk = together[0].branch
        assert trunk is not None
        hidden = trunk.trunk.run([(together[i].branch.name, batch) for i, batch in parts])  # type: ignore[union-attr]
        for (i, batch), states in zip(parts, hidden, strict=True):
            expected = alone[i].forward(batch)["logits"]
            torch.testing.assert_close(together[i].finish(states, batch)["logits"], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together[i].forward(batch)["logits"], expected, atol=1e-4, rtol=1e-4)


def test_a_batch_of_several_passes_is_the_same(
    both: tuple[list[ClassificationModel], list[ClassificationModel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes end inside a model's sequences and between those of two models."""
    monkeypatch.setattr("taskloom.plugins.backbones.trunk.passes", partial(passes, limit=40))
    rows: list[int] = []

    def noted(*groups: list[int], virtual: Sequence[int] = ()) -> PackedRow:
        rows.append(sum(map(sum, groups)))
        return plan_row(*groups, virtual=virtual)

    monkeypatch.setattr("taskloom.plugins.backbones.trunk.plan_row", noted)
    assert_same_in_one_pass(*both, [[3, 9, 1], [2], [5, 5, 5, 4]])
    assert len(rows) > 4
    assert max(rows) <= 40


def test_adapters_differ(artifacts: list[Artifact]) -> None:
    """Else the test above would pass with the adapters left out."""
    first, second, bare = loaded(artifacts, SharedParts())
    batch = first.encode([ClassificationInput(text="where is my card")])
    with torch.inference_mode():
        states = [m.module(batch["input_ids"], batch["token_type_ids"], batch["lengths"]) for m in (first, second, bare)]
    assert not torch.allclose(states[0], states[2], atol=1e-2)
    assert not torch.allclose(states[1], states[2], atol=1e-2)


def test_one_copy_of_the_backbone(artifacts: list[Artifact]) -> None:
    digest = artifacts[0].manifest.backbone.digest if artifacts[0].manifest.backbone else ""
    models = loaded(artifacts, SharedParts([digest]))
    tables = {id(model.parts.backbone.model.get_input_embeddings().weight) for model in models}
    assert len(tables) == 1
    assert all(isinstance(model.module.encoder, EncoderBranch) for model in models)


def test_what_shares_its_backbone_is_not_saved(artifacts: list[Artifact], tmp_path: Path) -> None:
    digest = artifacts[0].manifest.backbone.digest if artifacts[0].manifest.backbone else ""
    with pytest.raises(UnsupportedError, match="load it alone"):
        loaded(artifacts, SharedParts([digest]))[0].save(tmp_path)


def test_an_encoder_that_can_not_pack_is_not_shared(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ClassificationModel.build(["a", "b"], backbone=str(checkpoint("mpnet")), adapter=LoraSettings(r=2))
    artifact = publish(ClassificationTask(), model, ModelStore([tmp_path]))
    assert model.backbone is not None
    assert load(artifact, SharedParts([model.backbone.digest])).branch is None
