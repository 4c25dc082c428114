"""The blocking client of a gateway."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, Unpack, cast

import grpc

from taskloom.core.errors import DeadlineExceededError, InvalidInputError, TaskloomError, UnavailableError, UnsupportedError
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef
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
from taskloom.sdk.connection import (
    HEALTH_METHOD,
    HEALTH_REQUEST,
    Connection,
    channel_options,
    is_serving,
    made_by_grpc,
    not_ready,
)
from taskloom.sdk.knowledge_operations import Feed, Operation, StreamedOperation
from taskloom.sdk.requests import (
    BatchOptions,
    check_concurrency,
    check_options,
    describe_request,
    model_ref,
    text_field,
    timeout_of,
)
from taskloom.sdk.results import ItemResult
from taskloom.sdk.retries import RetryPolicy
from taskloom.sdk.streams import Outstanding
from taskloom.sdk.surface import Pending, SyncCalls
from taskloom.sdk.text_streams import TextSource, ended_early, piece_from_message

R = TypeVar("R")


class Client(SyncCalls):
    """Calls a gateway and waits for its answers. Thread-safe; one client serves a whole process.

    The address is the argument, `TASKLOOM_ADDRESS`, or 127.0.0.1:50051. The key is the argument, `TASKLOOM_API_KEY`, or what
    the file `key` in `TASKLOOM_HOME` (`~/.taskloom`) holds. TLS is used with a certificate, and with every address that
    is not this machine's own; `insecure=True` switches it off. Files are PEM.

    Nothing is sent before the first call. A client does not survive a fork: make it in the process that uses it.

        with Client(timeout_s=10) as client:
            client.classify("My card has not arrived", model="intent-en").label
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
        super().__init__(timeout_s, retry or RetryPolicy())
        self._connection = Connection.resolve(
            address,
            api_key=api_key,
            ca_certificate=ca_certificate,
            client_certificate=client_certificate,
            client_key=client_key,
            insecure=insecure,
        )
        self._metadata = self._connection.metadata()
        self._process = os.getpid()
        self._answered = False
        self._closed = False
        options = channel_options(self.retry)
        credentials = self._connection.credentials()
        self._channel = (
            grpc.insecure_channel(self.address, options)
            if credentials is None
            else grpc.secure_channel(self.address, credentials, options)
        )
        self._stub: Any = InferenceStub(self._channel)  # type: ignore[no-untyped-call]
        self._bases: Any = KnowledgeStub(self._channel)  # type: ignore[no-untyped-call]
        self._health = self._channel.unary_unary(HEALTH_METHOD, bytes, bytes)

    @property
    def address(self) -> str:
        """Where the gateway is."""
        return self._connection.address

    def __repr__(self) -> str:
        return f"Client({self.address!r}, {'TLS' if self._connection.secure else 'plaintext'})"

    def models(self) -> list[ModelInfo]:
        reply = self._patiently(
            lambda left_s: self._unary(self._stub.ListModels, pb.ListModelsRequest(), left_s), self.timeout_s
        )
        return [model_from_message(message) for message in reply.models]

    def describe(self, model: str, *, version: str | None = None) -> ModelDescription:
        return self._described(model_ref(model, version), self.timeout_s)

    def _described(self, ref: ModelRef, timeout_s: float) -> ModelDescription:
        request = describe_request(ref)
        reply = self._patiently(lambda left_s: self._unary(self._stub.DescribeModel, request, left_s), timeout_s)
        return description_from_message(reply)

    def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, Any] | str],
        *,
        max_concurrency: int = 64,
        **options: Unpack[BatchOptions],
    ) -> Iterator[ItemResult]:
        """Many inputs on one call, answers as they are ready, in any order: `index` says whose each is. `timeout_s` is for
        the whole stream. At most `max_concurrency` inputs are unanswered at a time. Nothing is
        repeated after the first answer: if the stream breaks then, the error says how many answers are missing (`infer_many`
        repeats)."""
        check_concurrency(max_concurrency)
        check_options(options, BatchOptions)
        options["timeout_s"] = timeout_s = timeout_of(options, self.timeout_s)
        outstanding = Outstanding()
        room = threading.Semaphore(max_concurrency)
        failure: list[BaseException] = []

        def requests() -> Iterator[pb.InferRequest]:
            try:
                for index, item in enumerate(inputs):
                    try:
                        self._looked_up(model, item, options)
                        call = self._call(model, item, **options)
                        message = request_to_message(call)
                    except InvalidInputError as error:
                        outstanding.refused(index, error)
                        continue
                    room.acquire()
                    outstanding.sent(index, call.request_id)
                    yield message
            except BaseException as exc:  # gRPC would say "exception iterating requests" and lose it
                failure.append(exc)
                raise

        self._check_usable()
        replies = self._stub.InferStream(requests(), timeout=timeout_s, metadata=self._metadata)
        try:
            for reply in replies:
                self._answered = True
                room.release()
                yield from outstanding.take_refused()
                yield outstanding.answered(reply)
            yield from outstanding.take_refused()
        except grpc.RpcError as exc:
            if failure:
                raise failure[0] from exc
            raise outstanding.broken(self._connection.explain(exc, timeout_s=timeout_s)) from exc
        finally:
            replies.cancel()
            for _ in range(max_concurrency):
                room.release()

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Returns when the gateway says that it serves; raises `UnavailableError` if it does not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        reason: TaskloomError | None = None
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                if is_serving(self._unary(self._health, HEALTH_REQUEST, left_s)):
                    return
                reason = None
            except (UnavailableError, DeadlineExceededError) as error:
                reason = error
            time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))
        raise not_ready(self.address, timeout_s, reason)

    def close(self) -> None:
        self._closed = True
        self._channel.close()

    # -- how one call is answered --------------------------------------------------------------------------------------------

    def _answer(self, call: InferCall, timeout_s: float) -> InferResult:
        return result_from_message(self._unary(self._stub.Infer, request_to_message(call), timeout_s, call.request_id))

    def _begin(self, call: InferCall, timeout_s: float) -> Pending:
        self._check_usable()
        started = self._stub.Infer.future(request_to_message(call), timeout=timeout_s, metadata=self._metadata)
        return cast(Pending, started)

    def _end(self, pending: Pending, call: InferCall, timeout_s: float) -> InferResult:
        return result_from_message(self._reply(pending.result, call.request_id, timeout_s))  # type: ignore[attr-defined]

    def _read_text(self, call: InferCall, timeout_s: float) -> TextSource[InferResult]:
        self._check_usable()
        requests = iter((request_to_message(call),))
        replies = self._stub.InferStream(requests, timeout=timeout_s, metadata=self._metadata)
        return self._in_parts(replies, piece_from_message, call.request_id, timeout_s)

    def _read_answer(self, operation: StreamedOperation[R], timeout_s: float) -> TextSource[R]:
        self._check_usable()
        metadata = (*self._metadata, (REQUEST_ID_KEY, operation.request_id))
        replies = getattr(self._bases, operation.method)(operation.send(), timeout=timeout_s, metadata=metadata)
        return self._in_parts(replies, operation.read, operation.request_id, timeout_s)

    def _in_parts(self, replies: Any, read: Callable[[Any], str | R], request_id: str, timeout_s: float) -> TextSource[R]:
        def read_next() -> str | R:
            reply = self._reply(lambda: next(replies, None), request_id, timeout_s)
            if reply is None:
                raise ended_early()
            return read(reply)

        return TextSource(read_next, replies.cancel)

    def _text_input(self, ref: ModelRef, timeout_s: float) -> tuple[str, str]:
        description = self._described(ref, timeout_s)
        return description.info.task, text_field(description)

    def _typed_as(self, task: str) -> str:
        return task if task in typed_tasks() else ""

    def _attempt(self, operation: Operation[R], left_s: float) -> R:
        self._check_usable()
        method = getattr(self._bases, operation.method)
        metadata = (*self._metadata, (REQUEST_ID_KEY, operation.request_id))
        sent = operation.send()
        try:
            reply = self._reply(lambda: method(sent, timeout=left_s, metadata=metadata), operation.request_id, left_s)
        except TaskloomError as error:
            if isinstance(sent, Feed) and sent.failure is not None:
                raise sent.failure from error
            raise
        return operation.read(reply)

    @property
    def _ever_answered(self) -> bool:
        return self._answered

    def _unary(self, method: Any, request: Any, timeout_s: float, request_id: str = "") -> Any:
        self._check_usable()
        return self._reply(lambda: method(request, timeout=timeout_s, metadata=self._metadata), request_id, timeout_s)

    def _reply(self, wait: Callable[[], Any], request_id: str, timeout_s: float) -> Any:
        try:
            reply = wait()
        except grpc.RpcError as exc:
            self._answered = self._answered or not made_by_grpc(exc)
            raise self._connection.explain(exc, request_id, timeout_s) from exc
        self._answered = True
        return reply

    def _check_usable(self) -> None:
        if self._closed:
            raise UnsupportedError("this Client is closed; make a new one")
        if os.getpid() != self._process:
            raise UnsupportedError(
                f"this Client was made in process {self._process} and is used in its fork {os.getpid()}; gRPC does not "
                "survive a fork: start processes with the method 'spawn', and make the Client in the one that uses it"
            )
