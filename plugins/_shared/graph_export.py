"""A model's graph as an ONNX file, the form from which every other engine's is made."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taskloom.core.anatomy import Graph, GraphInput
from taskloom.core.errors import MissingDependencyError, UnsupportedError

ONNX_FILE = "graph/model.onnx"
OPENVINO_FILES = ("graph/model.xml", "graph/model.bin")
"""Where an artifact holds a graph for a runtime."""

OPSET = 20
SIZES = (3, 5, 7, 11)
"""What dimensions that vary are while the graph is traced, one after the other; 0 and 1 would be taken for constants."""
SCOPES = "pkg.torch.onnx.name_scopes"


def export_onnx(graph: Graph, path: Path) -> None:
    """Writes the graph, in fp32. Its nodes are named for the modules that they come from.

    Raises `UnsupportedError` for a graph that has no weights or that torch can't trace.
    """
    if find_spec("onnxscript") is None:
        raise MissingDependencyError("writing a model's graph for another runtime needs: pip install 'taskloom[optimize]'")
    if any(weights.is_meta for weights in graph.module.parameters()):
        raise UnsupportedError(
            "the model's graph has no weights: they are in the files of the runtime that its artifact demands"
        )
    graph.module.float().eval()
    examples, shapes = _examples(graph.inputs)
    with _quiet():
        try:
            program = torch.onnx.export(
                graph.module,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=[put.name for put in graph.inputs],
                output_names=list(graph.outputs),
                dynamic_shapes=shapes,
                verbose=False,
            )
        except Exception as exc:
            raise UnsupportedError(f"the model's graph can't be written as ONNX: {_cause(exc)}") from exc
    assert program is not None
    _name_nodes(program.model)
    program.save(path, external_data=False)


def arrays(feed: Mapping[str, Any]) -> dict[str, Any]:
    """What a graph is fed, as numpy arrays."""
    return {name: tensor.contiguous().numpy() for name, tensor in feed.items()}


def _examples(inputs: tuple[GraphInput, ...]) -> tuple[tuple[Tensor, ...], list[dict[int, Any]]]:
    """Tensors of zeros to trace with, and which of their dimensions vary."""
    names = list(dict.fromkeys(dim for put in inputs for dim in put.dims if isinstance(dim, str)))
    sizes = dict(zip(names, SIZES, strict=False))
    examples = tuple(
        torch.zeros([sizes[dim] if isinstance(dim, str) else dim for dim in put.dims], dtype=getattr(torch, put.dtype))
        for put in inputs
    )
    vary = torch.export.Dim.DYNAMIC
    return examples, [{i: vary for i, dim in enumerate(put.dims) if isinstance(dim, str)} for put in inputs]


def _name_nodes(model: Any) -> None:
    """Names each node `module.path/Operation` and drops what the exporter notes of this machine (stack traces)."""
    taken: dict[str, int] = {}
    for node in model.graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
        name = f"{scopes[-2] if len(scopes) > 1 else 'graph'}/{node.op_type}"
        taken[name] = taken.get(name, 0) + 1
        node.name = name if taken[name] == 1 else f"{name}.{taken[name]}"
        node.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def _cause(exc: BaseException) -> str:
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
