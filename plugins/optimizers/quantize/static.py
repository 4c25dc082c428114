"""Static int8 for OpenVINO, by NNCF: ranges of activations come from calibration data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.plugins._shared.engines import import_nncf, import_openvino, quiet_nncf
from taskloom.plugins._shared.graph_export import OPENVINO_FILES
from taskloom.plugins.optimizers.quantize.config import QuantizeConfig

Feed = Mapping[str, NDArray[Any]]
KINDS = {"MatMul": "linear", "Convolution": "convolution", "GroupConvolution": "convolution", "Gather": "embedding"}
RECURRENT = {"LSTMSequence"}
"""What NNCF quantizes and OpenVINO's CPU plugin then can't read: its weights must be plain."""
MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze"}
"""What hands numbers on as they are."""
SMOOTHED = "nncf_smooth_quant"
"""What NNCF calls the multiplication by which it moves outliers from activations into weights (Xiao et al. 2023,
https://arxiv.org/abs/2211.10438)."""


@dataclass
class StaticGraph:
    """`graph` is `source` in int8; nodes have the same names in both. Embeddings stay in int8: each row has a scale of its
    own."""

    source: Any
    graph: Any
    layers: Sequence[str]

    @classmethod
    def of(cls, path: Path, feeds: Sequence[Feed], config: QuantizeConfig) -> StaticGraph:
        nncf = import_nncf()
        source = import_openvino().Core().read_model(path)
        names = [node.get_friendly_name() for node in _layers(source)]
        ignored = [name for name in names if any(re.search(pattern, name) for pattern in config.keep)]
        ignored += [node.get_friendly_name() for node in source.get_ops() if node.get_type_name() in RECURRENT]
        attends = any(node.get_type_name() in {"Softmax", "ScaledDotProductAttention"} for node in source.get_ops())
        overflow = nncf.OverflowFix.ENABLE if config.any_processor else nncf.OverflowFix.DISABLE
        with quiet_nncf():
            graph = nncf.quantize(
                source,
                nncf.Dataset(list(feeds)),
                # Without it, NNCF quantizes what transformers can't do without.
                model_type=nncf.ModelType.TRANSFORMER if attends else None,
                subset_size=len(feeds),
                ignored_scope=nncf.IgnoredScope(names=ignored) if ignored else None,
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
            )
        plain = {node.get_friendly_name(): node for node in _layers(source)}
        layers = [
            node.get_friendly_name()
            for node in _layers(graph)
            if node.get_type_name() != "Gather" and _is_quantized(node) and node.get_friendly_name() in plain
        ]
        return cls(source, graph, layers)

    def without(self, high: frozenset[str]) -> Any:
        graph = self.graph.clone()
        before = {node.get_friendly_name(): node for node in self.source.get_ops()}
        for node in graph.get_ordered_ops():
            if node.get_friendly_name() in high:
                _put_back(node, before)
        _stop_rounding(graph, {name for name in self.layers if name not in high})
        graph.validate_nodes_and_infer_types()
        return graph

    def outputs(self, graph: Any, feeds: Sequence[Feed]) -> list[NDArray[Any]]:
        threads = torch.get_num_threads()
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        request = import_openvino().Core().compile_model(graph, "CPU", options).create_infer_request()
        return [request.infer(dict(feed))[0].copy() for feed in feeds]

    def original(self, feeds: Sequence[Feed]) -> list[NDArray[Any]]:
        return self.outputs(self.source, feeds)

    def write(self, graph: Any, folder: Path) -> Mapping[str, Path]:
        paths = {name: folder / Path(name).name for name in OPENVINO_FILES}
        import_openvino().save_model(graph, paths[OPENVINO_FILES[0]], compress_to_fp16=False)
        return paths

    def precisions(self, graph: Any) -> Mapping[str, Mapping[str, int]]:
        found: dict[str, Counter[str]] = {}
        for node in _layers(graph):
            kind = KINDS[node.get_type_name()]
            if kind == "linear" and _weights(node) is None:
                kind = "attention product"
            found.setdefault(kind, Counter())["int8" if _is_quantized(node) else "fp32"] += 1
        return found


def _layers(graph: Any) -> list[Any]:
    """The nodes that multiply by weights or by each other, and embeddings."""
    found = [node for node in graph.get_ordered_ops() if node.get_type_name() in KINDS]
    return [node for node in found if node.get_type_name() != "Gather" or _rank(node) == 2]


def _rank(node: Any) -> int:
    """The dimensions of what a node takes first, if these are weights; 0 for what was computed."""
    weights = _weights(node, 0)
    return 0 if weights is None else len(weights.get_output_shape(0))


def _weights(node: Any, place: int = 1) -> Any:
    """The constant behind an input, whatever unpacks it; None for what was computed."""
    found = node.input_value(place).get_node()
    while found.get_type_name() in {"Multiply", "Subtract", "Convert", "FakeQuantize", "Reshape", "Transpose"}:
        found = found.input_value(0).get_node()
    return found if found.get_type_name() == "Constant" else None


def _is_quantized(node: Any) -> bool:
    weights = _weights(node, 0 if node.get_type_name() == "Gather" else 1)
    if weights is not None:
        return str(weights.get_element_type().get_type_name()) in {"i8", "u8"}
    return all(_is_rounded(node.input_value(place)) for place in range(2))


def _is_rounded(value: Any) -> bool:
    while value.get_node().get_type_name() in MOVES:
        value = value.get_node().input_value(0)
    return bool(value.get_node().get_type_name() == "FakeQuantize")


def _put_back(node: Any, before: Mapping[str, Any]) -> None:
    """Gives a node what it had: inputs that are not rounded, its own weights, and its own bias, which NNCF corrects."""
    for place in range(2):
        source = node.input_value(place)
        if source.get_node().get_type_name() == "FakeQuantize":
            source = source.get_node().input_value(0)
        if SMOOTHED in source.get_node().get_friendly_name():
            source = source.get_node().input_value(0)
        node.input(place).replace_source_output(source)
    plain = before[node.get_friendly_name()]
    if _weights(plain) is None:
        return
    _copy_constant(node, plain, 1)
    for target in node.output(0).get_target_inputs():
        after = target.get_node()
        if after.get_type_name() == "Add" and after.get_friendly_name() in before:
            own = before[after.get_friendly_name()]
            for place in range(2):
                if own.input_value(place).get_node().get_type_name() == "Constant":
                    _copy_constant(after, own, place)


def _stop_rounding(graph: Any, layers: set[str]) -> None:
    """Takes out the rounding of numbers that none of these layers is given: sums are rounded as well, for the sake of the
    layers behind them."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize" or _is_needed(node, layers):
            continue
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(node.input_value(0))


def _is_needed(rounding: Any, layers: set[str]) -> bool:
    """Whether the numbers come to one of the layers before any other layer or rounding changes them."""
    seen, ahead = set(), [rounding]
    while ahead:
        for target in ahead.pop().output(0).get_target_inputs():
            node = target.get_node()
            name = node.get_friendly_name()
            if name in layers:
                return True
            if name not in seen and node.get_type_name() not in {*KINDS, "FakeQuantize", "Result"}:
                seen.add(name)
                ahead.append(node)
    return False


def _copy_constant(node: Any, plain: Any, place: int) -> None:
    weights = plain.input_value(place).get_node()
    if weights.get_type_name() == "Constant":
        copy = import_openvino().opset13.constant(np.array(weights.data))
        copy.set_friendly_name(weights.get_friendly_name())
        node.input(place).replace_source_output(copy.output(0))
