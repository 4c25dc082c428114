"""Backbones that lie in the user's own store: found from everything that names them, wherever that is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from taskloom.core.artifact import Artifact, BackboneInfo, Manifest
from taskloom.core.errors import ArtifactError, NotFoundError
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts
from taskloom.core.testing.conformance import publish
from taskloom.plugins.backbones import loading
from taskloom.plugins.backbones.loading import (
    find_backbone,
    load_backbone,
    published_backbone,
    published_digest,
    save_backbone,
    weights_digest,
)
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.commands.training import _origins
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput, ClassificationParams


def put(store: ModelStore, source: str, *, seed: int, name: str = "backbone-law") -> Artifact:
    with store.draft(name) as draft:
        whole = load_backbone(source)
        torch.manual_seed(seed)
        for parameter in whole.model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        save_backbone(whole, draft / "backbone")
        return store.publish(draft, Manifest(model=name, task="fill-mask", created="2026-01-01T00:00:00Z", licence="MIT"))


def classifier(store: ModelStore, backbone: str) -> Artifact:
    torch.manual_seed(5)
    base = load_backbone(backbone, max_length=64, roots=store.roots)
    model = ClassificationModel.build(["a", "b"], backbone=base, adapter=LoraSettings(r=2, alpha=4))
    return publish(ClassificationTask(), model, store)


def logits(artifact: Artifact, shared: SharedParts | None = None) -> torch.Tensor:
    model = ClassificationTask().load(artifact, shared or SharedParts())
    model.module.eval()
    with torch.inference_mode():
        batch = model.prepare([ClassificationInput(text="where is my card")], [ClassificationParams()])
        found: torch.Tensor = model.forward(batch)["logits"]
    return found


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore([tmp_path / "models"])


def test_names_versions_and_aliases(store: ModelStore, tiny_bert: str) -> None:
    first, second = (put(store, tiny_bert, seed=seed) for seed in (1, 2))
    store.set_alias("backbone-law", "good", "1")
    for name, artifact in (
        ("backbone-law", second),
        ("backbone-law@2", second),
        ("backbone-law@1", first),
        ("backbone-law@good", first),
        ("backbone-law@production", first),
    ):
        assert find_backbone(name, roots=store.roots) == artifact.folder / "backbone", name
    assert published_digest(first) == weights_digest(first.folder / "backbone") != published_digest(second)
    assert load_backbone("backbone-law@1", roots=store.roots).info == BackboneInfo(
        id="backbone-law@1", digest=published_digest(first), licence="MIT"
    )
    assert published_backbone("backbone-law@3", roots=store.roots) is None
    assert published_backbone(str(first.folder), roots=store.roots) is None


def test_without_the_store_nothing_is_found(
    store: ModelStore, tiny_bert: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(store, tiny_bert, seed=1)

    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(NotFoundError, match="no backbone 'backbone-law'"):
        find_backbone("backbone-law")
    artifact = classifier(store, "backbone-law@1")
    shutil.rmtree(store.writable / "backbone-law")
    with pytest.raises(NotFoundError, match="no backbone 'backbone-law@1'"):
        logits(artifact)


def test_an_adapter_finds_its_backbone_beside_itself(store: ModelStore, tiny_bert: str) -> None:
    put(store, tiny_bert, seed=1)
    artifact = classifier(store, "backbone-law")
    assert "backbone/config.json" not in artifact.manifest.files
    expected = logits(artifact)
    assert torch.equal(logits(Artifact.open(artifact.folder)), expected), "by its folder alone"
    put(store, tiny_bert, seed=2)
    assert torch.equal(logits(artifact), expected), "a newer version is not taken for it"
    digest = artifact.manifest.backbone.digest if artifact.manifest.backbone else ""
    assert torch.allclose(logits(artifact, SharedParts([digest])), expected, atol=1e-5), "as one of several on it"


def test_a_box_that_brings_a_model_of_the_same_name_hides_nothing(
    store: ModelStore, tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, tiny_bert, seed=1)
    artifact = classifier(store, "backbone-law@1")
    expected = logits(artifact)
    box = ModelStore([tmp_path / "box"])
    put(box, tiny_bert, seed=2)
    monkeypatch.setattr(loading, "_bundle", lambda: box)
    assert torch.equal(logits(artifact), expected)


class OwnConfig(BaseModel):
    """Of a task of somebody's own, in which `backbone` is no name."""

    backbone: dict[str, int] = {"layers": 2}


def test_what_a_task_of_its_own_begins_from_may_be_of_another_kind(store: ModelStore, tiny_bert: str, tmp_path: Path) -> None:
    assert ClassificationTask().starts_from(OwnConfig()) == ()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "weights.gguf").touch()
    context: Any = SimpleNamespace(store=store)
    assert _origins(context, [str(tmp_path / "own")]) == ([], [])
    published = put(store, tiny_bert, seed=1)
    origins, weights = _origins(context, ["backbone-law", tiny_bert])
    assert [origin.name for origin in origins] == ["backbone-law@1"]
    assert weights == [published_digest(published), weights_digest(Path(tiny_bert))]


def test_altered_weights_are_refused(store: ModelStore, tiny_bert: str) -> None:
    backbone = put(store, tiny_bert, seed=1)
    artifact = classifier(store, "backbone-law@1")
    path = backbone.folder / "backbone" / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="backbone-law@1 was altered"):
        logits(artifact)


def test_another_version_under_the_name_is_noticed(store: ModelStore, tiny_bert: str, tmp_path: Path) -> None:
    put(store, tiny_bert, seed=1)
    artifact = classifier(store, "backbone-law@1")
    other = ModelStore([tmp_path / "other"])
    put(other, tiny_bert, seed=2)
    shutil.copytree(artifact.folder, other.writable / "moved" / "1")
    with pytest.raises(ArtifactError, match="install the backbone that they belong to"):
        logits(Artifact.open(other.writable / "moved" / "1"))


def test_what_a_model_is_trained_further_from_is_found_too(store: ModelStore, tiny_bert: str) -> None:
    """`restart` puts the pretrained backbone in the place of the model's own, as the optimizer lora may."""
    put(store, tiny_bert, seed=1)
    artifact = classifier(store, "backbone-law@1")
    model = ClassificationTask().load(artifact, SharedParts())
    model.parts.restart()
    plain = load_backbone("backbone-law@1", roots=store.roots).model.state_dict()
    for name, tensor in model.parts.backbone.model.state_dict().items():
        assert torch.equal(tensor, plain[name]), name
