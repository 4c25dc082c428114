"""What happens to callers when the server stops."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from gateway_fakes import Running, ask, bearer, failure, running_gateway, until
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


async def test_every_accepted_call_is_answered_under_load() -> None:
    async with running_gateway() as loaded:
        outcomes: list[grpc.StatusCode] = []

        async def caller() -> None:
            stub = loaded.stub(use_local_subchannel_pool=1)
            while True:
                call = stub.Infer(ask(), metadata=bearer())
                code = await call.code()
                outcomes.append(code)
                if code is not Code.OK:
                    return

        async with asyncio.TaskGroup() as callers:
            for _ in range(16):
                callers.create_task(caller())
            await until(lambda: len(outcomes) > 200)
            await loaded.gateway.drain(5.0)
        assert outcomes.count(Code.UNAVAILABLE) == 16
        assert set(outcomes) == {Code.OK, Code.UNAVAILABLE}
        accepted = {e.request_id for e in loaded.audit.entries if e.kind == "accepted"}
        completed = {e.request_id for e in loaded.audit.entries if e.kind == "completed"}
        assert accepted == completed
        assert len(completed) == outcomes.count(Code.OK)


async def test_slow_calls_get_their_answers_and_new_ones_are_refused(running: Running) -> None:
    stub = running.stub()
    calls = [stub.Infer(ask("slow"), metadata=bearer()) for _ in range(10)]
    await until(lambda: len(running.engine.ran) == 10)
    draining = asyncio.create_task(running.gateway.drain(5.0))
    await asyncio.sleep(0.2)
    late = running.stub(use_local_subchannel_pool=1).Infer(ask(), metadata=bearer(), wait_for_ready=False)
    assert (await failure(late))[0] is Code.UNAVAILABLE
    assert not draining.done()
    running.engine.release.set()
    assert len(await asyncio.gather(*calls)) == 10
    await draining


async def test_what_takes_longer_than_the_drain_is_cancelled_and_recorded(running: Running) -> None:
    call = running.stub().Infer(ask("slow"), metadata=bearer())
    await running.engine.started.wait()
    await running.gateway.drain(0.3)
    await failure(call)
    await running.service.close()
    assert running.audit.kinds() == ["accepted", "failed"]


async def test_a_stream_ends_when_what_it_had_sent_is_answered(running: Running) -> None:
    call = running.stub().InferStream(metadata=bearer())
    for n in range(5):
        await call.write(ask("slow", request_id=f"s{n}"))
    await until(lambda: len(running.engine.ran) == 5)
    draining = asyncio.create_task(running.gateway.drain(10.0))
    await asyncio.sleep(0.2)
    running.engine.release.set()
    answers = [await call.read() for _ in range(5)]
    assert {answer.request_id for answer in answers if answer.HasField("response")} == {f"s{n}" for n in range(5)}
    assert await call.code() is Code.UNAVAILABLE
    async with asyncio.timeout(2.0):
        await draining


async def test_idle_streams_and_health_watches_hold_up_nobody(running: Running) -> None:
    idle = running.stub().InferStream(metadata=bearer())
    await idle.write(ask())
    await idle.read()
    health = health_pb2_grpc.HealthStub(running.channel())
    watch = health.Watch(health_pb2.HealthCheckRequest(), metadata=bearer())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    async with asyncio.timeout(3.0):
        await running.gateway.drain(20.0)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await idle.code() is Code.UNAVAILABLE


async def test_whoever_has_no_key_can_check_health_but_not_hold_a_watch(running: Running) -> None:
    health = health_pb2_grpc.HealthStub(running.channel())
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert await watch.code() is Code.UNAUTHENTICATED
