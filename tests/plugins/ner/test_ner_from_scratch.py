"""Recognisers without a pretrained encoder: a BiLSTM under the heads, from a recipe's table to an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import Steps, published

from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.task import Example, SharedParts, TrainRun
from taskloom.plugins.backbones.from_scratch import new_backbone
from taskloom.plugins.backbones.settings import RecurrentNetwork
from taskloom.plugins.commands.recipe import parsed
from taskloom.plugins.tasks.ner.metrics import Counts, predicted, span_counts
from taskloom.plugins.tasks.ner.model import NerModel
from taskloom.plugins.tasks.ner.reading import read_examples
from taskloom.plugins.tasks.ner.schema import NerInput, NerOutput, TrainConfig
from taskloom.plugins.tasks.ner.train import train

Ask = Callable[..., Any]
SAMPLE = Path(__file__).parents[2] / "data" / "wikigold-sample.jsonl"
NETWORK = RecurrentNetwork(embedding=24, hidden=24, dropout=0.1)
FAST: dict[str, Any] = {
    "batch_size": 8,
    "validation_fraction": 0,
    "learning_rate": 0.02,
    "head_learning_rate": 0.02,
    "ema_decay": 0.5,
    "dropout": 0.0,
}
PLACES, PEOPLE = ["北京", "上海", "南京"], ["王伟", "李娜", "张敏"]


def chinese(count: int = 36) -> list[Example[Any]]:
    """People at universities, in whose names there is a place."""
    found = []
    for i in range(count):
        place, person = PLACES[i % 3], PEOPLE[i // 3 % 3]
        text = f"{person}在{place}大学读书" if i % 2 else f"{place}大学欢迎{person}！"
        at, who = text.index(place), text.index(person)
        target = ((at, at + 2, "LOC"), (at, at + 4, "ORG"), (who, who + 2, "PER"))
        found.append(Example(input=NerInput(text=text), target=tuple(sorted(target)), path="d.jsonl", line=i + 1))
    return found


def flat(rows: list[Example[Any]]) -> list[Example[Any]]:
    return [row.model_copy(update={"target": tuple(t for t in row.target if t[2] != "LOC")}) for row in rows]


def trained(rows: list[Example[Any]], folder: Path, network: RecurrentNetwork = NETWORK, **settings: Any) -> NerModel:
    model = train(TrainConfig(network=network, **{**FAST, **settings}), rows, [], TrainRun(folder, True, False)).model
    assert isinstance(model, NerModel)
    return model


def f1(model: NerModel, rows: list[Example[Any]], ask: Ask) -> float:
    total = Counts()
    for row, answer in zip(rows, ask(model, *(row.input.text for row in rows)), strict=True):
        total = total.plus(span_counts(set(row.target), predicted(NerOutput(entities=tuple(answer)))))
    return total.f1


def test_names_in_names_are_found_in_chinese(tmp_path: Path, ask: Ask) -> None:
    unseen = "张敏在上海大学读书"
    rows = [row for row in chinese() if not {"张敏", "上海"} <= {row.input.text[start:end] for start, end, _ in row.target}]
    network = NETWORK.model_copy(update={"segmentation": True, "pairs": 64, "pair_embedding": 8})
    model = trained(rows, tmp_path, network, head="span", max_span_words=5, span_size=8, epochs=15)
    assert [(e.label, e.text, e.start) for e in ask(model, unseen)[0]] == [
        ("PER", "张敏", 0),
        ("ORG", "上海大学", 3),
        ("LOC", "上海", 3),
    ]


def test_entities_that_are_too_long_are_told(tmp_path: Path) -> None:
    config = TrainConfig(network=NETWORK, head="span", max_span_words=3, span_size=8, **{**FAST, "epochs": 1})
    facts = train(config, chinese(8), [], TrainRun(tmp_path, True, False)).facts
    assert facts["entities_too_long_to_learn"] == 8  # the universities


def test_it_learns_what_an_untrained_one_does_not_know(tmp_path: Path, ask: Ask) -> None:
    rows = list(read_examples(SAMPLE))
    model = trained(rows, tmp_path, epochs=14)
    torch.manual_seed(0)
    backbone = new_backbone(NETWORK, [row.input.text for row in rows], max_length=128)
    untrained = NerModel.build(model.labels, backbone=backbone)
    assert f1(model, rows, ask) > 0.8 > 0.2 > f1(untrained, rows, ask)


def test_answers_are_places_of_the_text_that_was_sent(tmp_path: Path, ask: Ask) -> None:
    """With joined emoji, wide forms, Latin letters and combining marks before and in between."""
    model = trained(flat(chinese()), tmp_path, NETWORK.model_copy(update={"unknown": 0.2}), epochs=20)
    text = "👩\u200d👧 ＡＢＣ１２ cafe\u0301：王伟在北京大学读书 𠮷野家 OK"
    found = ask(model, text)[0]
    assert {("PER", "王伟"), ("ORG", "北京大学")} <= {(e.label, e.text) for e in found}
    assert all(text[e.start : e.end] == e.text for e in found)


def test_an_artifact_is_the_model(tmp_path: Path, ask: Ask) -> None:
    rows = flat(chinese())
    model = trained(rows, tmp_path / "work", NETWORK.model_copy(update={"segmentation": True}), epochs=2)
    artifact = published("ner", model, tmp_path / "store")
    names = {path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*") if path.is_file()}
    assert {"backbone/model.safetensors", "backbone/tokenizer.json", "head.safetensors"} <= names
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".md"}
    assert artifact.manifest.backbone is None
    texts = [row.input.text for row in rows]
    assert ask(NerModel.load(artifact, SharedParts()), *texts) == ask(model, *texts)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"network": {"kind": "gru"}}, "bilstm"),
        ({"network": {"hidden": 0}}, "greater than or equal to 1"),
        ({"network": {"width": 3}}, "network.width: Extra inputs"),
        ({"network": {}, "adapter": {"r": 4}}, "adapter is of a pretrained one"),
        ({"network": {}, "backbone": "all-MiniLM-L6-v2", "frozen_layers": 2}, "backbone, frozen_layers is of a pretrained one"),
    ],
)
def test_settings_that_cannot_be_are_refused(raw: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parsed(TrainConfig, raw, "[config]")


def test_a_table_of_settings_is_enough() -> None:
    config = parsed(TrainConfig, {"network": {}, "adapter": None, "frozen_layers": 0}, "[config]")
    assert config.network == RecurrentNetwork()


@pytest.mark.parametrize(
    ("step", "settings", "told"),
    [
        ("prune", {"share": 0.5}, "no heads, units or channels"),
        ("lora", {"epochs": 1}, "no linear or convolution layers in numbered blocks"),
        ("lora", {"epochs": 1, "method": "full", "start": "backbone"}, "weights of its own, not a pretrained backbone"),
        ("lora", {"epochs": 1, "method": "prompt"}, "takes no virtual tokens"),
        ("distill", {"epochs": 1, "layers": 1}, "no layers that could be taken out"),
    ],
)
def test_optimizers_say_what_they_cannot_do_with_it(tmp_path: Path, step: str, settings: dict[str, Any], told: str) -> None:
    rows = flat(chinese(8))
    torch.manual_seed(0)
    model = NerModel.build(["ORG", "PER"], backbone=new_backbone(NETWORK, [r.input.text for r in rows], max_length=64))
    steps = Steps(published("ner", model, tmp_path / "store"), rows, tmp_path / "work")
    with pytest.raises(UnsupportedError, match=told):
        steps.run(step, **settings)


@pytest.mark.parametrize(
    ("mode", "layers"),
    [("dynamic", {"embedding": {"int8": 1}, "recurrent": {"int8": 2}}), ("static", {"embedding": {"int8": 1}})],
)
def test_its_graph_is_quantized(tmp_path: Path, mode: str, layers: dict[str, Any]) -> None:
    """Static int8 leaves the LSTMs: OpenVINO runs them with plain weights alone."""
    rows = flat(chinese(8))
    torch.manual_seed(0)
    model = NerModel.build(["ORG", "PER"], backbone=new_backbone(NETWORK, [r.input.text for r in rows], max_length=64))
    facts = (
        Steps(published("ner", model, tmp_path / "store"), rows, tmp_path / "work").run("quantize", mode=mode).steps[0].facts
    )
    assert facts["layers"] == layers
    assert facts["compared"]["cosine_least"] > 0.999
