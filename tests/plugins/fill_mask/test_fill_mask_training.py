"""Pretraining: it learns, it goes on after a kill, and other tasks can stand on what comes out."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts, Trained, TrainRun
from taskloom.core.testing.conformance import publish
from taskloom.plugins._shared.checkpoints import CHECKPOINT
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.fill_mask.heads import new_network
from taskloom.plugins.tasks.fill_mask.plugin import FillMaskTask
from taskloom.plugins.tasks.fill_mask.schema import NetworkSettings, TrainConfig

SAMPLE = Path(__file__).parents[2] / "data" / "zhwiki-law-sample.txt"
NETWORK = {"layers": 2, "width": 32, "heads": 4, "feed_forward": 64, "positions": 128, "vocabulary": 1000}
SETTINGS: dict[str, Any] = {
    "network": NETWORK,
    "train_length": 32,
    "epochs": 2,
    "batch_size": 32,
    "rows": 320,
    "learning_rate": 5e-3,
    "head_learning_rate": 5e-3,
    "ema_decay": 0.9,
    "checkpoint_steps": 4,
    "precision": "fp32",
}


def pretrain(
    folder: Path, text: Path = SAMPLE, *, on_event: Callable[[Mapping[str, Any]], None] = lambda _: None, **settings: Any
) -> Trained[Any, Any, Any]:
    task = FillMaskTask()
    torch.set_num_threads(1)  # sums depend on how they are shared out: as many threads in every process
    config = TrainConfig.model_validate({**SETTINGS, **settings})
    return task.train(config, task.rows(text), [], TrainRun(folder, show_progress=False, on_event=on_event))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained[Any, Any, Any]:
    return pretrain(tmp_path_factory.mktemp("whole"))


def weights(trained: Trained[Any, Any, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = trained.model.module.state_dict()
    return found


@pytest.mark.parametrize("step", [7, 13])
def test_a_killed_training_goes_on_to_the_same_weights(whole: Trained[Any, Any, Any], tmp_path: Path, step: int) -> None:
    process = subprocess.run([sys.executable, __file__, str(tmp_path), str(step)], env=os.environ, check=False)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / CHECKPOINT).is_file()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*.*")}
    events: list[Mapping[str, Any]] = []
    resumed = pretrain(tmp_path, on_event=events.append)
    assert events[0] == {"event": "resumed", "step": step // 4 * 4 if step < 10 else 12, "steps": 20}
    assert {path: path.stat().st_mtime_ns for path in before} == before, "tokens and vocabulary are made once"
    assert resumed.history == whole.history
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name


def test_it_says_what_it_was_trained_on(whole: Trained[Any, Any, Any], texts: list[str]) -> None:
    read = [whole.model.processor(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    assert whole.facts["trained_tokens"] == 2 * 320 * 32
    assert whole.facts["documents"] == len(texts)
    assert whole.facts["corpus_tokens"] == sum(len(ids) + 1 for ids in read)
    assert whole.facts["unknown_tokens"] == sum(ids.count(whole.model.processor.unk_token_id) for ids in read)


def test_it_learns_from_context(tmp_path: Path) -> None:
    """More than which tokens are frequent: what is hidden follows from what is beside it, and the loss is far below the entropy
    of single tokens."""
    chance = random.Random(3)
    seasons = ("春天花开", "夏天炎热", "秋天落叶", "冬天下雪")
    document = "。".join(chance.choice(seasons) for _ in range(3000))
    (tmp_path / "seasons.txt").write_text(document, encoding="utf-8")
    counts = Counter(document)
    entropy = -sum(n / len(document) * math.log(n / len(document)) for n in counts.values())
    learning = {"rows": 0, "epochs": 6, "learning_rate": 1e-2, "head_learning_rate": 1e-2, "masking": "character"}
    found = pretrain(tmp_path / "work", tmp_path / "seasons.txt", **learning)
    assert found.history[-1]["loss"] < entropy / 3


def test_first_vectors_put_tokens_of_like_company_together(tmp_path: Path) -> None:
    """A training of next to no steps at next to no rate leaves the first weights as they are."""
    still = {"rows": 32, "epochs": 1, "learning_rate": 1e-12, "head_learning_rate": 1e-12, "weight_decay": 0.0}
    with_them = pretrain(tmp_path / "with", **still)
    without = pretrain(tmp_path / "without", **still, network={**NETWORK, "first_vectors": False})
    assert with_them.history[0]["loss"] < without.history[0]["loss"] - 0.3
    table = with_them.model.parts.backbone.model.get_input_embeddings().weight.float()
    ids = with_them.model.processor.convert_tokens_to_ids(["1", "2", "的"])
    one, two, other = torch.nn.functional.normalize(table[ids], dim=-1)
    assert one @ two > one @ other


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder of four layers, as wide as `NETWORK`."""
    network = {**NETWORK, "layers": 4, "vocabulary": 600}
    folder = tmp_path_factory.mktemp("donor")
    trained = pretrain(folder / "work", network=network, epochs=1)
    return str(publish(FillMaskTask(), trained.model, ModelStore([folder / "store"])).folder)


def test_layers_come_from_another_encoder_and_embeddings_lie_as_its_own_do(donor: str, tmp_path: Path) -> None:
    still = {"rows": 32, "epochs": 1, "learning_rate": 1e-12, "head_learning_rate": 1e-12, "weight_decay": 0.0}
    found = pretrain(tmp_path, **still, network={**NETWORK, "layers": 3, "layers_from": donor}).model.parts.backbone.model
    given = load_backbone(donor).model
    for mine, theirs in ((0, 0), (1, 2), (2, 3)):  # 1.5 rounds to the even number
        for name, tensor in found.encoder.layer[mine].state_dict().items():
            assert torch.equal(tensor.float(), given.encoder.layer[theirs].state_dict()[name]), name
    table, other = found.get_input_embeddings().weight.float(), given.get_input_embeddings().weight
    torch.testing.assert_close(table.mean(0), other.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(table.var(0), other.var(0), atol=1e-4, rtol=0.2)
    assert not torch.equal(table[5:600], other[5:])


def test_pruned_layers_are_refused(donor: str) -> None:
    given = load_backbone(donor)
    layer = given.model.encoder.layer[3]
    layer.intermediate.dense = torch.nn.Linear(given.hidden_size, 5)
    layer.output.dense = torch.nn.Linear(5, given.hidden_size)
    settings = NetworkSettings.model_validate(NETWORK)
    with pytest.raises(UnsupportedError, match="layer 3 has other shapes"):
        new_network(settings, given.tokenizer.processor, max_length=64, donor=given)


@pytest.mark.parametrize("change", [{"width": 64}, {"feed_forward": 32}, {"layers": 5}, {"positions": 256}, {"heads": 2}])
def test_layers_of_another_kind_are_refused(donor: str, tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(UnsupportedError, match="don't fit"):
        pretrain(tmp_path, network={**NETWORK, "layers_from": donor, **change})


@pytest.mark.parametrize("masking", ["character", "span"])
def test_other_ways_of_masking_learn_as_well(tmp_path: Path, masking: str) -> None:
    found = pretrain(tmp_path, masking=masking, epochs=1)
    assert found.history[-1]["loss"] < 7


def test_rows_held_out_choose_the_weights(tmp_path: Path) -> None:
    found = pretrain(tmp_path, validation_fraction=0.2, rows=64)
    assert found.facts["validation_rows"] == 7
    assert found.facts["documents"] == 27
    assert all(row["pseudo_perplexity"] > 1 for row in found.history)


def test_other_tasks_train_on_what_comes_out(whole: Trained[Any, Any, Any], tmp_path: Path) -> None:
    """Read in fp32 from bf16 files, by an artifact's folder or that of its backbone; a classifier of it can be published."""
    artifact = publish(FillMaskTask(), whole.model, ModelStore([tmp_path / "store"]))
    assert {tensor.dtype for tensor in weights(whole).values()} == {torch.bfloat16}
    by_artifact, by_folder = load_backbone(str(artifact.folder)), load_backbone(str(artifact.folder / "backbone"))
    assert by_artifact.info.digest == by_folder.info.digest
    assert {p.dtype for p in by_artifact.model.parameters()} == {torch.float32}
    task = ClassificationTask()
    rows = tmp_path / "rows.jsonl"
    lines = [f'{{"text": "{text}", "label": "{label}"}}' for text, label in (("好的", "yes"), ("不行", "no")) for _ in range(8)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    config = task.TrainConfig.model_validate(
        {"backbone": str(artifact.folder), "adapter": None, "epochs": 4, "max_length": 64, "precision": "fp32"}
    )
    trained = task.train(config, task.rows(rows), [], TrainRun(tmp_path / "work", show_progress=False))
    other = publish(task, trained.model, ModelStore([tmp_path / "others"]))
    assert task.load(other, SharedParts()).backbone == trained.model.backbone


def test_a_named_backbone_is_trained_further_with_frozen_layers(whole: Trained[Any, Any, Any], tmp_path: Path) -> None:
    artifact = publish(FillMaskTask(), whole.model, ModelStore([tmp_path / "store"]))
    found = pretrain(
        tmp_path / "work", network=None, backbone=str(artifact.folder), frozen_layers=1, epochs=1, rows=64, max_length=64
    )
    changed = {name for name, tensor in weights(found).items() if not torch.equal(tensor, weights(whole)[name])}
    assert any(".layer.1." in name for name in changed)
    assert not any("embeddings" in name or ".layer.0." in name or "decoder.weight" in name for name in changed)
    assert found.model.backbone.id == str(artifact.folder)
    # The head is gone on with, not begun anew: the loss starts where the first training ended.
    assert found.history[0]["loss"] < whole.history[0]["loss"]


def test_an_english_backbone_without_a_head_gets_one(tiny_bert: str, tmp_path: Path) -> None:
    found = pretrain(tmp_path, network=None, backbone=tiny_bert, epochs=1, rows=64, max_length=64)
    assert found.model.processor.get_vocab() == load_backbone(tiny_bert).tokenizer.processor.get_vocab()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"adapter": {"r": 4}}, "an adapter is no backbone"),
        ({"backbone": "other"}, "give one of them"),
        ({"train_length": 160}, "reads 128 tokens at most"),
        ({"network": {"width": 30, "heads": 4}}, "multiple of heads"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainConfig.model_validate({**SETTINGS, **settings})


def test_rows_longer_than_the_backbone_reads_are_refused(tiny_bert: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this encoder takes 64 tokens"):
        pretrain(tmp_path, network=None, backbone=tiny_bert, max_length=64, train_length=80)


if __name__ == "__main__":
    work, last_step = Path(sys.argv[1]), int(sys.argv[2])

    def kill_at(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    pretrain(work, on_event=kill_at)
