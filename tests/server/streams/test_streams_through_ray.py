"""Answers in parts, over all that is real: SDK, gateway, audit log, scheduler, Ray, replicas in processes of their own. One
cluster serves every test of this file."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from engine_fakes import make_registry, publish
from gateway_fakes import KnownKeys

from taskloom.core.errors import DeadlineExceededError, ModelFailedError, ReplicaLostError, TaskloomError
from taskloom.core.settings import Settings, TlsSettings
from taskloom.core.store import ModelStore
from taskloom.core.types import InferCall, ModelRef
from taskloom.sdk import AsyncClient, RetryPolicy, UnavailableError
from taskloom.server.audit import AuditQuery, open_log, open_reader, verify_log
from taskloom.server.engine.engine import Engine
from taskloom.server.gateway.server import Gateway
from taskloom.server.service import InferenceService

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

FAKES = Path(__file__).parents[1] / "engine" / "fakes"
CANARY_S = 3.0


def call(model: str, text: str, **fields: Any) -> InferCall:
    return InferCall(model=ModelRef.parse(model), input={"text": text}, **fields)


def long_text(words: int) -> str:
    return " ".join(f"w{n}" for n in range(words))


async def until(true: Callable[[], bool], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


class Served:
    """A gateway and the engine behind it."""

    def __init__(self, engine: Engine, store: ModelStore, settings: Settings, address: str) -> None:
        self.engine = engine
        self.store = store
        self.settings = settings
        self.address = address

    def written(self) -> list[str]:
        """Every word that a replica has come to."""
        ran = self.settings.home / "ran"
        return ran.read_text().split() if ran.exists() else []

    def client(self, retries: int = 0) -> AsyncClient:
        return AsyncClient(self.address, api_key="key-all", timeout_s=30, retry=RetryPolicy(max_retries=retries))

    def records(self, request_id: str) -> list[Any]:
        reader = open_reader(self.settings)
        try:
            return list(reader.query(AuditQuery(request_id=request_id, limit=10)))
        finally:
            reader.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    home = tmp_path_factory.mktemp("streams")
    store = ModelStore([home / "models"])
    publish(store, "parrot", "echo")
    publish(store, "writer", "writing")
    publish(store, "terse", "terse")
    environment = {
        "PYTHONPATH": ":".join(dict.fromkeys([str(FAKES), *(p for p in sys.path if p)])),
        "TASKLOOM_TEST_RAN": str(home / "ran"),
    }
    canary = {"canary_period_s": 0.5, "canary_timeout_s": CANARY_S, "start_timeout_s": 60.0}
    batch = {"max_cost": 800, "max_items": 4}
    pool = {"replicas": 2, "num_cpus": 0.1, "environment": environment, "batch": batch, **canary}
    server = {"model_poll_s": 0.2, "drain_s": 5, "port": 0, "host": "127.0.0.1"}
    settings = Settings(home=home, pools={"default": pool}, server=server, audit={"payloads": "full"})
    engine = Engine.from_settings(
        settings, make_registry(), dispatcher="ray", store=store, registry_factory="engine_fakes:make_registry"
    )
    await engine.start()
    audit = open_log(settings)
    service = InferenceService(engine, audit, settings.server)
    gateway = Gateway(service, KnownKeys(), settings.server, TlsSettings())
    port = await gateway.start()
    service.open()
    yield Served(engine, store, settings, f"127.0.0.1:{port}")
    await gateway.drain(2.0)
    await service.close()
    await engine.close()
    await audit.close()
    assert verify_log(settings).verified


async def test_the_words_arrive_as_they_are_written_and_the_answer_is_the_one_without_parts(served: Served) -> None:
    arrived: list[float] = []
    async with served.client() as client, client.stream_text("writer", "to be or 中文 to be", params={"step_s": 0.2}) as stream:
        async for _ in stream:
            arrived.append(time.monotonic())
        result = await stream.result()
        whole = await client.infer("writer", "to be or 中文 to be")
    assert len(arrived) == 6
    assert arrived[-1] - arrived[0] > 0.8
    assert stream.text == result.output["text"] == whole.output["text"] == "to be or 中文 to be"
    assert result.output["pid"] != os.getpid()
    accepted, completed = served.records(result.request_id)
    assert [accepted.kind, completed.kind] == ["accepted", "completed"]
    assert completed.payload["text"] == stream.text


@pytest.mark.parametrize("model", ["parrot", "terse"])
async def test_who_does_not_write_in_parts_answers_as_a_whole(served: Served, model: str) -> None:
    async with served.client() as client, client.stream_text(model, "hello there") as stream:
        assert [piece async for piece in stream] == []
        assert (await stream.result()).output["text"] == "hello there"


async def test_a_long_answer_at_full_speed_is_whole(served: Served) -> None:
    text = long_text(3000)
    async with served.client() as client, client.stream_text("writer", text) as stream:
        pieces = [piece async for piece in stream]
    assert "".join(pieces) == text
    assert 1 < len(pieces) < 1500, "each word was a message of its own"


async def test_a_failure_in_the_middle_is_typed_and_on_record_with_what_was_written(served: Served) -> None:
    async with served.client() as client:
        stream = client.stream_text("writer", "one two poison three", request_id="poisoned")
        with pytest.raises(ModelFailedError) as caught:
            await stream.result()
    assert stream.text == "one two "
    assert "secret" not in str(caught.value)
    assert [(r.kind, r.payload) for r in served.records("poisoned")][1] == ("failed", {"partial": "one two "})


async def test_a_reader_who_closes_the_stream_stops_the_replica(served: Served) -> None:
    before = len(served.written())
    async with served.client() as client:
        async with client.stream_text("writer", long_text(300), params={"step_s": 0.02}, request_id="left") as stream:
            async for _ in stream:
                break
        await asyncio.sleep(0.7)
        stopped = len(served.written())
        await asyncio.sleep(0.5)
    assert len(served.written()) == stopped < before + 60
    await until(lambda: len(served.records("left")) == 2)
    failed = served.records("left")[1]
    assert (failed.kind, failed.code) == ("failed", "cancelled")
    assert failed.payload["partial"].startswith("w0 ")


async def test_the_deadline_stops_the_replica(served: Served) -> None:
    before = len(served.written())
    parts: list[str] = []
    late = call("writer", long_text(300), params={"step_s": 0.02}, deadline_s=time.time() + 0.5)
    with pytest.raises(DeadlineExceededError):
        await served.engine.infer(late, parts.append)
    assert parts
    await asyncio.sleep(0.5)
    stopped = len(served.written())
    await asyncio.sleep(0.5)
    assert len(served.written()) == stopped < before + 60


async def test_more_streams_than_slots_are_all_answered_and_batches_go_on_beside_them(served: Served) -> None:
    text = long_text(40)
    asked = [served.engine.infer(call("writer", text, params={"step_s": 0.02}), lambda _: None) for _ in range(12)]
    writing = asyncio.gather(*asked)
    await asyncio.sleep(0.5)
    for n in range(10):
        assert (await served.engine.infer(call("parrot", f"t{n}"))).timings.total_s < 1.0
    assert not writing.done()
    assert {answer.output["text"] for answer in await writing} == {text}


async def test_a_replica_that_is_killed_before_the_first_part_is_made_good(served: Served, tmp_path: Path) -> None:
    text = f"kill:{tmp_path / 'cured'} one two"
    async with served.client() as client, client.stream_text("writer", text) as stream:
        assert (await stream.result()).output["text"] == text
    assert stream.text == text


async def test_a_replica_that_is_killed_in_the_middle_is_told_and_nothing_is_written_twice(served: Served) -> None:
    asked = {"text": "one two three four five six seven eight"}
    async with served.client(retries=5) as client:
        stream = client.stream_text("writer", asked, params={"step_s": 0.3}, request_id="killed")
        assert [await anext(stream), await anext(stream)] == ["one ", "two "]
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith("ray::ServeReplica"):
                process.kill()
        with pytest.raises(UnavailableError) as caught:
            await stream.result()
        assert isinstance(caught.value, ReplicaLostError)
        assert caught.value.request_id == "killed"
        assert stream.text != asked["text"]
        accepted, failed = served.records("killed")
        assert (accepted.kind, failed.kind, failed.code) == ("accepted", "failed", "replica_lost")
        assert failed.payload["partial"].startswith(stream.text)
        # Whoever asks again gets the whole answer from those that took their places.
        again = client.stream_text("writer", asked, timeout_s=60)
        assert (await again.result()).output["text"] == again.text == asked["text"]


async def test_writing_for_longer_than_a_replica_may_be_silent_is_no_hang(served: Served) -> None:
    await until(lambda: served.engine.health()[""])
    text = long_text(45)
    async with served.client() as client, client.stream_text("writer", text, params={"step_s": 0.1}) as stream:
        assert (await stream.result()).output["text"] == text


async def test_a_replica_that_hangs_in_the_middle_is_ended(served: Served) -> None:
    parts: list[str] = []
    started = time.monotonic()
    with pytest.raises(TaskloomError) as caught:
        await served.engine.infer(call("writer", "one hang two", deadline_s=time.time() + 30), parts.append)
    assert isinstance(caught.value, ReplicaLostError)
    assert parts == ["one "]
    assert time.monotonic() - started < CANARY_S + 10


async def test_a_roll_lets_what_is_being_written_end_on_the_old_version(served: Served) -> None:
    parts: list[str] = []
    text = long_text(25)
    writing = asyncio.create_task(served.engine.infer(call("writer", text, params={"step_s": 0.2}), parts.append))
    await until(lambda: bool(parts))
    publish(served.store, "writer", "writing", aliases=["production"])
    await until(lambda: served.engine.prepare(call("writer", "x")).version == "2")
    answer = await writing
    assert (answer.version, answer.output["text"]) == ("1", text)
    assert (await served.engine.infer(call("writer", "x"), parts.append)).version == "2"
