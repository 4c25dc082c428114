from __future__ import annotations

import asyncio
import threading
import time
from itertools import count

import pytest

from taskloom.core.errors import OverloadedError, ReplicaLostError, RequestCancelledError, UnauthenticatedError
from taskloom.sdk import AsyncClient, DeadlineExceededError, InvalidInputError, RetryPolicy, UnavailableError


@pytest.fixture
async def client(address):
    async with AsyncClient(address, api_key="k-secret", timeout_s=20, retry=RetryPolicy(initial_wait_s=0.05)) as client:
        yield client


def fail_times(n, error):
    left = count()

    def behave(request):
        if next(left) < n:
            raise error

    return behave


async def test_the_same_call_as_the_blocking_client(client, gateway):
    result = await client.classify("hello", model="m", top_k=2)
    assert (result.label, result.score) == ("a", 0.05)
    assert gateway.metadata[0]["authorization"] == "Bearer k-secret"
    assert (await client.infer("m", "hello")).output == (await client.infer("m", {"text": "hello"})).output


async def test_what_a_text_is_to_the_model_is_asked_within_the_calls_time(client, gateway):
    gateway.describes_after_s = 0.4
    assert (await client.infer("m", "hello", timeout_s=5)).output
    assert gateway.remaining[0] < 4.7
    with pytest.raises(DeadlineExceededError):
        await client.infer("other", "hello", timeout_s=0.1)
    with pytest.raises(DeadlineExceededError):
        await client.stream_text("other", "hello", timeout_s=0.1).result()
    with pytest.raises(DeadlineExceededError):
        _ = [item async for item in client.infer_many("other", ["hello"] * 50, timeout_s=0.1)]


async def test_a_text_for_a_model_that_takes_none_keeps_no_other_item_out(client, gateway):
    gateway.input_schema = {
        "properties": {"question": {"type": "string"}, "context": {"type": "string"}},
        "required": ["question", "context"],
    }
    found = [item async for item in client.infer_many("m", ["hello", {"text": "ab"}, "you"])]
    assert [item.ok for item in found] == [False, True, False]


async def test_repetitions_carry_the_same_idempotency_key(client, gateway):
    gateway.behave = fail_times(8, ReplicaLostError("gone"))
    await client.classify("x", model="m")
    assert len(gateway.requests) == 9
    assert len({r.idempotency_key for r in gateway.requests}) == 1


async def test_throttled_waits_as_told(client, gateway):
    gateway.behave = fail_times(1, OverloadedError("full", 0.4))
    started = time.monotonic()
    await client.classify("x", model="m")
    assert time.monotonic() - started >= 0.4


async def test_deadline(client, gateway):
    gateway.behave = lambda request: time.sleep(0.6)
    with pytest.raises(DeadlineExceededError, match=r"within 0\.2 s"):
        await client.classify("x", model="m", timeout_s=0.2)


async def test_many_in_order_with_errors_and_a_bound(client, gateway):
    def behave(request):
        text = request.json["text"]
        time.sleep(0.02 if len(text) % 3 == 0 else 0.001)
        if len(text) == 7:
            raise InvalidInputError("seven")

    gateway.behave = behave
    items = [item async for item in client.infer_many("m", [{"text": "x" * n} for n in range(1, 21)], max_concurrency=4)]
    assert [item.index for item in items] == list(range(20))
    assert [item.index for item in items if not item.ok] == [6]
    assert 1 < gateway.most <= 4


async def test_many_raises_what_no_item_could_escape(client, gateway):
    gateway.behave = fail_times(999, UnauthenticatedError("no key"))
    with pytest.raises(UnauthenticatedError):
        [item async for item in client.infer_many("m", [{"text": "x"}] * 100)]


async def test_a_stream_of_asynchronous_inputs(client):
    async def inputs():
        for n in range(1, 8):
            await asyncio.sleep(0)
            yield {"text": "x" * n}

    items = [item async for item in client.stream("m", inputs(), max_concurrency=3)]
    assert {item.index: round(item.value().output["labels"][0]["score"] * 100) for item in items} == {
        n: n + 1 for n in range(7)
    }


async def test_a_stream_raises_what_its_inputs_raise(client):
    def inputs():
        yield {"text": "x"}
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        [item async for item in client.stream("m", inputs())]


async def test_cancelling_the_task_cancels_the_call(client, gateway):
    gateway.behave = lambda request: time.sleep(0.5)
    task = asyncio.create_task(client.classify("x", model="m"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_the_client_is_no_cancellation_of_who_waits(address, gateway):
    begun = threading.Event()
    gateway.behave = lambda request: begun.set() or time.sleep(0.5)
    client = AsyncClient(address, api_key="k-secret")
    waiting = asyncio.create_task(client.classify("x", model="m"))
    await asyncio.to_thread(begun.wait, 5)
    await client.close()
    with pytest.raises(RequestCancelledError, match="closed"):
        await waiting
    assert not waiting.cancelled()


async def test_models_describe_and_ready(client):
    await client.wait_ready(5)
    assert (await client.models())[0].name == "m"
    assert (await client.describe("m")).info.task == "classification"


async def test_nobody_there():
    async with AsyncClient("127.0.0.1:1", api_key="k") as client:
        with pytest.raises(UnavailableError, match="connection refused"):
            await client.classify("x", model="m")
        with pytest.raises(UnavailableError, match="not ready within"):
            await client.wait_ready(0.3)
