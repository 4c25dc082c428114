"""The servicer of `taskloom.v1.Inference`: convert, call, convert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from taskloom.core.errors import (
    InvalidInputError,
    PermissionDeniedError,
    TaskloomError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
)
from taskloom.core.ports import PartSink
from taskloom.core.types import ErrorInfo, ModelRef, Principal
from taskloom.core.wire import codec
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.core.wire.gen import inference_pb2_grpc as pb_grpc
from taskloom.server.gateway.caller import CALLER, Caller, deadline_of, named_caller
from taskloom.server.gateway.failures import public_error
from taskloom.server.gateway.streams import OpenStreams
from taskloom.server.parts import PartBuffer
from taskloom.server.service import InferenceService

SERVICE = "taskloom.v1.Inference"
STREAM_CONCURRENCY = 128
"""Requests of one stream that are worked on at a time; more are not read, so that HTTP/2 holds the client back."""

END: object = grpc.aio.EOF  # type: ignore[attr-defined] # the stubs lack it
Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")


class InferenceServicer(pb_grpc.InferenceServicer):
    """Behind the interceptors: the caller is known, and errors are raised."""

    def __init__(
        self, service: InferenceService, default_timeout_s: float, streams: OpenStreams, *, mutual_tls: bool = False
    ) -> None:
        self._service = service
        self._mutual_tls = mutual_tls
        self._default_timeout_s = default_timeout_s
        self._streams = streams

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:  # noqa: N802
        return await answer(self._service, request, named_caller(context, self._mutual_tls), self._deadline(context))

    async def InferStream(self, requests: Any, context: Context) -> None:  # noqa: N802
        """Reads on while fewer than `STREAM_CONCURRENCY` requests are in work; writes answers as they come. When the client
        is done sending, the server drains, or the key ends, what was read until then is still answered."""
        stream = _Stream(self._service, context, named_caller(context, self._mutual_tls), self._deadline)
        ended: TaskloomError | None = None
        async with asyncio.TaskGroup() as group:
            try:
                await self._streams.run(stream.read(group))
            except (UnavailableError, UnauthenticatedError) as error:
                ended = error
        if ended is not None:
            raise ended

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: N802
        infos = await self._looked("ListModels", "", self._service.models)
        return pb.ListModelsResponse(models=[codec.model_to_message(info) for info in infos])

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:  # noqa: N802
        ref = ModelRef.parse(f"{request.model}@{request.version}" if request.version else request.model)
        found = await self._looked("DescribeModel", ref.name, lambda principal: self._service.describe(principal, ref))
        return codec.description_to_message(found)

    async def _looked(self, method: str, model: str, look: Callable[[Principal], T]) -> T:
        """What a look at the models shows. It asks nothing of them, and only that it was refused is on record."""
        caller = CALLER.get()
        principal = caller.identity()
        try:
            return look(principal)
        except (PermissionDeniedError, ThrottledError) as error:
            facts = {**caller.facts, "method": method}
            await self._service.record_refusal(principal, error, caller.request_id, model, facts=facts, counted=True)
            raise

    def _deadline(self, context: Context) -> float:
        return deadline_of(context, self._default_timeout_s)


async def answer(
    service: InferenceService,
    request: pb.InferRequest,
    caller: Caller,
    deadline_s: float,
    send: PartSink | None = None,
) -> pb.InferResponse:
    """The answer to one message; raises a `TaskloomError`. With `send`, parts of it go there first."""
    principal = caller.identity()
    if request.request_id:
        caller.request_id = request.request_id
    else:
        request.request_id = caller.request_id
    try:
        call = codec.request_from_message(request, deadline_s)
    except InvalidInputError as error:
        refused = (principal, error, caller.request_id, request.model[:128])
        await service.record_refusal(*refused, facts=caller.facts, counted=True)  # it spends no token of the key's rate
        raise
    result = await service.infer(principal, call, caller.facts, send)
    return codec.result_to_message(result, call.typed_as)


class _Stream:
    """One `InferStream` call."""

    def __init__(
        self, service: InferenceService, context: Context, caller: Caller, deadline: Callable[[Context], float]
    ) -> None:
        self._service = service
        self._context = context
        self._caller = caller
        self._deadline = deadline
        self._slots = asyncio.Semaphore(STREAM_CONCURRENCY)
        self._writing = asyncio.Lock()

    async def read(self, group: asyncio.TaskGroup) -> None:
        """Starts an answer for each message, until the client is done sending or its key is no longer valid."""
        while True:
            # The slot comes before the message: what was read is being worked on, and will be answered.
            await self._slots.acquire()
            request = await self._context.read()
            if request is END:
                return
            if self._caller.authenticate is not None:
                await self._caller.authenticate()  # a stream may outlive its key
            group.create_task(self._answer_in_parts(request, group) if request.partials else self._answer(request))

    async def _answer_in_parts(self, request: pb.InferRequest, group: asyncio.TaskGroup) -> None:
        """The model does not wait for a slow client: what it writes meanwhile is sent together."""
        parts = PartBuffer()
        writing = group.create_task(self._write_parts(request, parts))
        message = await self._message(request, parts.add)
        parts.end()
        await writing
        await self._write(message)
        self._slots.release()

    async def _write_parts(self, request: pb.InferRequest, parts: PartBuffer) -> None:
        async for text in parts:
            await self._write(pb.InferStreamResponse(request_id=request.request_id, partial=pb.Partial(text=text)))

    async def _answer(self, request: pb.InferRequest) -> None:
        await self._write(await self._message(request))
        self._slots.release()

    async def _message(self, request: pb.InferRequest, send: PartSink | None = None) -> pb.InferStreamResponse:
        """What becomes of one request. Its id is set by the time that anything is sent."""
        caller = Caller()
        caller.principal, caller.facts = self._caller.principal, self._caller.facts
        CALLER.set(caller)
        try:
            response = await answer(self._service, request, caller, self._deadline(self._context), send)
            return pb.InferStreamResponse(request_id=request.request_id, response=response)
        except Exception as error:
            told = codec.error_to_message(ErrorInfo.of(public_error(error, caller.request_id)))
            return pb.InferStreamResponse(request_id=request.request_id or caller.request_id, error=told)

    async def _write(self, message: pb.InferStreamResponse) -> None:
        async with self._writing:
            await self._context.write(message)
