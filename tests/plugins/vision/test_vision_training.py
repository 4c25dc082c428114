"""Training, publishing and evaluating image classifiers end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from vision_pictures import LABELS, shade, shades

from taskloom.core.errors import DataError, UnsupportedError
from taskloom.core.loader import load_registry
from taskloom.core.predictor import load_predictor
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, TrainRun
from taskloom.plugins.commands.evaluate import evaluate as eval_command
from taskloom.plugins.commands.train import train as train_command
from taskloom.plugins.tasks.vision.augmentation import augment
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.pixels import FixedSize, KeptPixels
from taskloom.plugins.tasks.vision.schema import Augmentation, TrainConfig, VisionInput
from taskloom.plugins.tasks.vision.train import calibrate_norms, train

FAST: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 12,
    "validation_fraction": 0,
    "size": 16,
    "network": {"stem_width": 8, "widths": (8, 16), "blocks": (1, 1)},
    "learning_rate": 5e-3,
    "head_learning_rate": 5e-3,
    "ema_decay": 0.5,
}


class Interrupted(Exception):
    """What a test stops a training with."""


def trained(rows: list[Example[Any]], folder: Path, on_event: Any = lambda _: None, **settings: Any) -> Any:
    torch.set_num_threads(1)
    return train(TrainConfig(**{**FAST, **settings}), rows, [], TrainRun(folder, True, False, on_event))


def accuracy(model: VisionModel, rows: list[Example[Any]]) -> float:
    model.module.eval()
    with torch.inference_mode():
        given = model.forward(model.encode([row.input for row in rows]))["logits"].argmax(-1)
    return float(np.mean([model.labels[i] == row.target for i, row in zip(given.tolist(), rows, strict=True)]))


def weights(model: VisionModel) -> dict[str, torch.Tensor]:
    return dict(model.module.state_dict())


def test_a_network_of_our_own_learns_what_it_has_not_seen(tmp_path: Path) -> None:
    found = trained(shades(96), tmp_path)
    assert found.model.labels == tuple(sorted(LABELS))
    unseen = [Example(input=VisionInput(image=shade(label, 500 + i)), target=label) for i in range(8) for label in LABELS]
    assert accuracy(found.model, unseen) > 0.9
    assert found.facts["parameters"] < 10_000


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Augmentation included: its chance comes from the generator that a checkpoint holds."""
    rows = shades(48)
    whole = trained(rows, tmp_path / "whole", validation_fraction=0.2).model

    def stop(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 8:
            raise Interrupted

    settings: dict[str, Any] = {"validation_fraction": 0.2, "checkpoint_steps": 5}
    with pytest.raises(Interrupted):
        trained(rows, tmp_path / "cut", stop, **settings)
    resumed = trained(rows, tmp_path / "cut", **settings)
    assert resumed.facts["resumed_at_steps"] == [5]
    assert all(torch.equal(tensor, weights(resumed.model)[name]) for name, tensor in weights(whole).items())


def test_rows_held_out_judge_the_weights(tmp_path: Path) -> None:
    found = trained(shades(60), tmp_path, validation_fraction=0.2)
    assert (found.facts["rows"], found.facts["validation_rows"]) == (48, 12)
    assert found.history[-1]["accuracy"] > 0.5


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_checkpoint_is_trained_further_for_other_labels(
    kind: str, tmp_path: Path, image_checkpoint: Callable[..., str]
) -> None:
    folder = image_checkpoint(kind, labels=["cat", "dog"])
    rows = shades(48, size=(32, 32))
    settings: dict[str, Any] = {"backbone": folder, "learning_rate": 2e-3, "head_learning_rate": 1e-2, "epochs": 6}
    found = trained(rows, tmp_path, **settings)
    assert found.model.labels == tuple(sorted(LABELS))
    assert found.model.backbone is not None
    assert accuracy(found.model, rows) > 0.8


def test_a_frozen_checkpoint_trains_its_head_alone(tmp_path: Path, image_checkpoint: Callable[..., str]) -> None:
    folder = image_checkpoint("vit", labels=["cat", "dog"])
    before = weights(VisionModel.import_checkpoint(folder))
    after = trained(shades(24), tmp_path, backbone=folder, frozen_backbone=True, epochs=1).model
    changed = {name for name, tensor in weights(after).items() if not torch.equal(tensor, before.get(name, tensor + 1))}
    assert {name.split(".")[1] for name in changed} == {"classifier"}


def test_norms_get_the_statistics_of_the_pictures_themselves_and_chance_is_left_alone() -> None:
    rows = shades(48)
    torch.manual_seed(0)
    model = VisionModel.build(LABELS, network={**FAST["network"]}, size=16)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    calibrate_norms(model, rows)
    assert torch.equal(torch.get_rng_state(), state)
    stem = model.module.stem
    with torch.no_grad():
        pixels = model.encode([row.input for row in rows])["pixels"]
        maps = stem[0]((pixels.float() - model.module.mean) / model.module.std)
    torch.testing.assert_close(stem[1].running_mean, maps.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    assert not model.module.training
    assert stem[1].momentum == 0.1


# -- augmentation ---------------------------------------------------------------------------------------------------------


def test_the_same_seed_changes_pictures_in_the_same_way() -> None:
    pixels = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(augment(pixels, Augmentation(), torch.zeros(3)))
    assert found[0].shape == pixels.shape
    assert found[0].dtype == torch.uint8
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_shifts_stay_within_bounds_and_reflect_the_edge() -> None:
    pixels = torch.arange(20.0).expand(200, 1, 20, 20)
    moved = augment(pixels, Augmentation(shift=0.1, flip=False, erase=0), torch.zeros(1))
    first = moved[:, 0, 5, 0]
    assert set(first.tolist()) == {0.0, 1.0, 2.0}
    assert set(moved[:, 0, 5, 10].tolist()) == {8.0, 9.0, 10.0, 11.0, 12.0}


def test_half_are_mirrored_and_blots_have_the_blank_colour() -> None:
    pixels = torch.arange(1.0, 21).expand(400, 1, 20, 20)
    flipped = augment(pixels, Augmentation(shift=0, flip=True, erase=0), torch.zeros(1))
    assert 0.4 < float((flipped[:, 0, 0, 0] == 20).float().mean()) < 0.6
    blotted = augment(pixels, Augmentation(shift=0, flip=False, erase=0.3, erase_size=0.5), torch.tensor([-7.0]))
    hidden = (blotted == -7).float().mean((1, 2, 3))
    assert 0.2 < float((hidden > 0).float().mean()) < 0.4
    assert float(hidden.max()) <= 0.25
    assert torch.equal(blotted[hidden == 0], pixels[hidden == 0])


# -- bad rows -------------------------------------------------------------------------------------------------------------


def test_a_damaged_picture_ends_a_training_before_it_begins(tmp_path: Path) -> None:
    rows = shades(24)
    data = rows[4].input.image
    rows[4] = rows[4].model_copy(update={"input": VisionInput(image=data[:-30] + b"\x00" * 18 + data[-12:])})
    with pytest.raises(DataError, match=r"1\.png.*cut off or damaged"):
        trained(rows, tmp_path)


def test_one_label_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than two labels"):
        trained([row for row in shades(24) if row.target == "dark"], tmp_path)


def test_labels_that_a_model_does_not_know_are_named() -> None:
    model = VisionModel.build(LABELS, size=16)
    with pytest.raises(DataError, match="'grün' is not one of the model's 3 labels"):
        model.collate([Example(input=VisionInput(image=shade("dark", 0)), target="grün")])


def test_pictures_beyond_the_memory_are_decoded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = shades(6)
    reader = FixedSize(16, 3)
    pixels = KeptPixels(reader, rows, most_bytes=2 * 3 * 16 * 16)
    read: list[bytes] = []
    monkeypatch.setattr(FixedSize, "read", lambda self, data: read.append(data))
    for row in rows:
        pixels.read(row.input.image)
    assert len(read) == 4


# -- the commands ---------------------------------------------------------------------------------------------------------


class Context:
    """What the tool's root hands to commands."""

    def __init__(self, home: Path) -> None:
        self.registry = load_registry()
        self.settings = Settings(home=home)
        self.store = ModelStore([home / "models"])

    def print_json(self, data: Any) -> None:
        click.echo(json.dumps(data))


RECIPE = """
task = "vision"
name = "shades"
description = "Dark, light or red."
licence = "Apache-2.0"

[data]
train = "kept.toml"
evaluation = "held-out.toml"

[config]
epochs = 4
batch_size = 12
size = 16
learning_rate = 5e-3
head_learning_rate = 5e-3
ema_decay = 0.5
validation_fraction = 0
network = { stem_width = 8, widths = [8, 16], blocks = [1, 1] }
"""


def test_a_recipe_becomes_a_published_model_that_gives_its_figures_again(tmp_path: Path) -> None:
    for i, row in enumerate(shades(90)):
        folder = tmp_path / "pictures" / row.target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(row.input.image)
    for part in ("kept", "held-out"):
        (tmp_path / f"{part}.toml").write_text(f'images = "pictures"\nheld_out = 0.2\npart = "{part}"\n')
    (tmp_path / "shades.toml").write_text(RECIPE)
    context = Context(tmp_path / "home")
    run = CliRunner()
    arguments = [str(tmp_path / "shades.toml"), "--json", "--no-progress"]
    printed = json.loads(run.invoke(train_command, arguments, obj=context, catch_exceptions=False).stdout)
    assert printed["examples"] == 18
    assert set(printed["metrics"]) == {"accuracy", "macro_f1", "top3_accuracy", "ece"}
    assert printed["metrics"]["accuracy"] > 0.8
    assert printed["metrics"]["top3_accuracy"] == 1
    artifact = context.store.resolve("shades")
    assert artifact.path("figures/confusion.png").is_file()
    arguments = ["shades", str(tmp_path / "held-out.toml"), "--json"]
    again = json.loads(run.invoke(eval_command, arguments, obj=context, catch_exceptions=False).stdout)
    assert again["evaluation"]["metrics"] == pytest.approx(printed["metrics"])
    predictor = load_predictor(context.registry, artifact)
    assert predictor.predict_one(VisionInput(image=shade("红", 999))).labels[0].label == "红"
    predictor.close()


def test_several_labels_a_picture_are_not_trained_on(tmp_path: Path, image_checkpoint: Callable[..., str]) -> None:
    folder = image_checkpoint("vit", problem_type="multi_label_classification")
    with pytest.raises(UnsupportedError, match="a row has one label"):
        trained(shades(12), tmp_path, backbone=folder, epochs=1)
