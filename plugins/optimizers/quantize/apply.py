"""Quantizing a model: a graph with all layers in int8, then those that hurt put back."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.core.anatomy import Graph
from taskloom.core.errors import InvalidInputError, UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized
from taskloom.core.task import Example, TaskModel
from taskloom.plugins._shared.graph_export import arrays, export_onnx
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.optimizers.quantize.config import RUNTIMES, QuantizeConfig
from taskloom.plugins.optimizers.quantize.search import Search, Tried

COMPARED = 32
"""Feeds on which a quantized graph is compared with the one that it was made from."""

Feed = Mapping[str, NDArray[Any]]


class QuantizedGraph(Protocol):
    """A graph in int8 from which any layers can be put back."""

    layers: Sequence[str]

    def without(self, high: frozenset[str]) -> Any:
        """The graph with these layers in fp32."""
        ...

    def outputs(self, graph: Any, feeds: Sequence[Feed]) -> list[NDArray[Any]]: ...

    def original(self, feeds: Sequence[Feed]) -> list[NDArray[Any]]:
        """What the graph that this was made from gives."""
        ...

    def write(self, graph: Any, folder: Path) -> Mapping[str, Path]:
        """Writes the graph's files; returns them by their names in an artifact."""
        ...

    def precisions(self, graph: Any) -> Mapping[str, Mapping[str, int]]:
        """For each kind of layer, how many are in which precision."""
        ...


def apply(model: TaskModel[Any, Any, Any], config: QuantizeConfig, context: OptimizeContext) -> Optimized:
    if config.mode == "bf16":
        return _rounded(model)
    graph = model.graph
    if graph is None:
        raise UnsupportedError(
            f"quantize: no part of a {type(model).__name__} is a graph that a runtime could run in int8 (a model that writes "
            "its answer token by token has none); use mode 'bf16'"
        )
    folder = context.run.work_folder
    source = folder / "source.onnx"
    export_onnx(graph, source)
    feeds = _feeds(model, graph, context.train, config)
    quantized = _quantized(source, feeds, config)
    return _best(model, quantized, feeds[:COMPARED], config, context)


def _quantized(source: Path, feeds: Sequence[Feed], config: QuantizeConfig) -> QuantizedGraph:
    if config.mode == "static":
        from taskloom.plugins.optimizers.quantize.static import StaticGraph

        return StaticGraph.of(source, feeds, config)
    from taskloom.plugins.optimizers.quantize.dynamic import DynamicGraph

    return DynamicGraph(source, config)


def _feeds(model: TaskModel[Any, Any, Any], graph: Graph, rows: Sequence[Example[Any]], config: QuantizeConfig) -> list[Feed]:
    """What the graph is fed for some of the rows, one row at a time: sequences without padding. A row that has nothing for it
    as it is asked may have something as it is trained on: a recommender's history is then told in words."""
    chosen = list(rows)
    random.Random(config.seed).shuffle(chosen)
    del chosen[config.calibration_rows :]
    found: list[Feed] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for row in chosen:
            feeds = list(graph.feeds(model.encode([row.input]))) or graph.feeds(model.collate([row]))
            found += [arrays(feed) for feed in feeds]
    if not found:
        raise InvalidInputError("quantize: there is no training row whose input the graph sees; give rows to calibrate with")
    return found[: config.calibration_rows]


def _best(
    model: TaskModel[Any, Any, Any],
    quantized: QuantizedGraph,
    feeds: Sequence[Feed],
    config: QuantizeConfig,
    context: OptimizeContext,
) -> Optimized:
    folder = context.run.work_folder / "graph"
    folder.mkdir(exist_ok=True)
    wanted = quantized.original(feeds)

    def made(high: frozenset[str]) -> Optimized:
        graph = quantized.without(high)
        found = quantized.outputs(graph, feeds)
        cosines = [_cosine(one, other) for one, other in zip(wanted, found, strict=True)]
        facts = {
            "mode": config.mode,
            "layers": {kind: dict(counts) for kind, counts in quantized.precisions(graph).items()},
            "kept_high": sorted(high),
            "compared": {"feeds": len(cosines), "cosine_mean": _round(np.mean(cosines)), "cosine_least": _round(min(cosines))},
        }
        files = quantized.write(graph, folder)
        return Optimized(model, facts, files=files, runtime=RUNTIMES[config.mode], external=True)

    def distance(high: frozenset[str]) -> float:
        found = quantized.outputs(quantized.without(high), feeds)
        return float(np.mean([_distance(one, other) for one, other in zip(wanted, found, strict=True)]))

    found = made(frozenset())
    if not context.validation or not config.search_s:
        return found
    metric = next(metric for metric in context.task.metrics if metric.name == context.task.primary_metric)
    sign = 1.0 if metric.higher_is_better else -1.0
    before = context.score(Optimized(model, {}))[metric.name]

    def lost(high: frozenset[str]) -> float:
        after = context.score(made(high))[metric.name]
        return sign * (before - after) / abs(before) if before else 0.0

    search = Search(quantized.layers, distance, lost, max_drop=config.max_drop, seconds=config.search_s)
    chosen: Tried = search.run()
    found = made(chosen.high)
    facts = {
        "metric": metric.name,
        "before": before,
        "drop": _round(chosen.drop),
        "max_drop": config.max_drop,
        "tried": search.tried,
        "time_was_enough": search.finished,
    }
    return Optimized(model, {**found.facts, "accuracy": facts}, files=found.files, runtime=found.runtime, external=True)


def _rounded(model: TaskModel[Any, Any, Any]) -> Optimized:
    """Weights in bf16: what is saved is exactly what is loaded, by any runtime, in any precision of 8 bits or more."""
    if model.module is None:
        raise UnsupportedError(f"quantize: a {type(model).__name__} has no weights")
    if isinstance(model, EncoderTaskModel):
        model.own_backbone()
    model.module.to(torch.bfloat16)
    numbers = sum(weights.numel() for weights in model.module.parameters())
    return Optimized(model, {"mode": "bf16", "layers": {"all": {"bf16": numbers}}})


def _cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    norms = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norms if norms else 1.0


def _distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The error's length as a share of the original's."""
    size = float(np.linalg.norm(one))
    return float(np.linalg.norm(one - other)) / size if size else 0.0


def _round(value: Any) -> float:
    return round(float(value), 6)
