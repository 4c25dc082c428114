"""What a plan says a graph was run in: int8 where layers of it are quantized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from taskloom.core.runtime import ExecutionPlan, RuntimeConfig
from taskloom.plugins.runtimes import onnx, openvino
from taskloom.plugins.runtimes.graph import Engine, effective
from taskloom.plugins.runtimes.onnx import OnnxRuntime

FED = {"x": np.ones((1, 4), dtype=np.float32)}
PLAN = OnnxRuntime().plan(RuntimeConfig(threads=1)).model_copy(update={"precision": "fp32"})


def onnx_engine(folder: Path, quantized: bool) -> Engine:
    from onnx import TensorProto, helper, save

    path = folder / "model.onnx"
    if quantized:
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["small", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["y"]),
        ]
    else:
        nodes = [helper.make_node("Relu", ["x"], ["y"], name="DynamicQuantizeLinear")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "MatMulInteger", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return onnx._engine(path, 1)


def openvino_engine(folder: Path, quantized: bool) -> Engine:
    from taskloom.plugins._shared.engines import import_openvino

    ov = import_openvino()
    x = ov.opset13.parameter([1, 4], np.float32, name="x")
    ends = [np.float32(bound) for bound in (0, 255, 0, 255)]
    y = ov.opset13.fake_quantize(x, *ends, 256) if quantized else ov.opset13.relu(x)
    x.output(0).get_tensor().set_names({"x"})
    path = folder / "model.xml"
    ov.save_model(ov.Model([y], [x]), path)
    return openvino._engine([path], PLAN)


@pytest.mark.parametrize("made", [onnx_engine, openvino_engine])
@pytest.mark.parametrize("quantized", [True, False])
def test_a_plan_says_int8_only_where_the_graph_computes_in_it(
    made: Callable[[Path, bool], Engine], quantized: bool, tmp_path: Path
) -> None:
    engine = made(tmp_path, quantized)
    assert engine.run(FED)[0].tolist() == [[1.0] * 4]
    plan: ExecutionPlan = effective(PLAN, engine)
    assert plan.precision == ("int8" if quantized else "fp32")
    assert plan == PLAN or plan.reasons[-1] == "int8 where the graph is quantized, fp32 elsewhere"
