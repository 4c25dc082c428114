"""Answers piece by piece, as the clients give them. The gateway writes a text word by word."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from taskloom.core.errors import ModelFailedError, OverloadedError, ReplicaLostError, RequestCancelledError
from taskloom.core.hookspecs import hookimpl
from taskloom.core.loader import load_registry
from taskloom.core.settings import load_settings
from taskloom.core.types import ErrorInfo, InferResult
from taskloom.core.wire.codec import error_to_message
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.sdk import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidInputError,
    LocalClient,
    RetryPolicy,
    TaskloomError,
    UnavailableError,
)

QUICK = RetryPolicy(initial_wait_s=0.01)


class Writer:
    """What stands behind a client: it writes the words of a text, waits for `go_on` at `wait`, and raises at the names in
    `errors`. The first attempts meet what is in `first`."""

    def __init__(self) -> None:
        self.errors = {"broken": ModelFailedError("it broke"), "lost": ReplicaLostError("the replica died")}
        self.first: list[TaskloomError] = []
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.requests: list[Any] = []

    def words(self, text: str) -> Iterator[str]:
        if self.first:
            raise self.first.pop(0)
        for word in text.split():
            if word == "wait":
                self.go_on.wait(20)
            elif word in self.errors:
                raise self.errors[word]
            else:
                yield f"{word} "


@pytest.fixture
def writer(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """The gateway of this folder's tests, writing."""
    made = Writer()

    def stream(requests: Iterator[pb.InferRequest], context: grpc.ServicerContext) -> Iterator[pb.InferStreamResponse]:
        context.add_callback(made.ended.set)
        for request in requests:
            made.requests.append(request)
            try:
                for word in made.words(request.json["text"]):
                    partial = pb.Partial(text=word)
                    yield pb.InferStreamResponse(request_id=request.request_id, partial=partial)
                yield pb.InferStreamResponse(request_id=request.request_id, response=gateway.answer(request))
            except TaskloomError as error:
                message = error_to_message(ErrorInfo.of(error))
                yield pb.InferStreamResponse(request_id=request.request_id, error=message)

    monkeypatch.setattr(gateway, "InferStream", stream)
    yield made
    made.go_on.set()


@pytest.fixture
def client(writer: Writer, address: str) -> Iterator[Client]:
    with Client(address, api_key="k", timeout_s=10, retry=QUICK) as made:
        yield made


class WritingEngine:
    """The writer as an engine of this process."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    async def start(self) -> None: ...

    async def infer(self, call: Any, send: Callable[[str], None] | None = None) -> InferResult:
        self.writer.requests.append(call)
        try:
            words = self.writer.words(call.input["text"])
            while (word := await asyncio.to_thread(next, words, None)) is not None:
                if send is not None:
                    send(word)
        finally:
            self.writer.ended.set()
        return InferResult(request_id=call.request_id, model="m", version="1", task="t", output={"text": call.input["text"]})

    async def close(self) -> None: ...


@pytest.fixture
def local(tmp_path: Any) -> Iterator[tuple[LocalClient, Writer]]:
    writer = Writer()

    class Hook:
        @hookimpl
        def open_local_engine(self, settings: Any, registry: Any) -> WritingEngine:
            return WritingEngine(writer)

    registry = load_registry([])
    registry.hooks.register(Hook())
    settings = load_settings(overrides={"home": str(tmp_path)})
    with LocalClient(settings, registry, timeout_s=10, retry=QUICK) as client:
        client.start()
        yield client, writer
        writer.go_on.set()


@pytest.fixture(params=["gateway", "in process"])
def served(request: pytest.FixtureRequest) -> tuple[Client | LocalClient, Writer]:
    """The two blocking clients: what holds for one holds for the other."""
    if request.param == "gateway":
        return request.getfixturevalue("client"), request.getfixturevalue("writer")
    return request.getfixturevalue("local")


def test_the_text_comes_piece_by_piece_and_then_the_result(served):
    client, writer = served
    with client.stream_text("m", {"text": "one wait two"}) as stream:
        assert next(stream) == "one "
        assert stream.text == "one "
        writer.go_on.set()
        assert list(stream) == ["two "]
        assert list(stream) == []
    assert stream.text == "one two "
    assert stream.result().request_id == stream.result().request_id
    assert writer.requests[0].partials


def test_the_result_can_be_had_without_reading(served):
    client, _ = served
    stream = client.stream_text("m", {"text": "one two"}, request_id="mine")
    assert stream.result().request_id == "mine"
    assert stream.text == "one two "


def test_nothing_is_sent_before_it_is_read(served):
    client, writer = served
    with client.stream_text("m", {"text": "one"}):
        pass
    time.sleep(0.05)
    assert writer.requests == []


def test_an_error_comes_after_what_was_written_and_stays(served):
    client, _ = served
    stream = client.stream_text("m", {"text": "one broken"}, request_id="mine")
    assert next(stream) == "one "
    for _ in range(2):
        with pytest.raises(ModelFailedError, match="it broke"):
            next(stream)
    with pytest.raises(ModelFailedError):
        stream.result()


@pytest.mark.parametrize("error", [ReplicaLostError("the replica died"), OverloadedError("full", 0.01)])
def test_what_fails_before_the_first_piece_is_repeated_as_the_same_request(served, error):
    client, writer = served
    writer.first = [error, error]
    stream = client.stream_text("m", {"text": "one two"})
    assert list(stream) == ["one ", "two "]
    assert len({r.idempotency_key for r in writer.requests}) == 1
    assert len(writer.requests) == 3


def test_what_fails_after_the_first_piece_is_not(served):
    client, writer = served
    stream = client.stream_text("m", {"text": "one lost two"})
    with pytest.raises(UnavailableError):
        stream.result()
    assert stream.text == "one "
    assert len(writer.requests) == 1


def test_leaving_the_block_stops_the_writing(served):
    client, writer = served
    with client.stream_text("m", {"text": "one wait two"}) as stream:
        assert next(stream) == "one "
    assert writer.ended.wait(5)
    assert list(stream) == []
    with pytest.raises(RequestCancelledError):
        stream.result()


def test_another_thread_can_close_it(served):
    client, _ = served
    stream = client.stream_text("m", {"text": "one wait two"})
    assert next(stream) == "one "
    threading.Timer(0.1, stream.close).start()
    started = time.monotonic()
    assert list(stream) == []
    assert time.monotonic() - started < 5


def test_the_deadline_is_for_the_whole_answer(served):
    client, _ = served
    stream = client.stream_text("m", {"text": "one wait two"}, timeout_s=0.3)
    assert next(stream) == "one "
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        next(stream)
    assert time.monotonic() - started < 5


def test_bad_arguments_are_refused_at_once(served):
    client, writer = served
    with pytest.raises(InvalidInputError):
        client.stream_text("No Such Name!", {"text": "one"})
    with pytest.raises(InvalidInputError):
        client.stream_text("m", {"text": "one"}, timeout_s=0)
    assert writer.requests == []


def test_a_broken_connection_in_the_middle_is_told(client, writer, serve_gateway, gateway):
    server, port = serve_gateway(gateway)
    with Client(f"127.0.0.1:{port}", api_key="k", timeout_s=10, retry=QUICK) as other:
        stream = other.stream_text("m", {"text": "one wait two"})
        assert next(stream) == "one "
        server.stop(None)
        with pytest.raises(TaskloomError) as caught:
            stream.result()
    assert isinstance(caught.value, UnavailableError | RequestCancelledError)


def test_nobody_there_says_so_soon():
    with Client("127.0.0.1:9", api_key="k", timeout_s=30) as client:
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="no gateway answers"):
            client.stream_text("m", {"text": "one"}).result()
        assert time.monotonic() - started < 10


# -- asyncio -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def aclient(writer: Writer, address: str):
    async with AsyncClient(address, api_key="k", timeout_s=10, retry=QUICK) as made:
        yield made


async def test_for_asyncio_the_same(aclient, writer):
    async with aclient.stream_text("m", {"text": "one wait two"}, request_id="mine") as stream:
        assert await anext(stream) == "one "
        writer.go_on.set()
        assert [piece async for piece in stream] == ["two "]
    assert stream.text == "one two "
    assert (await stream.result()).request_id == "mine"


async def test_for_asyncio_errors_and_repetitions_are_the_same(aclient, writer):
    writer.first = [ReplicaLostError("the replica died")]
    assert (await aclient.stream_text("m", {"text": "one"}).result()).request_id
    stream = aclient.stream_text("m", {"text": "one broken"})
    for _ in range(2):
        with pytest.raises(ModelFailedError):
            await stream.result()
    assert stream.text == "one "
    with pytest.raises(InvalidInputError):
        await aclient.stream_text("m", {"text": "one"}, timeout_s=0).result()


async def test_for_asyncio_leaving_or_cancelling_stops_the_writing(aclient, writer):
    async with aclient.stream_text("m", {"text": "one wait two"}) as stream:
        await anext(stream)
    assert await asyncio.to_thread(writer.ended.wait, 5)
    with pytest.raises(RequestCancelledError):
        await stream.result()
    writer.ended.clear()
    stream = aclient.stream_text("m", {"text": "one wait two"})
    await anext(stream)
    reading = asyncio.create_task(stream.result())
    await asyncio.sleep(0.1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await asyncio.to_thread(writer.ended.wait, 5)
    with pytest.raises(RequestCancelledError):
        await stream.result()


async def test_for_asyncio_another_task_can_close_it(aclient, writer):
    stream = aclient.stream_text("m", {"text": "one wait two"})
    await anext(stream)
    reading = asyncio.create_task(stream.result())
    await asyncio.sleep(0.1)
    await stream.close()
    with pytest.raises(RequestCancelledError):
        await reading
