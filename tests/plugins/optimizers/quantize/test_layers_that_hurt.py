"""Layers whose quantization hurts are found, and stay as they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from taskloom.core.anatomy import Graph, GraphInput
from taskloom.plugins._shared.graph_export import export_onnx
from taskloom.plugins.optimizers.quantize.config import QuantizeConfig
from taskloom.plugins.optimizers.quantize.dynamic import DynamicGraph
from taskloom.plugins.optimizers.quantize.search import Search
from taskloom.plugins.optimizers.quantize.static import StaticGraph


class Mixed(nn.Module):
    """A convolution with a batch norm, attention, a linear layer with one wild channel, and one on vectors, which becomes
    another operation than those on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.query = nn.Linear(8, 8)
        self.wild = nn.Linear(8, 8)
        with torch.no_grad():
            self.wild.weight[0] *= 200
        self.last = nn.Linear(8, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = torch.relu(self.norm(self.conv(pixels))).flatten(2).transpose(1, 2)
        shares = torch.softmax(self.query(maps) @ maps.transpose(1, 2), -1)
        found: Tensor = self.last(self.wild(shares @ maps + maps).mean(1))
        return found


FEEDS = [{"pixels": np.random.default_rng(i).normal(size=(1, 3, 4, 4 + i % 3)).astype(np.float32)} for i in range(8)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = Mixed().eval()
    inputs = (GraphInput(name="pixels", dtype="float32", dims=("pictures", 3, "height", "width")),)
    path = tmp_path_factory.mktemp("graph") / "mixed.onnx"
    export_onnx(Graph(network, inputs, ("found",), lambda _: [], lambda _, batch: batch), path)
    return path


def made(kind: str, source: Path, **config: Any) -> Any:
    settings = QuantizeConfig(**config)
    return StaticGraph.of(source, FEEDS, settings) if kind == "static" else DynamicGraph(source, settings)


def error(quantized: Any, high: Sequence[str]) -> float:
    found = quantized.outputs(quantized.without(frozenset(high)), FEEDS)
    return max(float(np.abs(one - other).max()) for one, other in zip(quantized.original(FEEDS), found, strict=True))


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_graph_with_all_layers_put_back_is_the_original(kind: str, source: Path) -> None:
    quantized = made(kind, source)
    assert {"query/MatMul", "wild/MatMul"} <= set(quantized.layers)
    whole = error(quantized, [])
    assert whole > 1e-3
    assert error(quantized, quantized.layers) < 1e-5
    assert min(error(quantized, [layer]) for layer in quantized.layers) < whole
    counts = quantized.precisions(quantized.without(frozenset({"wild/MatMul"})))
    assert counts["linear"] == {"int8": 2, "fp32": 1}
    assert counts["convolution"] == {"int8": 1}


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_kept_layers_are_never_touched(kind: str, source: Path) -> None:
    quantized = made(kind, source, keep=("wild",))
    assert "wild/MatMul" not in quantized.layers
    assert quantized.precisions(quantized.without(frozenset()))["linear"] == {"int8": 2, "fp32": 1}


def search(drops: dict[int, float], **more: Any) -> Search:
    """Of layers a to h, where c hurts most and then f; `drops` by how many stay high."""
    hurts = {"c": 0.1, "f": 0.2}
    settings = {"max_drop": 0.01, "seconds": 60.0, **more}
    return Search(
        list("abcdefgh"),
        lambda high: hurts.get(next(iter(high)), 0.5),
        lambda high: drops[len(high)],
        **settings,
    )


def test_nothing_stays_high_that_need_not() -> None:
    looking = search({0: 0.01})
    assert looking.run().high == frozenset()
    assert looking.tried == 1


def test_the_worst_layers_stay_high_until_it_is_enough() -> None:
    looking = search({0: 0.2, 1: 0.05, 2: 0.01})
    found = looking.run()
    assert (found.high, found.drop) == (frozenset({"c", "f"}), 0.01)
    assert (looking.tried, looking.finished) == (3, True)


def test_the_best_is_taken_when_nothing_is_enough() -> None:
    found = search({0: 0.2, 1: 0.02, 2: 0.05, 4: 0.03, 8: 0.04}).run()
    assert (found.high, found.drop) == (frozenset({"c"}), 0.02)


def test_the_search_ends_when_its_time_is_over() -> None:
    looking = search({0: 0.2}, seconds=-1.0)
    assert looking.run().drop == 0.2
    assert not looking.finished
