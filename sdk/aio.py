"""The client of a gateway for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, cast

import grpc
from grpc import aio

from taskloom.core.errors import (
    DeadlineExceededError,
    InvalidInputError,
    RequestCancelledError,
    TaskloomError,
    UnavailableError,
    UnsupportedError,
)
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef, new_request_id
from taskloom.core.wire.codec import (
    description_from_message,
    model_from_message,
    request_to_message,
    result_from_message,
    typed_tasks,
)
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.core.wire.gen.inference_pb2_grpc import InferenceStub
from taskloom.core.wire.gen.knowledge_pb2_grpc import KnowledgeStub
from taskloom.core.wire.status import REQUEST_ID_KEY
from taskloom.sdk import tasks
from taskloom.sdk.connection import (
    HEALTH_METHOD,
    HEALTH_REQUEST,
    Connection,
    channel_options,
    is_serving,
    made_by_grpc,
    not_ready,
)
from taskloom.sdk.knowledge import AsyncKnowledgeCalls
from taskloom.sdk.knowledge_operations import Feed, Operation, StreamedOperation
from taskloom.sdk.requests import (
    BatchOptions,
    CallOptions,
    build_call,
    check_concurrency,
    check_options,
    check_timeout,
    concerns_every_item,
    describe_request,
    left_since,
    model_ref,
    text_field,
    timeout_of,
)
from taskloom.sdk.results import ItemResult, TaskResult
from taskloom.sdk.retries import Attempts, RetryPolicy
from taskloom.sdk.streams import Outstanding
from taskloom.sdk.text_streams import AsyncTextSource, AsyncTextStream, ended_early, piece_from_message, was_cancelled

T = TypeVar("T")
V = TypeVar("V")
P = ParamSpec("P")
R = TypeVar("R", bound=TaskResult)
Inputs = Iterable[Mapping[str, Any] | str] | AsyncIterable[Mapping[str, Any] | str]


def awaitable(ask: Callable[P, tasks.Question[R]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]]:
    """The call of a task as a method whose answer is awaited."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._ask(ask(*args, **kwargs))

    return tasks.as_method(method, ask)


class AsyncClient(AsyncKnowledgeCalls):
    """`Client` for asyncio: the same arguments, calls, results and errors. It belongs to the event loop of its first call.

    async with AsyncClient(timeout_s=10) as client:
        result = await client.classify("My card has not arrived", model="intent-en")
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        ca_certificate: str | Path | None = None,
        client_certificate: str | Path | None = None,
        client_key: str | Path | None = None,
        insecure: bool | None = None,
        timeout_s: float = 60.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.retry = retry or RetryPolicy()
        self._connection = Connection.resolve(
            address,
            api_key=api_key,
            ca_certificate=ca_certificate,
            client_certificate=client_certificate,
            client_key=client_key,
            insecure=insecure,
        )
        self._metadata = aio.Metadata(*self._connection.metadata())
        self._text_inputs: dict[ModelRef, tuple[str, str]] = {}
        self._answered = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: aio.Channel | None = None
        self._stub: Any = None
        self._bases: Any = None

    @property
    def address(self) -> str:
        """Where the gateway is."""
        return self._connection.address

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r}, {'TLS' if self._connection.secure else 'plaintext'})"

    # -- calls ---------------------------------------------------------------------------------------------------------------

    async def infer(
        self,
        model: str,
        input: Mapping[str, Any] | str,
        **options: Unpack[CallOptions],
    ) -> InferResult:
        """As `Client.infer`."""
        check_options(options, CallOptions)
        options["timeout_s"] = timeout_s = await self._looked_up(model, input, options)
        return await self._answer(self._call(model, input, **options), timeout_s)

    classify = awaitable(tasks.classify)
    ner = awaitable(tasks.ner)
    answer = awaitable(tasks.answer)
    summarize = awaitable(tasks.summarize)
    recommend = awaitable(tasks.recommend)
    classify_image = awaitable(tasks.classify_image)

    def stream_text(
        self,
        model: str,
        input: Mapping[str, Any] | str,
        **options: Unpack[CallOptions],
    ) -> AsyncTextStream[InferResult]:
        """As `Client.stream_text`; not to be awaited: `async with client.stream_text(...) as stream`."""
        check_options(options, CallOptions)
        timeout_s = timeout_of(options, self.timeout_s)
        options["request_id"] = options.get("request_id") or new_request_id()  # the same for every attempt

        async def open_source(left_s: float) -> AsyncTextSource[InferResult]:
            check_timeout(timeout_s)
            asked: CallOptions = {**options, "timeout_s": left_s}
            asked["timeout_s"] = left_s = await self._looked_up(model, input, asked)
            call = self._call(model, input, **asked)
            return self._read_text(call.model_copy(update={"partials": True}), left_s)

        return AsyncTextStream(Attempts(self.retry, timeout_s), open_source, lambda: self._answered)

    async def infer_many(
        self,
        model: str,
        inputs: Inputs,
        *,
        max_concurrency: int = 32,
        **options: Unpack[BatchOptions],
    ) -> AsyncIterator[ItemResult]:
        """As `Client.infer_many`; `inputs` may be asynchronous."""
        check_concurrency(max_concurrency)
        check_options(options, BatchOptions)
        window: deque[asyncio.Task[ItemResult]] = deque()

        async def one(index: int, item: Mapping[str, Any] | str) -> ItemResult:
            try:
                asked: BatchOptions = {**options, "timeout_s": await self._looked_up(model, item, options)}
            except UnsupportedError as error:  # the model takes no bare text, and answers other items
                return ItemResult(index, error=error)
            try:
                result = await self.infer(model, item, **asked)
            except TaskloomError as error:
                if concerns_every_item(error, self._answered):
                    raise
                return ItemResult(index, error=error)
            return ItemResult(index, result)

        try:
            async for index, item in _numbered(inputs):
                window.append(asyncio.create_task(one(index, item)))
                while window and (len(window) >= max_concurrency or window[0].done()):
                    yield await window.popleft()
            while window:
                yield await window.popleft()
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    async def stream(
        self,
        model: str,
        inputs: Inputs,
        *,
        max_concurrency: int = 64,
        **options: Unpack[BatchOptions],
    ) -> AsyncIterator[ItemResult]:
        """As `Client.stream`; `inputs` may be asynchronous."""
        check_concurrency(max_concurrency)
        check_options(options, BatchOptions)
        options["timeout_s"] = timeout_s = timeout_of(options, self.timeout_s)
        outstanding = Outstanding()
        room = asyncio.Semaphore(max_concurrency)
        failure: list[BaseException] = []

        async def requests() -> AsyncIterator[pb.InferRequest]:
            try:
                async for index, item in _numbered(inputs):
                    try:
                        await self._looked_up(model, item, options)
                        call = self._call(model, item, **options)
                        message = request_to_message(call)
                    except InvalidInputError as error:
                        outstanding.refused(index, error)
                        continue
                    await room.acquire()
                    outstanding.sent(index, call.request_id)
                    yield message
            except Exception as exc:  # gRPC would log it, cancel the call, and lose it
                failure.append(exc)
                raise

        replies = self._opened().InferStream(requests(), timeout=timeout_s, metadata=self._metadata)
        try:
            async for reply in replies:
                self._answered = True
                room.release()
                for refused in outstanding.take_refused():
                    yield refused
                yield outstanding.answered(reply)
            for refused in outstanding.take_refused():
                yield refused
        except grpc.RpcError as exc:
            raise outstanding.broken(self._connection.explain(exc, timeout_s=timeout_s)) from exc
        except asyncio.CancelledError:
            if failure:
                raise failure[0] from None
            raise
        finally:
            replies.cancel()

    async def models(self) -> list[ModelInfo]:
        """As `Client.models`."""
        reply = await self._patiently(self._opened().ListModels, pb.ListModelsRequest(), self.timeout_s)
        return [model_from_message(message) for message in reply.models]

    async def describe(self, model: str, *, version: str | None = None) -> ModelDescription:
        """As `Client.describe`."""
        return await self._described(model_ref(model, version), self.timeout_s)

    async def _described(self, ref: ModelRef, timeout_s: float) -> ModelDescription:
        request = describe_request(ref)
        return description_from_message(await self._patiently(self._opened().DescribeModel, request, timeout_s))

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """As `Client.wait_ready`."""
        self._opened()
        health = cast(aio.Channel, self._channel).unary_unary(HEALTH_METHOD, bytes, bytes)
        deadline = time.monotonic() + timeout_s
        reason: TaskloomError | None = None
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                if is_serving(await self._once(health, HEALTH_REQUEST, left_s)):
                    return
                reason = None
            except (UnavailableError, DeadlineExceededError) as error:
                reason = error
            await asyncio.sleep(min(0.1, max(0.0, deadline - time.monotonic())))
        raise not_ready(self.address, timeout_s, reason)

    async def close(self) -> None:
        """Ends every call that is under way. Closing twice does no harm."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # -- the steps of a call ---------------------------------------------------------------------------------------------------

    async def _ask(self, question: tasks.Question[R]) -> R:
        timeout_s = timeout_of(question.options, self.timeout_s)
        call = question.call(timeout_s, typed_as=_typed_as(question.result.task))
        return question.result.of(await self._answer(call, timeout_s))

    async def _looked_up(self, model: str, input: Mapping[str, Any] | str, options: BatchOptions | CallOptions) -> float:
        """As `SyncCalls._looked_up`."""
        timeout_s = timeout_of(options, self.timeout_s)
        ref = model_ref(model, options.get("version"))
        if isinstance(input, str) and ref not in self._text_inputs:
            check_timeout(timeout_s)
            began = time.monotonic()
            description = await self._described(ref, timeout_s)
            self._text_inputs[ref] = (description.info.task, text_field(description))
            return left_since(began, timeout_s)
        return timeout_s

    def _call(self, model: str, input: Mapping[str, Any] | str, *, version: str | None = None, **options: Any) -> InferCall:
        ref = model_ref(model, version)
        if not isinstance(input, str):
            return build_call(ref, input, **options)
        task, field = self._text_inputs[ref]
        return build_call(ref, {field: input}, typed_as=_typed_as(task), **options)

    async def _answer(self, call: InferCall, timeout_s: float) -> InferResult:
        message = request_to_message(call)
        return result_from_message(await self._patiently(self._opened().Infer, message, timeout_s, call.request_id))

    def _read_text(self, call: InferCall, timeout_s: float) -> AsyncTextSource[InferResult]:
        requests = iter((request_to_message(call),))
        replies = self._opened().InferStream(requests, timeout=timeout_s, metadata=self._metadata)
        return self._in_parts(replies, piece_from_message, call.request_id, timeout_s)

    async def _read_answer(self, operation: StreamedOperation[V], timeout_s: float) -> AsyncTextSource[V]:
        self._opened()
        metadata = aio.Metadata(*self._connection.metadata(), (REQUEST_ID_KEY, operation.request_id))
        replies = getattr(self._bases, operation.method)(operation.send(), timeout=timeout_s, metadata=metadata)
        return self._in_parts(replies, operation.read, operation.request_id, timeout_s)

    def _in_parts(self, replies: Any, read: Callable[[Any], str | V], request_id: str, timeout_s: float) -> AsyncTextSource[V]:
        async def read_next() -> str | V:
            try:
                reply = await replies.read()
            except grpc.RpcError as exc:
                self._answered = self._answered or not made_by_grpc(exc)
                raise self._connection.explain(exc, request_id, timeout_s) from exc
            if reply is aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
                raise ended_early()
            self._answered = True
            return read(reply)

        return AsyncTextSource(read_next, replies.cancel)

    async def _attempt(self, operation: Operation[V], left_s: float) -> V:
        self._opened()
        metadata = aio.Metadata(*self._connection.metadata(), (REQUEST_ID_KEY, operation.request_id))
        method, sent = getattr(self._bases, operation.method), operation.send()
        try:
            return operation.read(await self._once(method, sent, left_s, operation.request_id, metadata))
        except (TaskloomError, asyncio.CancelledError) as exc:
            if isinstance(sent, Feed) and sent.failure is not None:
                raise sent.failure from exc
            raise

    async def _patiently(
        self, method: Callable[..., Awaitable[T]], request: Any, timeout_s: float, request_id: str = ""
    ) -> Any:
        """Repeats a call as the policy says."""
        attempts = Attempts(self.retry, timeout_s)
        while True:
            try:
                return await self._once(method, request, attempts.remaining_s(), request_id)
            except TaskloomError as error:
                await asyncio.sleep(attempts.wait_after(error, hopeless=not self._answered))

    async def _once(
        self,
        method: Callable[..., Awaitable[T]],
        request: Any,
        timeout_s: float,
        request_id: str = "",
        metadata: aio.Metadata | None = None,
    ) -> T:
        try:
            reply = await method(request, timeout=timeout_s, metadata=metadata or self._metadata)
        except grpc.RpcError as exc:
            self._answered = self._answered or not made_by_grpc(exc)
            raise self._connection.explain(exc, request_id, timeout_s) from exc
        except asyncio.CancelledError:
            if self._closed and not was_cancelled():
                raise RequestCancelledError("the AsyncClient was closed before the answer was there") from None
            raise
        self._answered = True
        return reply

    def _opened(self) -> Any:
        """The stub, on a channel of the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop is loop and self._channel is not None:
            return self._stub
        if self._closed:
            raise UnsupportedError("this AsyncClient is closed; make a new one")
        if self._loop is not None:
            raise UnsupportedError("this AsyncClient belongs to another event loop; make one in each loop that needs one")
        options = channel_options(self.retry)
        credentials = self._connection.credentials()
        self._channel = (
            aio.insecure_channel(self.address, options)
            if credentials is None
            else aio.secure_channel(self.address, credentials, options)
        )
        self._loop, self._stub = loop, InferenceStub(self._channel)  # type: ignore[no-untyped-call]
        self._bases = KnowledgeStub(self._channel)  # type: ignore[no-untyped-call]
        return self._stub


def _typed_as(task: str) -> str:
    return task if task in typed_tasks() else ""


async def _numbered(inputs: Inputs) -> AsyncIterator[tuple[int, Mapping[str, Any] | str]]:
    if isinstance(inputs, AsyncIterable):
        index = 0
        async for item in inputs:
            yield index, item
            index += 1
    else:
        for pair in enumerate(inputs):
            yield pair
