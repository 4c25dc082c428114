"""Answers that leave in parts, and their records, over a real server on loopback."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from gateway_fakes import Running, ask, bearer, until

from taskloom.core.errors import InvalidInputError, ModelFailedError, ReplicaLostError
from taskloom.core.wire.gen import inference_pb2 as pb

pytestmark = pytest.mark.integration


class Stream:
    """An `InferStream` call that sends these requests and is done sending."""

    def __init__(self, running: Running, *requests: pb.InferRequest, timeout_s: float = 10.0, **options: Any) -> None:
        self.call = running.stub(**options).InferStream(iter(requests), metadata=bearer(), timeout=timeout_s)
        self.text = ""

    async def read(self) -> pb.InferStreamResponse:
        message = await self.call.read()
        assert isinstance(message, pb.InferStreamResponse), "the stream ended"
        self.text += message.partial.text
        return message

    async def rest(self) -> list[pb.InferStreamResponse]:
        """What is still to come; `text` is then all that came in parts."""
        messages = []
        while isinstance(message := await self.call.read(), pb.InferStreamResponse):
            self.text += message.partial.text
            messages.append(message)
        return messages


def write(text: str, request_id: str = "r-1", **fields: Any) -> pb.InferRequest:
    return ask(f"write {text}", request_id=request_id, partials=True, **fields)


async def test_parts_come_before_the_whole_answer_and_carry_its_id(running: Running) -> None:
    stream = Stream(running, write("to be or not"))
    messages = await stream.rest()
    assert stream.text == "to be or not "
    assert {m.request_id for m in messages} == {"r-1"}
    assert [m.WhichOneof("result") for m in messages] == ["partial"] * (len(messages) - 1) + ["response"]
    assert messages[-1].response.classification.labels[0].label == "write to be or not"
    assert running.audit.kinds("r-1") == ["accepted", "completed"]


async def test_a_part_leaves_when_it_is_written_and_other_requests_do_not_wait(running: Running) -> None:
    stream = Stream(running, write("one wait two"), ask("hello", request_id="r-2"))
    first = [await stream.read(), await stream.read()]
    assert {(m.request_id, m.WhichOneof("result")) for m in first} == {("r-1", "partial"), ("r-2", "response")}
    assert stream.text == "one "
    running.engine.release.set()
    await stream.rest()
    assert stream.text == "one two "


async def test_who_does_not_ask_for_parts_gets_none(running: Running) -> None:
    stream = Stream(running, ask("write one two", request_id="r-1"))
    assert [m.WhichOneof("result") for m in await stream.rest()] == ["response"]
    unary = await running.stub().Infer(write("one two", "r-2"), metadata=bearer())
    assert unary.classification.labels[0].label == "write one two"


async def test_a_request_without_an_id_gets_one_for_all_its_messages(running: Running) -> None:
    messages = await Stream(running, write("one two three", "")).rest()
    (request_id,) = {m.request_id for m in messages}
    assert request_id
    assert messages[-1].response.request_id == request_id


async def test_accepted_is_on_record_before_the_first_part_and_completed_before_the_last_message(running: Running) -> None:
    stream = Stream(running, write("one wait two"))
    await stream.read()
    assert running.audit.kinds() == ["accepted"]
    assert running.audit.entries[0].facts["partials"] is True
    assert running.audit.entries[0].binary == ("picture",), "what the engine says of the input must reach the log"
    running.engine.release.set()
    await stream.rest()
    assert running.audit.kinds() == ["accepted", "completed"]
    assert running.audit.entries[1].payload == {"labels": [{"label": "write one wait two", "score": 0.5}], "truncated": False}


async def test_no_part_leaves_if_nothing_can_be_recorded(running: Running) -> None:
    running.audit.fails_on = {"accepted"}
    stream = Stream(running, write("one two"))
    assert [m.error.code for m in await stream.rest()] == ["audit_unavailable"]
    assert stream.text == ""
    assert running.engine.ran == []


async def test_the_whole_answer_does_not_leave_without_its_record(running: Running) -> None:
    running.audit.fails_on = {"completed"}
    stream = Stream(running, write("one two"))
    messages = await stream.rest()
    assert stream.text == "one two "
    assert [m.error.code for m in messages if m.WhichOneof("result") != "partial"] == ["audit_unavailable"]


@pytest.mark.parametrize("error", [ModelFailedError("the model failed"), ReplicaLostError("the replica died")])
async def test_a_failure_in_the_middle_comes_after_what_was_written_which_is_on_record(
    running: Running, error: ModelFailedError | ReplicaLostError
) -> None:
    running.engine.errors["broken"] = error
    stream = Stream(running, write("one two broken three"), ask("hello", request_id="r-2"))
    messages = [m for m in await stream.rest() if m.request_id == "r-1"]
    assert stream.text == "one two "
    assert messages[-1].error.code == error.code
    failed = next(e for e in running.audit.entries if e.kind == "failed")
    assert (failed.request_id, failed.code, failed.payload) == ("r-1", error.code, {"partial": "one two "})
    assert running.audit.kinds("r-2") == ["accepted", "completed"]


async def test_a_failure_before_the_first_part_has_no_payload(running: Running) -> None:
    running.engine.errors["broken"] = ModelFailedError("the model failed")
    await Stream(running, write("broken")).rest()
    assert [(e.kind, e.payload is None) for e in running.audit.entries] == [("accepted", False), ("failed", True)]


async def test_an_invalid_request_for_parts_is_told_what_is_wrong(running: Running) -> None:
    stream = Stream(running, pb.InferRequest(model="intent-en", request_id="r-1", partials=True))
    (message,) = await stream.rest()
    assert (message.request_id, message.error.code) == ("r-1", InvalidInputError.code)


async def test_a_client_that_goes_away_in_the_middle_is_recorded_with_what_it_got(running: Running) -> None:
    stream = Stream(running, write("one wait two"))
    await stream.read()
    stream.call.cancel()
    await until(lambda: "failed" in running.audit.kinds("r-1"))
    assert running.audit.entries[-1].code == "cancelled"
    assert running.audit.entries[-1].payload == {"partial": "one "}


async def test_the_clients_deadline_holds_in_the_middle(running: Running) -> None:
    stream = Stream(running, write("one wait two"), timeout_s=0.5)
    await stream.read()
    try:
        (last,) = await stream.rest()
        code = last.error.code
    except grpc.aio.AioRpcError as exc:  # the client's own clock ran out before the server's word was there
        code = exc.code().name.lower()
    assert code == "deadline_exceeded"
    await until(lambda: "failed" in running.audit.kinds("r-1"))
    assert running.audit.entries[-1].code == "deadline_exceeded"


async def test_a_slow_reader_holds_up_no_model_and_gets_fewer_and_longer_parts(running: Running) -> None:
    words = 60_000
    text = " ".join(f"{n:07d}" for n in range(words))  # half a megabyte: more than the connection's buffers take
    stream = Stream(running, write(text), http2_stream_lookahead_bytes=1024)
    await until(lambda: "completed" in running.audit.kinds("r-1"))
    messages = await stream.rest()
    assert stream.text == text + " "
    assert messages[-1].WhichOneof("result") == "response"
    assert len(messages) < words / 5


async def test_a_second_call_with_the_same_key_gets_the_answer_as_a_whole_and_under_its_own_id(running: Running) -> None:
    await Stream(running, write("one two", "r-1", idempotency_key="k")).rest()
    (message,) = await Stream(running, write("one two", "r-2", idempotency_key="k")).rest()
    assert message.WhichOneof("result") == "response"
    assert (message.request_id, message.response.request_id) == ("r-2", "r-1")
    assert len(running.engine.ran) == 1


async def test_requests_in_work_stay_limited_with_parts(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskloom.server.gateway.inference.STREAM_CONCURRENCY", 2)
    stream = Stream(running, *(write("one wait two", f"r-{n}") for n in range(5)))
    await until(lambda: len(running.engine.ran) == 2)
    await asyncio.sleep(0.1)
    assert len(running.engine.ran) == 2
    running.engine.release.set()
    messages = await stream.rest()
    assert sum(m.WhichOneof("result") == "response" for m in messages) == 5
