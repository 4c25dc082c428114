"""Backbones that are bundled models: found by name, in the version that is asked for, with their licence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from taskloom.core.artifact import Artifact, BackboneInfo, Manifest
from taskloom.core.errors import ArtifactError, NotFoundError
from taskloom.core.store import ModelStore
from taskloom.plugins.backbones import loading
from taskloom.plugins.backbones.loading import backbone_names, find_backbone, load_backbone, save_backbone, weights_digest


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A box of bundled models, empty."""
    found = ModelStore([tmp_path / "box"])
    monkeypatch.setattr(loading, "_bundle", lambda: found)
    return found


def put(box: ModelStore, source: str, *, seed: int, name: str = "encoder-zh", backbone: bool = True) -> Artifact:
    with box.draft(name) as draft:
        if backbone:
            whole = load_backbone(source)
            torch.manual_seed(seed)
            for parameter in whole.model.parameters():
                torch.nn.init.normal_(parameter)
            save_backbone(whole, draft / "backbone")
        else:
            (draft / "head.safetensors").write_bytes(b"")
        manifest = Manifest(model=name, task="fill-mask", created="2026-01-01T00:00:00Z", licence="MIT")
        return box.publish(draft, manifest, ())


def test_the_newest_version_is_meant_or_the_one_that_is_named(box: ModelStore, tiny_bert: str) -> None:
    first, second = put(box, tiny_bert, seed=1), put(box, tiny_bert, seed=2)
    assert find_backbone("encoder-zh") == find_backbone("encoder-zh@2") == second.folder / "backbone"
    assert find_backbone("encoder-zh@1") == first.folder / "backbone"
    found = load_backbone("encoder-zh").info
    assert found == BackboneInfo(id="encoder-zh", digest=weights_digest(second.folder / "backbone"), licence="MIT")


def test_what_was_trained_on_an_older_version_still_finds_it(box: ModelStore, tiny_bert: str) -> None:
    put(box, tiny_bert, seed=1)
    known = load_backbone("encoder-zh").info
    put(box, tiny_bert, seed=2)
    assert load_backbone("encoder-zh", expect=known).info == known
    with pytest.raises(ArtifactError, match="install the backbone that they belong to"):
        load_backbone("encoder-zh", expect=BackboneInfo(id="encoder-zh", digest="0" * 64))


def test_an_altered_file_is_not_read(box: ModelStore, tiny_bert: str) -> None:
    artifact = put(box, tiny_bert, seed=1)
    path = artifact.folder / "backbone" / "config.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("gelu", "relu"))
    with pytest.raises(ArtifactError, match="was altered"):
        find_backbone("encoder-zh")


def test_names_that_are_no_backbones_are_said(box: ModelStore, tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(box, tiny_bert, seed=1)
    put(box, tiny_bert, seed=1, name="no-encoder", backbone=False)
    assert backbone_names() == ["all-MiniLM-L6-v2", "encoder-zh"]

    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    for name in ("no-encoder", "encoder-zh@7", "Encoder ZH"):
        with pytest.raises(NotFoundError, match="'all-MiniLM-L6-v2', 'encoder-zh'"):
            find_backbone(name)


def test_a_folder_is_an_artifacts_or_that_of_the_files(box: ModelStore, tiny_bert: str) -> None:
    artifact = put(box, tiny_bert, seed=1)
    for folder in (artifact.folder, artifact.folder / "backbone"):
        found = load_backbone(str(folder)).info
        assert found.id == str(folder)
        assert (found.digest, found.licence) == (weights_digest(artifact.folder / "backbone"), "MIT")
