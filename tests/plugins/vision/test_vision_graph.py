"""The graph of an image classifier gives what its `forward` gives, and the model can be kept apart from its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from vision_pictures import LABELS, shade

from taskloom.core.artifact import Manifest
from taskloom.core.errors import UnsupportedError
from taskloom.core.publishing import draft_artifact
from taskloom.core.task import SharedParts
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.plugin import VisionTask
from taskloom.plugins.tasks.vision.schema import NetworkSettings, VisionInput

SMALL = NetworkSettings(stem_width=8, widths=(8, 16), blocks=(1, 1))
PICTURES = [
    VisionInput(image=shade(label, seed, size))
    for seed, (label, size) in enumerate([("dark", (40, 32)), ("light", (32, 40)), ("红", (40, 32)), ("dark", (48, 64))])
]


def outputs_of(model: VisionModel, batch: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [{"logits": model.graph.module(*feed.values())} for feed in model.graph.feeds(batch)]


def assert_same(model: VisionModel, folder: Path) -> VisionModel:
    """The graph of the model, and that of the same model without weights, give what `forward` gives."""
    model.module.eval()
    batch = model.encode(PICTURES)
    given, wanted = outputs_of(model, batch), model.forward(batch)["logits"]
    folder.mkdir()
    manifest = Manifest(model="m", task="vision", created="2026-01-01T00:00:00Z", config=model.save_rest(folder))
    rest = VisionTask().load(draft_artifact(folder, manifest), SharedParts())
    assert isinstance(rest, VisionModel)
    assert all(weights.is_meta for weights in rest.module.parameters())
    for each in (model, rest):
        torch.testing.assert_close(each.graph.results(given, batch)["logits"], wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(UnsupportedError, match="files of the runtime"):
        rest.save(folder)
    return rest


@pytest.mark.parametrize("mirrored", [False, True])
@torch.inference_mode()
def test_our_own_network_as_a_graph(mirrored: bool, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = VisionModel.build(LABELS, network=SMALL, size=16, mirrored=mirrored)
    rest = assert_same(model, tmp_path / "rest")
    assert rest.graph.inputs[0].dims == ("pictures", 3, 16, 16)
    assert not list((tmp_path / "rest").iterdir())


@pytest.mark.parametrize(("kind", "dims"), [("vit", (3, 32, 32)), ("resnet", (3, "height", "width"))])
@torch.inference_mode()
def test_checkpoints_as_graphs(kind: str, dims: Any, image_checkpoint: Callable[..., str], tmp_path: Path) -> None:
    model = VisionModel.import_checkpoint(image_checkpoint(kind))
    assert model.graph.inputs[0].dims == ("pictures", *dims)
    assert_same(model, tmp_path / "rest")
    assert not list((tmp_path / "rest").rglob("*.safetensors"))
