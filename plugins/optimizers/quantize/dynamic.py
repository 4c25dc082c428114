"""Dynamic int8 for ONNX Runtime: activations are rounded by the range that each input has."""

from __future__ import annotations

import logging
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.plugins._shared.graph_export import ONNX_FILE
from taskloom.plugins.optimizers.quantize.config import QuantizeConfig

Feed = Mapping[str, NDArray[Any]]
KINDS = {"MatMul": "linear", "Gemm": "linear", "Conv": "convolution", "LSTM": "recurrent"}
INTEGER = {"MatMulInteger": "linear", "ConvInteger": "convolution", "DynamicQuantizeLSTM": "recurrent"}


class DynamicGraph:
    """An ONNX graph whose layers with weights can be in int8, and whose embeddings are."""

    def __init__(self, source: Path, config: QuantizeConfig) -> None:
        import onnx

        self._source = source
        self._config = config
        self._plain = onnx.load(source)
        constants = {tensor.name for tensor in self._plain.graph.initializer}
        named = [
            node.name for node in self._plain.graph.node if node.op_type in KINDS and constants.intersection(node.input[:2])
        ]
        self._kept = frozenset(name for name in named if any(re.search(pattern, name) for pattern in config.keep))
        self.layers: Sequence[str] = [name for name in named if name not in self._kept]

    def without(self, high: frozenset[str]) -> Any:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            logger = logging.getLogger()
            level = logger.level
            logger.setLevel(logging.ERROR)  # it advises to preprocess, which has been done at export
            try:
                quantize_dynamic(
                    self._with_small_tables,
                    path,
                    per_channel=True,
                    reduce_range=self._config.any_processor,
                    weight_type=QuantType.QInt8,
                    op_types_to_quantize=list(KINDS),
                    # A Gemm becomes a MatMul of another name before it is looked up.
                    nodes_to_exclude=[name + end for name in sorted(high | self._kept) for end in ("", "_MatMul")],
                )
            finally:
                logger.setLevel(level)
            return onnx.load(path)

    def outputs(self, graph: Any, feeds: Sequence[Feed]) -> list[NDArray[Any]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(session.run(None, dict(feed))[0]) for feed in feeds]

    def original(self, feeds: Sequence[Feed]) -> list[NDArray[Any]]:
        return self.outputs(self._plain, feeds)

    def write(self, graph: Any, folder: Path) -> Mapping[str, Path]:
        import onnx

        path = folder / Path(ONNX_FILE).name
        onnx.save(graph, path)
        return {ONNX_FILE: path}

    def precisions(self, graph: Any) -> Mapping[str, Mapping[str, int]]:
        found: dict[str, Counter[str]] = {}
        constants = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
        for node in graph.graph.node:
            if node.op_type in INTEGER:
                found.setdefault(INTEGER[node.op_type], Counter())["int8"] += 1
            elif node.op_type in KINDS:
                kind = KINDS[node.op_type] if constants.keys() & set(node.input[:2]) else "attention product"
                found.setdefault(kind, Counter())["fp32"] += 1
            elif node.op_type == "Gather" and node.name.endswith(TABLE):
                found.setdefault("embedding", Counter())["int8"] += 1
        return found

    @cached_property
    def _with_small_tables(self) -> Any:
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._plain)
        del model.graph.value_info[:]  # ONNX Runtime turns weights over and infers shapes anew
        _shrink_tables(model)
        return model


TABLE = "/int8"


def _shrink_tables(model: Any) -> None:
    """Embedding tables in int8, each row with a scale of its own: `Gather` becomes `Cast(Gather(rows)) * Gather(scales)`.
    ONNX Runtime's own way has one scale for a whole table."""
    from onnx import TensorProto, helper, numpy_helper

    tables = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    nodes, done = [], set()
    for node in model.graph.node:
        if node.op_type != "Gather" or node.input[0] not in tables or any(a.name == "axis" and a.i for a in node.attribute):
            nodes.append(node)
            continue
        table, found = node.input[0], node.output[0]
        if table not in done:
            done.add(table)
            rows = numpy_helper.to_array(tables[table])
            scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny).astype(np.float32)
            small = np.clip(np.round(rows / scales), -127, 127).astype(np.int8)
            model.graph.initializer.append(numpy_helper.from_array(small, f"{table}{TABLE}"))
            model.graph.initializer.append(numpy_helper.from_array(scales, f"{table}/scales"))
        nodes += [
            helper.make_node("Gather", [f"{table}{TABLE}", node.input[1]], [f"{found}/rows"], f"{node.name}{TABLE}"),
            helper.make_node("Gather", [f"{table}/scales", node.input[1]], [f"{found}/scale"], f"{node.name}/scales"),
            helper.make_node("Cast", [f"{found}/rows"], [f"{found}/wide"], f"{node.name}/cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{found}/wide", f"{found}/scale"], [found], f"{node.name}/scaled"),
        ]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
