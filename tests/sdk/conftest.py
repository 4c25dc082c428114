"""A small real gRPC server on loopback, whose behaviour each test sets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from taskloom.core.errors import TaskloomError
from taskloom.core.types import ErrorInfo, InferResult
from taskloom.core.wire.codec import error_to_message, result_to_message
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.core.wire.gen import inference_pb2_grpc
from taskloom.core.wire.status import to_status

TEXT_SCHEMA = {"properties": {"text": {"type": "string"}, "text_pair": {}}, "required": ["text"]}


class ScriptedGateway(inference_pb2_grpc.InferenceServicer):
    """Answers with the text's length as the score, or what `outputs` has for the model's `task`; `behave` may raise a
    `TaskloomError` first."""

    def __init__(self) -> None:
        self.task = "classification"
        self.outputs: dict[str, dict[str, Any]] = {}
        self.input_schema: dict[str, Any] = TEXT_SCHEMA
        self.behave: Callable[[pb.InferRequest], None] = lambda request: None
        self.describes_after_s = 0.0
        self.requests: list[pb.InferRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.remaining: list[float] = []
        self.now = self.most = 0
        self.lock = threading.Lock()

    def answer(self, request: pb.InferRequest) -> pb.InferResponse:
        with self.lock:
            self.requests.append(request)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.behave(request)
        finally:
            with self.lock:
                self.now -= 1
        kind = request.WhichOneof("input") or "json"
        if self.task in self.outputs:
            result = InferResult(
                request_id=request.request_id,
                model=request.model,
                version="7",
                task=self.task,
                output=self.outputs[self.task],
            )
            return result_to_message(result, kind if kind == self.task else "")
        reply = pb.InferResponse(request_id=request.request_id, model=request.model, version="7", task="classification")
        reply.timings.batch_size = 1
        if kind == "classification":
            reply.classification.labels.add(label="a", score=len(request.classification.text) / 100)
        else:
            reply.json.update({"labels": [{"label": "a", "score": len(request.json["text"]) / 100}], "truncated": False})
        return reply

    def Infer(self, request: pb.InferRequest, context: grpc.ServicerContext) -> pb.InferResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        try:
            return self.answer(request)
        except TaskloomError as error:
            refuse(context, error, request.request_id)

    def InferStream(self, requests: Iterator[pb.InferRequest], context: grpc.ServicerContext) -> Iterator[Any]:
        held: list[pb.InferStreamResponse] = []
        for request in requests:
            try:
                held.append(pb.InferStreamResponse(request_id=request.request_id, response=self.answer(request)))
            except TaskloomError as error:
                message = error_to_message(ErrorInfo.of(error))
                held.append(pb.InferStreamResponse(request_id=request.request_id, error=message))
            if len(held) == 3:  # out of order on purpose
                yield from reversed(held)
                held.clear()
        yield from reversed(held)

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.Model(name="m", version="7", task="classification", aliases=["production"])])

    def DescribeModel(self, request: pb.DescribeModelRequest, context: grpc.ServicerContext) -> pb.DescribeModelResponse:
        time.sleep(self.describes_after_s)
        model = pb.Model(name=request.model, version="7", task=self.task)
        schema = json.dumps(self.input_schema)
        return pb.DescribeModelResponse(model=model, input_schema=schema, output_schema="{}", params_schema="{}")


def refuse(context: grpc.ServicerContext, error: TaskloomError, request_id: str) -> Any:
    code, message, trailing = to_status(error, request_id)
    context.set_trailing_metadata(trailing)
    context.abort(code, message)


def serve(gateway: ScriptedGateway, port: int = 0, serving: bool = True) -> tuple[grpc.Server, int]:
    server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)])
    inference_pb2_grpc.add_InferenceServicer_to_server(gateway, server)
    check = grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01" if serving else b"\x08\x02")
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})])
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, bound


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway()


@pytest.fixture
def address(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[str]:
    monkeypatch.setenv("TASKLOOM_HOME", str(tmp_path))
    monkeypatch.delenv("TASKLOOM_API_KEY", raising=False)
    server, port = serve(gateway)
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def serve_gateway() -> Callable[..., tuple[grpc.Server, int]]:
    return serve
