"""What can be taken out of our own image network, and out of an imported transformer."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from taskloom.core.artifact import Manifest
from taskloom.core.publishing import draft_artifact
from taskloom.plugins.backbones.structure import encoder_structures
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.schema import NetworkSettings

SHAPES = {
    "as shipped": NetworkSettings(stem_width=16, widths=(16, 24, 32), blocks=(0, 1, 2)),
    "straight from the stem": NetworkSettings(stem_width=16, widths=(16, 24), blocks=(2, 2)),
    "wider at once": NetworkSettings(stem_width=24, widths=(16, 32), blocks=(2, 1)),
}


def make(settings: NetworkSettings) -> VisionModel:
    torch.manual_seed(2)
    model = VisionModel.build(["a", "b", "c"], network=settings, size=16, mirrored=True)
    for module in model.module.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.3)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            module.running_mean.normal_(0, 0.3)
    model.module.eval()
    return model


def logits(model: VisionModel) -> torch.Tensor:
    torch.manual_seed(5)
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    found: torch.Tensor = model.forward({"pixels": pixels, "sizes": torch.tensor([[16, 16]] * 3)})["logits"]
    return found


def reloaded(model: VisionModel, folder: Path) -> VisionModel:
    folder.mkdir()
    config = model.save(folder)
    manifest = Manifest(model="m", task="vision", created="2026-01-01T00:00:00Z", config=config, labels=model.labels)
    return VisionModel.load(draft_artifact(folder, manifest))


@pytest.mark.parametrize("settings", SHAPES.values(), ids=list(SHAPES))
def test_what_is_kept_computes_what_a_gate_of_zeros_showed(settings: NetworkSettings, tmp_path: Path) -> None:
    names = [s.name for s in make(settings).structures()]
    assert len(names) == len(set(names)) > 3
    for name in names:
        model = make(settings)
        part = next(s for s in model.structures() if s.name == name)
        plain = logits(model)
        with part.gated(torch.ones(part.size)):
            assert torch.equal(logits(model), plain)
        kept = list(range(0, part.size, 2))
        gate = torch.zeros(part.size)
        gate[kept] = 1
        with part.gated(gate):
            shown = logits(model)
        before = sum(p.numel() for p in model.module.parameters())
        lost = part.weights * (part.size - len(kept))
        part.keep(kept)
        assert part.size == len(kept)
        assert torch.allclose(logits(model), shown, atol=1e-5), name
        if part.kind == "channels":
            assert before - sum(p.numel() for p in model.module.parameters()) == lost
        assert torch.equal(logits(reloaded(model, tmp_path / name)), logits(model)), name


@pytest.mark.parametrize("settings", SHAPES.values(), ids=list(SHAPES))
def test_everything_cut_is_read_again_and_can_be_trained(settings: NetworkSettings, tmp_path: Path) -> None:
    model = make(settings)
    for part in model.structures():
        if part.kind == "channels":
            # Numbers that are no multiple of 8 crash torch 2.13's convolutions in training.
            part.keep(range(8))  # the stem gets as wide as its first stage, with a convolution between them or without
    again = reloaded(model, tmp_path / "model")
    assert torch.equal(logits(again), logits(model))
    model.module.train()
    gates = {s.name: (s, torch.ones(s.size, requires_grad=True)) for s in model.structures()}
    for part, gate in gates.values():
        with part.gated(gate):
            logits(model).square().sum().backward()
        assert gate.grad is not None
        assert gate.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_a_transformer_computes_without_a_part_what_a_gate_of_zero_shows(kind: str) -> None:
    import transformers

    shape = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.AutoConfig.for_model(kind, num_labels=2, intermediate_size=64, **shape)
    classes = {"vit": transformers.ViTForImageClassification, "deit": transformers.DeiTForImageClassification}
    pixels = torch.rand(2, 3, 16, 16)
    for name, kept in {"layers": [1], "layers.0.heads": [0, 3], "layers.1.units": [1, 5, 40]}.items():
        torch.manual_seed(1)
        model = classes[kind](copy.deepcopy(config)).eval()  # a cut changes it
        part = next(s for s in encoder_structures(model, lambda: None) if s.name == name)
        gate = torch.zeros(part.size)
        gate[kept] = 1
        with torch.no_grad():
            plain = model(pixels).logits
            with part.gated(gate):
                shown = model(pixels).logits
            part.keep(kept)
            assert not torch.equal(shown, plain)
            assert torch.allclose(model(pixels).logits, shown, atol=1e-5)
