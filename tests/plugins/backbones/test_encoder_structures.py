"""What can be taken out of a text encoder: gates are exact, and what is kept computes what the gates showed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from taskloom.core.anatomy import Structure
from taskloom.core.errors import ArtifactError, InvalidInputError
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.loading import Backbone, load_backbone, save_backbone
from taskloom.plugins.backbones.settings import Layout
from taskloom.plugins.backbones.shape import STRUCTURE_FILE
from taskloom.plugins.backbones.structure import encoder_structures

TEXTS = ["where is my card", "hello", "lost " * 80, "the order is lost, a refund?", "a"]


def run(encoder: TextEncoder, backbone: Backbone) -> torch.Tensor:
    found = backbone.tokenizer.encode(TEXTS)
    hidden: torch.Tensor = encoder(found.input_ids, found.token_type_ids, found.lengths)
    return hidden


def structures(backbone: Backbone) -> dict[str, Structure]:
    return {s.name: s for s in encoder_structures(backbone.model, lambda: None)}


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_what_is_kept_computes_what_a_gate_of_zeros_showed(checkpoint: Callable[..., Path], kind: str, layout: Layout) -> None:
    folder = str(checkpoint(kind))
    for name, kept in {"layers": [1], "layers.0.heads": [0, 3], "layers.1.units": [1, 5, 40]}.items():
        backbone = load_backbone(folder)
        encoder = TextEncoder(backbone, layout)
        part = structures(backbone)[name]
        plain = run(encoder, backbone)
        with part.gated(torch.ones(part.size)):
            assert torch.equal(run(encoder, backbone), plain)
        gate = torch.zeros(part.size)
        gate[kept] = 1
        with part.gated(gate):
            shown = run(encoder, backbone)
        assert not torch.allclose(shown, plain, atol=1e-3)
        before = sum(p.numel() for p in backbone.model.parameters())
        lost = part.weights * (part.size - len(kept))
        part.keep(kept)
        assert torch.allclose(run(encoder, backbone), shown, atol=1e-5)
        assert part.size == len(kept)
        assert before - sum(p.numel() for p in backbone.model.parameters()) == lost


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_gate_has_the_gradient_of_the_parts_share(tiny_bert: str, layout: Layout) -> None:
    backbone = load_backbone(tiny_bert)
    encoder = TextEncoder(backbone, layout)
    for part in structures(backbone).values():
        gate = torch.ones(part.size, requires_grad=True)
        with part.gated(gate):
            run(encoder, backbone).square().sum().backward()
        assert gate.grad is not None
        assert gate.grad.abs().min() > 0
        nudge = torch.zeros(part.size)
        nudge[-1] = 1e-3
        with torch.no_grad(), part.gated(torch.ones(part.size) + nudge):
            up = run(encoder, backbone).double().square().sum()
        with torch.no_grad(), part.gated(torch.ones(part.size) - nudge):
            down = run(encoder, backbone).double().square().sum()
        assert float((up - down) / 2e-3) == pytest.approx(float(gate.grad[-1]), rel=0.05, abs=0.05)


def prune(backbone: Backbone) -> None:
    found = structures(backbone)
    found["layers.0.heads"].keep([1, 2])
    found["layers.0.units"].keep(range(16))
    found["layers.1.units"].keep(range(5, 37))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_layers_of_different_shapes_are_read_again(checkpoint: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    backbone = load_backbone(str(checkpoint(kind)))
    prune(backbone)
    expected = run(TextEncoder(backbone), backbone)
    save_backbone(backbone, tmp_path)
    again = load_backbone(str(tmp_path), dtype="auto")
    assert torch.equal(run(TextEncoder(again), again), expected)
    # What was read can be cut and saved once more, and a layer less needs the file no differently.
    structures(again)["layers"].keep([0])
    expected = run(TextEncoder(again), again)
    save_backbone(again, tmp_path)
    assert len(json.loads((tmp_path / STRUCTURE_FILE).read_text())["layers"]) == 1
    once_more = load_backbone(str(tmp_path))
    assert torch.equal(run(TextEncoder(once_more), once_more), expected)


def test_fewer_layers_are_a_plain_checkpoint(tiny_bert: str, tmp_path: Path) -> None:
    backbone = load_backbone(tiny_bert)
    structures(backbone)["layers"].keep([1])
    expected = run(TextEncoder(backbone), backbone)
    save_backbone(backbone, tmp_path)
    assert not (tmp_path / STRUCTURE_FILE).exists()
    again = load_backbone(str(tmp_path))
    assert torch.equal(run(TextEncoder(again), again), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "can't be understood"),
        ('{"format": 2, "layers": [{"heads": 2, "units": 16}, {"heads": 4, "units": 32}]}', "format"),
        ('{"layers": [{"heads": 0, "units": 16}, {"heads": 4, "units": 32}]}', "greater than or equal to 1"),
        ('{"layers": [{"heads": 2, "units": 16}]}', "is of 1 layers, and the encoder has 2"),
        ('{"layers": [{"heads": 2, "units": 16}, {"heads": 9, "units": 32}]}', "9 heads and 32 units in layer 1"),
        ('{"layers": [{"heads": 1, "units": 16}, {"heads": 4, "units": 32}]}', "not of the shape"),
        ('{"layers": [{"heads": 2, "units": 16}, {"heads": 4, "units": 48}]}', "not of the shape"),
    ],
)
def test_a_corrupted_structure_is_refused(tiny_bert: str, tmp_path: Path, content: str, message: str) -> None:
    backbone = load_backbone(tiny_bert)
    prune(backbone)
    save_backbone(backbone, tmp_path)
    (tmp_path / STRUCTURE_FILE).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        load_backbone(str(tmp_path))


def test_without_its_structure_file_a_pruned_backbone_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    backbone = load_backbone(tiny_bert)
    prune(backbone)
    save_backbone(backbone, tmp_path)
    (tmp_path / STRUCTURE_FILE).unlink()
    with pytest.raises(ArtifactError, match="can't be read"):
        load_backbone(str(tmp_path))


def test_something_must_be_kept(tiny_bert: str) -> None:
    part = structures(load_backbone(tiny_bert))["layers.0.heads"]
    for wrong in ([], [4], [-1]):
        with pytest.raises(InvalidInputError, match=r"layers\.0\.heads has the parts 0 to 3"):
            part.keep(wrong)
