"""A replica's models that share a backbone are run in one pass, and answer as if each were alone."""

from __future__ import annotations

import pytest
import torch

from taskloom.core.loader import load_registry
from taskloom.core.ports import WorkItem
from taskloom.core.registry import Registry
from taskloom.core.store import ModelStore
from taskloom.core.testing.conformance import assert_close
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.backbones.trunk import EncoderTrunk
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.server.engine.host import ModelHost
from taskloom.server.engine.spec import ModelVersion, ReplicaSpec

NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="module")
def store(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> ModelStore:
    from taskloom.core.artifact import Manifest

    store = ModelStore([tmp_path_factory.mktemp("models")])
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        model = ClassificationModel.build(["a", "b"], backbone=tiny_bert, adapter=LoraSettings(r=4), pair=name == "third")
        for key, parameter in model.module.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        with store.draft(name) as folder:
            manifest = Manifest(
                model=name,
                task="classification",
                created="2026-01-01T00:00:00Z",
                config=model.save(folder),
                labels=model.labels,
                backbone=model.backbone,
            )
            store.publish(folder, manifest)
    return store


def host(registry: Registry, store: ModelStore, *names: str) -> ModelHost:
    made = ModelHost(ReplicaSpec("default", tuple(ModelVersion(name, "1") for name in names), store.roots), registry, store)
    made.load()
    return made


def item(model: str, text: object, **more: object) -> WorkItem:
    return WorkItem(request_id="r", model=model, input={"text": text, **more}, params={})


@pytest.fixture(scope="module")
def together(registry: Registry, store: ModelStore) -> ModelHost:
    return host(registry, store, *NAMES)


BATCH = [
    item("first", "where is my card"),
    item("second", "where is my card"),
    item("third", "where is my card", text_pair="lost order"),
    item("second", "hello"),
    item("first", "refund my order please " * 20),
]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many models each pass of the trunk had."""
    seen: list[int] = []
    run = EncoderTrunk.run

    def counted(self: EncoderTrunk, parts: list[object]) -> object:
        seen.append(len(parts))
        return run(self, parts)  # type: ignore[arg-type]

    monkeypatch.setattr(EncoderTrunk, "run", counted)
    return seen


def test_one_pass_gives_what_each_model_gives_alone(
    registry: Registry, store: ModelStore, together: ModelHost, passes: list[int]
) -> None:
    mixed = together.run(BATCH).results
    assert passes == [3]
    for place, asked in enumerate(BATCH):
        alone = host(registry, store, asked.model).run([asked]).results[0]
        assert_close(mixed[place].output, alone.output, 1e-4)
    assert mixed[0].output != mixed[1].output, "the same text, other adapters"


def test_what_one_model_can_not_take_fails_alone(together: ModelHost, passes: list[int]) -> None:
    batch = [*BATCH, item("third", "no pair"), item("first", "fine", text_pair="no pair wanted")]
    results = together.run(batch).results
    assert [r.error.code if r.error else "" for r in results] == ["", "", "", "", "", "invalid_input", "invalid_input"]
    for found, expected in zip(results, together.run(BATCH).results, strict=False):
        assert_close(found.output, expected.output, 1e-4)


def test_a_pass_that_breaks_is_run_model_by_model(
    together: ModelHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = together.run(BATCH).results
    run = EncoderTrunk.run

    def broken(self: EncoderTrunk, parts: list[object]) -> object:
        if len(parts) > 1:
            raise RuntimeError("out of memory")
        return run(self, parts)  # type: ignore[arg-type]

    monkeypatch.setattr(EncoderTrunk, "run", broken)
    for found, before in zip(together.run(BATCH).results, expected, strict=True):
        assert_close(found.output, before.output, 1e-4)
    assert "run alone" in caplog.text


def test_a_model_alone_has_its_adapter_merged(registry: Registry, store: ModelStore, passes: list[int]) -> None:
    host(registry, store, "first").run(BATCH[:1])
    assert passes == []
