"""Who may call what, over a real server on loopback."""

from __future__ import annotations

import contextlib

import grpc
import pytest
from gateway_fakes import Running, ask, bearer, failure, running_gateway, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scripted_knowledge import MemoryKnowledge

from taskloom.core.errors import ConfigError
from taskloom.core.ports import AuditEntry
from taskloom.core.preflight import check_exposure
from taskloom.core.settings import ServerSettings, TlsSettings
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.server.auth import policy
from taskloom.server.gateway import interceptors
from taskloom.server.gateway import server as server_module
from taskloom.server.gateway.server import Gateway

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


@pytest.mark.parametrize(
    "metadata",
    [(), (("authorization", "Basic a2V5"),), (("authorization", "Bearer"),), bearer("wrong"), (("authorization", "key-all"),)],
)
async def test_without_a_valid_key_nothing_is_answered_or_recorded(
    running: Running, metadata: tuple[tuple[str, str], ...]
) -> None:
    code, error = await failure(running.stub().Infer(ask(), metadata=metadata))
    assert code is Code.UNAUTHENTICATED
    assert error.code == "unauthenticated"
    assert running.engine.ran == []
    assert running.audit.entries == []


async def test_a_key_that_is_revoked_stops_working(running: Running) -> None:
    stub = running.stub()
    await stub.Infer(ask(), metadata=bearer("key-en"))
    del running.keys.principals["key-en"]
    code, _ = await failure(stub.Infer(ask(), metadata=bearer("key-en")))
    assert code is Code.UNAUTHENTICATED


async def test_a_stream_ends_with_its_key(running: Running) -> None:
    stream = running.stub().InferStream(metadata=bearer("key-en"))
    await stream.write(ask(request_id="before"))
    assert (await stream.read()).request_id == "before"
    await stream.write(ask("slow", request_id="under-way"))
    await until(lambda: "under-way" in running.engine.ran)
    del running.keys.principals["key-en"]
    await stream.write(ask(request_id="after"))
    running.engine.release.set()
    assert (await stream.read()).request_id == "under-way"
    assert await stream.code() is Code.UNAUTHENTICATED
    assert running.engine.ran == ["before", "under-way"]


@pytest.mark.parametrize("key", ["key-audit", "key-none"])
async def test_a_key_without_the_role_is_refused_and_recorded(running: Running, key: str) -> None:
    code, error = await failure(running.stub().Infer(ask(request_id="r1"), metadata=bearer(key)))
    assert code is Code.PERMISSION_DENIED
    assert "predict" in error.message
    assert running.audit.codes() == ["permission_denied"]
    assert running.engine.ran == []


async def test_a_key_may_use_only_its_models_and_learns_of_no_others(running: Running) -> None:
    stub = running.stub()
    code, there = await failure(stub.Infer(ask(model="secret-model"), metadata=bearer("key-en")))
    _, absent = await failure(stub.Infer(ask(model="secret-missing"), metadata=bearer("key-en")))
    assert code is Code.PERMISSION_DENIED
    assert there.message.replace("secret-model", "X") == absent.message.replace("secret-missing", "X")
    code, unknown = await failure(stub.Infer(ask(model="intent-xx"), metadata=bearer("key-en")))
    assert code is Code.NOT_FOUND
    assert "intent-en" in unknown.message
    assert "secret" not in unknown.message
    listed = await stub.ListModels(pb.ListModelsRequest(), metadata=bearer("key-en"))
    assert [model.name for model in listed.models] == ["intent-en", "intent-zh"]
    code, _ = await failure(stub.DescribeModel(pb.DescribeModelRequest(model="secret-model"), metadata=bearer("key-en")))
    assert code is Code.PERMISSION_DENIED
    entry = running.audit.entries[-1]
    assert (entry.code, entry.model, entry.facts["method"]) == ("permission_denied", "secret-model", "DescribeModel")
    described = await stub.DescribeModel(pb.DescribeModelRequest(model="intent-en"), metadata=bearer("key-en"))
    assert described.model.name == "intent-en"


async def test_refusals_are_recorded_without_payload(running: Running) -> None:
    await failure(running.stub().Infer(ask("private words", model="secret-model"), metadata=bearer("key-en")))
    (entry,) = running.audit.entries
    assert (entry.kind, entry.code, entry.payload, entry.model) == ("failed", "permission_denied", None, "secret-model")
    assert "private words" not in entry.model_dump_json()


async def test_a_method_that_no_rule_names_is_refused_even_if_registered(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {name: rule for name, rule in policy.RULES.items() if not name.endswith("/ListModels")}
    make = server_module.AccessInterceptor

    monkeypatch.setattr(server_module, "AccessInterceptor", lambda keys, service: make(keys, service, rules))
    async with running_gateway() as other:
        stub = other.stub()
        assert (await failure(stub.ListModels(pb.ListModelsRequest(), metadata=bearer())))[0] is Code.PERMISSION_DENIED
        assert (await failure(stub.ListModels(pb.ListModelsRequest())))[0] is Code.PERMISSION_DENIED
        await stub.Infer(ask(), metadata=bearer())
    assert other.audit.codes() == ["permission_denied"]


async def test_every_rule_is_for_a_method_that_exists() -> None:
    async with running_gateway(knowledge=MemoryKnowledge()) as running:
        await _call_every_rule(running.channel())


async def _call_every_rule(channel: grpc.aio.Channel) -> None:
    for method in policy.RULES:
        call = channel.stream_stream(method)(metadata=bearer())
        await call.write(b"")
        await call.done_writing()
        if method.endswith("/Watch"):  # it stays open
            await call.read()
            call.cancel()
            continue
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call.read()
            await call.read()
        assert await call.code() is not Code.UNIMPLEMENTED, method


async def test_a_key_that_asks_too_often_is_told_when_to_ask_again(running: Running) -> None:
    stub = running.stub()
    outcomes = [await _status(stub, "key-slow") for _ in range(50)]
    assert outcomes[:2] == [Code.OK, Code.OK]
    assert outcomes.count(Code.RESOURCE_EXHAUSTED) >= 40
    _, error = await failure(stub.Infer(ask(), metadata=bearer("key-slow")))
    assert error.code == "rate_limited"
    assert 0 < error.retry_after_s <= 0.5  # type: ignore[attr-defined]
    # A flood costs the log two records for each window that it lasts: the first refusal, and how many followed.
    refused = outcomes.count(Code.RESOURCE_EXHAUSTED) + 1

    def told() -> int:
        return sum(entry.facts["refused"] if entry.action == "infer.refused" else 1 for entry in refusals())

    def refusals() -> list[AuditEntry]:
        return [entry for entry in running.audit.entries if entry.kind == "failed"]

    await until(lambda: told() == refused)
    assert refusals()[-1].action == "infer.refused"
    assert len(refusals()) < refused / 2


async def _status(stub: object, key: str) -> grpc.StatusCode:
    call = stub.Infer(ask(), metadata=bearer(key))  # type: ignore[attr-defined]
    return await call.code()  # type: ignore[no-any-return]


async def test_health_needs_no_key_and_tells_when_requests_are_welcome() -> None:
    async with running_gateway(ready=False) as starting:
        health = health_pb2_grpc.HealthStub(starting.channel())
        for service in ("", "taskloom.v1.Inference"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        code, error = await failure(starting.stub().Infer(ask(), metadata=bearer()))
        assert (code, error.code) == (Code.UNAVAILABLE, "unavailable")
        starting.service.open()
        await starting.gateway.report(serving=True)
        for service in ("", "taskloom.v1.Inference"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert (await failure(health.Check(health_pb2.HealthCheckRequest(service="none"))))[0] is Code.NOT_FOUND


async def test_calls_without_a_key_hold_no_place(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC waits for ever for the message of a call."""
    monkeypatch.setattr(interceptors, "KEYLESS_WAIT_S", 0.2)
    monkeypatch.setattr(interceptors, "KEYLESS_AT_ONCE", 3)
    channel = running.channel()
    silent = [channel.stream_unary("/grpc.health.v1.Health/Check")() for _ in range(8)]
    codes = [await call.code() for call in silent]
    assert sorted(code.name for code in codes) == ["DEADLINE_EXCEEDED"] * 3 + ["RESOURCE_EXHAUSTED"] * 5
    empty = channel.stream_unary("/grpc.health.v1.Health/Check")()
    await empty.done_writing()
    assert await empty.code() is Code.INVALID_ARGUMENT
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_loopback_needs_tls_or_the_words(host: str) -> None:
    with pytest.raises(ConfigError, match="insecure_public"):
        check_exposure(ServerSettings(host=host), TlsSettings())
    check_exposure(ServerSettings(host=host, insecure_public=True), TlsSettings())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_nothing(host: str) -> None:
    check_exposure(ServerSettings(host=host), TlsSettings())


async def test_a_port_that_is_taken_is_reported(running: Running) -> None:
    second = Gateway(running.service, running.keys, ServerSettings(port=running.port), TlsSettings())
    with pytest.raises(ConfigError, match="in use"):
        await second.start()
