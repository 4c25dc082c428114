"""Requests and their records, over a real server on loopback."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from gateway_fakes import Running, ask, bearer, failure, running_gateway, until

from taskloom.core.errors import ERRORS_BY_CODE, DeadlineExceededError, InvalidInputError, error_from_code
from taskloom.core.types import InferCall, InferResult, ModelRef, Principal
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.core.wire.status import STATUS_BY_CODE
from taskloom.server.gateway import inference as inference_module

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


async def test_an_answer_is_typed_as_its_input_and_has_two_records(running: Running) -> None:
    stub = running.stub()
    typed = await stub.Infer(ask("你好", request_id="r-1"), metadata=bearer())
    assert (typed.request_id, typed.version, typed.classification.labels[0].label) == ("r-1", "3", "你好")
    assert typed.timings.total_s > 0
    assert typed.timings.batch_size == 4
    plain = pb.InferRequest(model="intent-en", request_id="r-2")
    plain.json.update({"text": "hi"})
    assert (await stub.Infer(plain, metadata=bearer())).json["labels"][0]["label"] == "hi"
    for request_id in ("r-1", "r-2"):
        assert running.audit.kinds(request_id) == ["accepted", "completed"]
    accepted, completed = running.audit.entries[:2]
    assert accepted.payload == {"text": "你好"}
    assert completed.payload == {"labels": [{"label": "你好", "score": 0.5}], "truncated": False}
    assert (accepted.principal, accepted.key_id, completed.version, completed.task) == ("all", "k1", "3", "classification")


async def test_the_record_of_an_answer_names_the_version_that_gave_it(running: Running) -> None:
    prepare = running.engine.prepare
    running.engine.prepare = lambda call: type(prepare(call))(call, version="2")  # type: ignore[method-assign]
    answer = await running.stub().Infer(ask(), metadata=bearer())  # a roll ended meanwhile: version 3 answers
    assert answer.version == "3"
    assert [(e.kind, e.version) for e in running.audit.entries] == [("accepted", "2"), ("completed", "3")]


@pytest.mark.parametrize("code", sorted(set(ERRORS_BY_CODE) - {"error"}))
async def test_each_error_arrives_as_itself_or_not_at_all(running: Running, code: str) -> None:
    running.engine.errors["bad"] = error_from_code(code, "told in so many words", 7.5)
    status, error = await failure(running.stub().Infer(ask("bad", request_id="r-9"), metadata=bearer()))
    assert error.request_id == "r-9"
    if code in STATUS_BY_CODE:
        assert status is STATUS_BY_CODE[code]
        assert type(error) is ERRORS_BY_CODE[code]
        assert error.message == "told in so many words"
        assert getattr(error, "retry_after_s", 7.5) == 7.5
    else:
        assert status is Code.INTERNAL
        assert "told in so many words" not in error.message
    if code != "audit_unavailable":
        assert running.audit.kinds("r-9") == ["accepted", "failed"]
        assert running.audit.codes() == [code]


@pytest.mark.parametrize("word", ["x", "模"])
async def test_an_error_with_a_long_message_arrives_as_itself(running: Running, word: str) -> None:
    running.engine.errors["bad"] = InvalidInputError(word * 50_000, field=word * 50_000)
    status, error = await failure(running.stub().Infer(ask("bad"), metadata=bearer()))
    assert (status, error.code) == (Code.INVALID_ARGUMENT, "invalid_input")
    assert error.message.startswith(word * 400)


async def test_what_nobody_foresaw_stays_in_the_log(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        status, error = await failure(running.stub().Infer(ask("crash", request_id="r-crash"), metadata=bearer()))
    assert status is Code.INTERNAL
    assert "secret" not in error.message
    assert "r-crash" in error.message
    assert any("r-crash" in record.getMessage() and record.exc_info for record in caplog.records)
    assert running.audit.codes() == ["internal"]


@pytest.mark.parametrize(
    "request_",
    [
        pb.InferRequest(model="intent-en"),
        ask(model="No Such Name!"),
        ask(request_id="not an id"),
        ask(text=""),
        ask(priority=1000),
    ],
    ids=["no input", "no model name", "no request id", "invalid for the task", "priority"],
)
async def test_an_invalid_request_leaves_one_record_with_its_code(running: Running, request_: pb.InferRequest) -> None:
    status, error = await failure(running.stub().Infer(request_, metadata=bearer()))
    assert (status, error.code) == (Code.INVALID_ARGUMENT, "invalid_input")
    assert running.audit.codes() == ["invalid_input"]
    assert running.audit.entries[0].payload is None
    assert running.engine.ran == []


async def test_a_flood_of_messages_that_nobody_understands_costs_two_records(running: Running) -> None:
    stub = running.stub()
    for _ in range(20):
        assert (await failure(stub.Infer(pb.InferRequest(model="intent-en"), metadata=bearer())))[0] is Code.INVALID_ARGUMENT
    await until(lambda: len(running.audit.codes()) == 2)
    assert [e.action for e in running.audit.entries] == ["infer", "infer.refused"]
    assert running.audit.entries[-1].facts["refused"] == 19


async def test_a_typed_input_for_another_task_is_refused_before_it_runs(running: Running) -> None:
    prepare = running.engine.prepare

    def other_task(call: Any) -> Any:
        return type(prepare(call))(call, task="ner")

    running.engine.prepare = other_task  # type: ignore[method-assign]
    status, _ = await failure(running.stub().Infer(ask(), metadata=bearer()))
    assert status is Code.INVALID_ARGUMENT
    assert running.audit.kinds() == ["failed"]


async def test_a_message_over_the_limit_is_not_read() -> None:
    async with running_gateway(max_message_bytes=10_000) as small:
        stub = small.stub()
        await stub.Infer(ask("x" * 4_000), metadata=bearer())
        status, _ = await failure(stub.Infer(ask("x" * 20_000), metadata=bearer()))
        assert status is Code.RESOURCE_EXHAUSTED
        squeezed = stub.Infer(ask("x" * 5_000_000), metadata=bearer(), compression=grpc.Compression.Gzip)
        assert (await failure(squeezed))[0] is Code.RESOURCE_EXHAUSTED
        # ... and an answer over it, which is on record, leaves all the same.
        answer = await stub.Infer(ask("x" * 9_950), metadata=bearer())
        assert answer.ByteSize() > 9_950
        assert len(small.engine.ran) == 2


async def test_more_requests_than_the_limit_are_told_to_come_back() -> None:
    async with running_gateway(max_concurrent_requests=3) as small:
        stub = small.stub()
        slow = [stub.Infer(ask("slow"), metadata=bearer()) for _ in range(3)]
        await until(lambda: len(small.engine.ran) == 3)
        other = small.stub(use_local_subchannel_pool=1)
        status, error = await failure(other.Infer(ask(), metadata=bearer()))
        assert (status, error.code) == (Code.RESOURCE_EXHAUSTED, "overloaded")
        small.engine.release.set()
        await asyncio.gather(*slow)


async def test_the_clients_deadline_ends_the_run_and_is_recorded(running: Running) -> None:
    status, _ = await failure(running.stub().Infer(ask("slow", request_id="late"), metadata=bearer(), timeout=0.2))
    assert status is Code.DEADLINE_EXCEEDED
    await until(lambda: running.audit.kinds("late") == ["accepted", "failed"])
    assert running.audit.codes() == ["deadline_exceeded"]


async def test_without_a_deadline_the_default_holds() -> None:
    async with running_gateway(default_timeout_s=0.2) as hasty:
        status, error = await failure(hasty.stub().Infer(ask("slow"), metadata=bearer()))
        assert (status, error.code) == (Code.DEADLINE_EXCEEDED, "deadline_exceeded")
        assert hasty.audit.codes() == ["deadline_exceeded"]


async def test_a_caller_who_goes_away_is_recorded(running: Running) -> None:
    call = running.stub().Infer(ask("slow", request_id="gone"), metadata=bearer())
    await running.engine.started.wait()
    call.cancel()
    await until(lambda: running.audit.kinds("gone") == ["accepted", "failed"])
    assert running.audit.codes() == ["cancelled"]


@pytest.mark.parametrize(("kind", "ran"), [("accepted", 0), ("completed", 1)])
async def test_no_answer_leaves_without_its_record(running: Running, kind: str, ran: int) -> None:
    running.audit.fails_on.add(kind)
    status, error = await failure(running.stub().Infer(ask("private"), metadata=bearer()))
    assert (status, error.code) == (Code.UNAVAILABLE, "audit_unavailable")
    assert len(running.engine.ran) == ran


async def test_no_error_leaves_without_its_record_either(running: Running) -> None:
    running.audit.fails_on.add("failed")
    running.engine.errors["bad"] = error_from_code("model_failed", "it failed")
    for request in (ask("bad"), ask("")):
        _, error = await failure(running.stub().Infer(request, metadata=bearer()))
        assert error.code == "audit_unavailable"


async def test_refusals_that_share_a_record_wait_for_it(running: Running) -> None:
    """Whether they come while it is written, or after it could not be."""
    stub = running.stub()
    empty = pb.InferRequest(model="intent-en")
    running.audit.fails_on.add("failed")
    calls = [stub.Infer(empty, metadata=bearer()) for _ in range(3)]
    codes = [(await failure(call))[1].code for call in calls]
    codes.append((await failure(stub.Infer(empty, metadata=bearer())))[1].code)
    assert codes == ["audit_unavailable"] * 4
    running.audit.fails_on.clear()
    assert (await failure(stub.Infer(empty, metadata=bearer())))[1].code == "invalid_input"
    assert running.audit.codes() == ["invalid_input"]


async def test_a_name_that_no_log_can_hold_is_recorded_without_what_it_can_not_hold(running: Running) -> None:
    code, error = await failure(running.stub().Infer(ask(model="intent\0en"), metadata=bearer()))
    assert (code, error.code) == (Code.INVALID_ARGUMENT, "invalid_input")
    assert [entry.model for entry in running.audit.entries] == ["intent\ufffden"]


# -- idempotency ----------------------------------------------------------------------------------------------------------


async def test_calls_with_one_key_are_one_request(running: Running) -> None:
    stub = running.stub()
    calls = [stub.Infer(ask("slow", idempotency_key="i1", request_id=f"r-{n}"), metadata=bearer()) for n in range(5)]
    await running.engine.started.wait()
    await asyncio.sleep(0.1)
    running.engine.release.set()
    answers = await asyncio.gather(*calls)
    assert len(running.engine.ran) == 1
    assert {answer.request_id for answer in answers} == {running.engine.ran[0]}
    again = await stub.Infer(ask("slow", idempotency_key="i1"), metadata=bearer())
    assert again == answers[0]
    assert Counter(running.audit.kinds()) == {"accepted": 1, "completed": 1, "event": 5}


async def test_a_key_is_for_one_request_of_one_principal(running: Running) -> None:
    stub = running.stub()
    await stub.Infer(ask("one", idempotency_key="i1"), metadata=bearer())
    status, error = await failure(stub.Infer(ask("two", idempotency_key="i1"), metadata=bearer()))
    assert (status, error.code) == (Code.INVALID_ARGUMENT, "invalid_input")
    other = await stub.Infer(ask("two", idempotency_key="i1"), metadata=bearer("key-en"))
    assert other.classification.labels[0].label == "two"
    assert running.audit.codes() == ["invalid_input"]
    running.engine.started.clear()
    first = stub.Infer(ask("slow", idempotency_key="i2"), metadata=bearer())
    await running.engine.started.wait()
    status, _ = await failure(stub.Infer(ask("other", idempotency_key="i2"), metadata=bearer(), timeout=5))
    assert status is Code.INVALID_ARGUMENT
    running.engine.release.set()
    await first


async def test_when_the_first_caller_goes_away_the_next_one_runs_it(running: Running) -> None:
    stub = running.stub()
    first = stub.Infer(ask("slow", idempotency_key="i1", request_id="first"), metadata=bearer())
    await running.engine.started.wait()
    joined = [stub.Infer(ask("slow", idempotency_key="i1", request_id=f"j{n}"), metadata=bearer()) for n in range(2)]
    await asyncio.sleep(0.1)
    first.cancel()
    await until(lambda: len(running.engine.ran) == 2)
    running.engine.release.set()
    answers = await asyncio.gather(*joined)
    assert len(running.engine.ran) == 2
    assert len({answer.request_id for answer in answers}) == 1


async def test_who_waits_for_another_call_with_its_key_waits_no_longer_than_it_has_and_is_on_record(running: Running) -> None:
    stub = running.stub()
    first = stub.Infer(ask("slow", idempotency_key="i1", request_id="first"), metadata=bearer())
    await running.engine.started.wait()
    status, _ = await failure(stub.Infer(ask("slow", idempotency_key="i1", request_id="late"), metadata=bearer(), timeout=0.3))
    assert status is Code.DEADLINE_EXCEEDED
    gone = stub.Infer(ask("slow", idempotency_key="i1", request_id="gone"), metadata=bearer())
    await asyncio.sleep(0.2)
    gone.cancel()
    await until(lambda: running.audit.kinds("late") == running.audit.kinds("gone") == ["failed"])
    assert sorted(running.audit.codes()) == ["cancelled", "deadline_exceeded"]
    running.engine.release.set()
    await first


async def test_who_waits_for_another_call_is_told_that_its_own_time_is_up(running: Running) -> None:
    """Where no transport ends the call."""
    principal = Principal(name="all", key_id="k1", roles=frozenset({"predict"}))

    def called(name: str, left_s: float) -> Awaitable[InferResult]:
        call = InferCall(
            model=ModelRef(name="intent-en"),
            input={"text": "slow"},
            request_id=name,
            idempotency_key="i1",
            deadline_s=time.time() + left_s,
        )
        return running.service.infer(principal, call)

    first = asyncio.ensure_future(called("first", 20.0))
    await running.engine.started.wait()
    with pytest.raises(DeadlineExceededError, match="had this idempotency key first"):
        await asyncio.wait_for(called("late", 0.2), 5)
    assert running.audit.kinds("late") == ["failed"]
    running.engine.release.set()
    await first


async def test_an_error_is_not_kept(running: Running) -> None:
    stub = running.stub()
    running.engine.errors["bad"] = error_from_code("replica_lost", "it died")
    await failure(stub.Infer(ask("bad", idempotency_key="i1"), metadata=bearer()))
    running.engine.errors.clear()
    assert (await stub.Infer(ask("bad", idempotency_key="i1"), metadata=bearer())).classification


# -- streams --------------------------------------------------------------------------------------------------------------


async def test_on_a_stream_one_bad_request_fails_alone(running: Running) -> None:
    async def requests() -> Any:
        for n in range(300):
            text = {150: "", 200: "crash", 250: "unpublished"}.get(n, f"text {n}")
            yield ask(text, request_id=f"s{n}")

    running.engine.errors["unpublished"] = error_from_code("plugin", "a secret of the operator")

    answers = {answer.request_id: answer async for answer in running.stub().InferStream(requests(), metadata=bearer())}
    assert len(answers) == 300
    assert answers["s150"].error.code == "invalid_input"
    assert answers["s200"].error.code == "internal"
    assert "secret" not in answers["s200"].error.message
    assert answers["s250"].error.code == "internal"
    assert "secret" not in answers["s250"].error.message
    good = [n for n in range(300) if n not in (150, 200, 250)]
    assert all(answers[f"s{n}"].response.classification.labels[0].label == f"text {n}" for n in good)
    assert Counter(running.audit.kinds()) == {"accepted": 299, "completed": 297, "failed": 3}


async def test_answers_come_as_they_are_ready(running: Running) -> None:
    call = running.stub().InferStream(metadata=bearer())
    await call.write(ask("slow", request_id="first"))
    await call.write(ask("quick", request_id="second"))
    assert (await call.read()).request_id == "second"
    running.engine.release.set()
    assert (await call.read()).request_id == "first"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_stream_is_not_read_further_than_it_is_worked_on(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_module, "STREAM_CONCURRENCY", 8)
    call = running.stub().InferStream(metadata=bearer())
    for n in range(40):
        await call.write(ask("slow", request_id=f"s{n}"))
    await until(lambda: len(running.engine.ran) == 8)
    await asyncio.sleep(0.1)
    assert len(running.engine.ran) == 8
    running.engine.release.set()
    await call.done_writing()
    assert len([answer async for answer in call]) == 40


async def test_cancelling_a_stream_cancels_and_records_each_request(running: Running) -> None:
    call = running.stub().InferStream(metadata=bearer())
    for n in range(5):
        await call.write(ask("slow", request_id=f"s{n}"))
    await until(lambda: len(running.engine.ran) == 5)
    call.cancel()
    await until(lambda: running.audit.codes() == ["cancelled"] * 5)


async def test_observers_see_events_and_can_do_no_harm(running: Running) -> None:
    seen: list[str] = []

    def broken(event: Any) -> None:
        raise RuntimeError("observer")

    running.service.ledger._observers = (broken, lambda event: seen.append(event.kind))
    await running.stub().Infer(ask(), metadata=bearer())
    assert seen == ["accepted", "completed"]
