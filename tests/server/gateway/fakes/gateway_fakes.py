"""A gateway on loopback around engines and logs that do what their names say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from scripted_knowledge import MemoryKnowledge

from taskloom.core.errors import (
    AuditUnavailableError,
    InvalidInputError,
    TaskloomError,
    UnauthenticatedError,
    unknown_name,
)
from taskloom.core.ports import AuditEntry, AuditReceipt, PartSink
from taskloom.core.settings import ServerSettings, TlsSettings
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef, Principal, Timings
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.core.wire.gen import inference_pb2_grpc, knowledge_pb2_grpc
from taskloom.core.wire.status import from_rpc_error
from taskloom.server.gateway.server import Gateway
from taskloom.server.knowledge.service import KnowledgeService
from taskloom.server.service import InferenceService


@dataclass(frozen=True)
class Prepared:
    call: InferCall
    task: str = "classification"
    version: str = "3"
    binary: tuple[str, ...] = ("picture",)


class EchoEngine:
    """Answers at once with the input's text as the only label; `fail:CODE` raises that error, `slow` waits for `release`,
    `crash` raises what nobody foresaw. `write one two` sends each word as a part, where parts are asked for; at `wait` it
    waits for `release`, at the name of an error it fails. Keeps what it ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.errors: dict[str, TaskloomError] = {}
        self.names = ["intent-en", "intent-zh", "secret-model"]

    def prepare(self, call: InferCall) -> Prepared:
        if call.model.name not in self.names:
            raise unknown_name("model", call.model.name, self.names)
        text = call.input.get("text")
        if not isinstance(text, str) or not text:
            raise InvalidInputError("input.text: a text is needed", field="input.text")
        return Prepared(call)

    async def run(self, prepared: Prepared, send: PartSink | None = None) -> InferResult:
        call = prepared.call
        text = call.input["text"]
        self.ran.append(call.request_id)
        self.started.set()
        if text in self.errors:
            raise self.errors[text]
        if text.startswith("slow"):
            await self.release.wait()
        if text == "crash":
            raise RuntimeError("/secret/path/model.bin has burnt")
        if text.startswith("write ") and send is not None:
            for word in text.split()[1:]:
                if word == "wait":
                    await self.release.wait()
                elif word in self.errors:
                    raise self.errors[word]
                else:
                    send(f"{word} ")
                    await asyncio.sleep(0)
        output = {"labels": [{"label": text, "score": 0.5}], "truncated": False}
        return InferResult(
            request_id=call.request_id,
            model=call.model.name,
            version="3",
            task="classification",
            output=output,
            timings=Timings(queue_s=0.001, compute_s=0.002, batch_size=4),
        )

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo(name=name, version="3", task="classification", ready=True) for name in self.names]

    def describe(self, ref: ModelRef) -> ModelDescription:
        found = {info.name: info for info in self.models()}
        if ref.name not in found:
            raise unknown_name("model", ref.name, found)
        schema: Mapping[str, Any] = {"type": "object"}
        return ModelDescription(info=found[ref.name], input_schema=schema, output_schema=schema, params_schema=schema)


class MemoryAudit:
    """Keeps entries in a list. `fails_on` is the kind of entry from which on it can't be written."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.fails_on: set[str] = set()
        self.closed = False

    async def append(self, entry: AuditEntry) -> AuditReceipt:
        if entry.kind in self.fails_on:
            raise AuditUnavailableError("the disk is full")
        self.entries.append(entry)
        await asyncio.sleep(0)
        return AuditReceipt(sequence=len(self.entries), digest="0" * 64)

    async def close(self) -> None:
        self.closed = True

    def kinds(self, request_id: str | None = None) -> list[str]:
        return [e.kind for e in self.entries if request_id is None or e.request_id == request_id]

    def codes(self) -> list[str]:
        return [e.code for e in self.entries if e.kind == "failed"]


class KnownKeys:
    """Keys by secret."""

    def __init__(self) -> None:
        self.principals = {
            "key-all": Principal(name="all", key_id="k1", roles=frozenset({"predict", "admin"})),
            "key-en": Principal(name="english", key_id="k2", roles=frozenset({"predict"}), models=("intent-*",)),
            "key-audit": Principal(name="auditor", key_id="k3", roles=frozenset({"audit"})),
            "key-none": Principal(name="nothing", key_id="k4"),
            "key-kb": Principal(name="reader", key_id="k6", roles=frozenset({"predict"}), models=("kb:hand*",)),
            "key-kb-admin": Principal(name="editor", key_id="k8", roles=frozenset({"admin"}), models=("kb:*",)),
            "key-other": Principal(name="other", key_id="k7", tenant="other", roles=frozenset({"predict", "admin"})),
            "key-slow": Principal(name="slow", key_id="k5", roles=frozenset({"predict"}), requests_per_s=2),
        }

    async def authenticate(self, secret: str) -> Principal:
        if secret not in self.principals:
            raise UnauthenticatedError("the API key is not valid")
        return self.principals[secret]


@dataclass
class Running:
    """A gateway that answers, and what is behind it."""

    gateway: Gateway
    service: InferenceService
    engine: EchoEngine
    audit: MemoryAudit
    keys: KnownKeys
    port: int
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def channel(self, credentials: grpc.ChannelCredentials | None = None, **options: Any) -> grpc.aio.Channel:
        chosen = [(f"grpc.{name}", value) for name, value in options.items()]
        channel = (
            grpc.aio.secure_channel(self.address, credentials, options=chosen)
            if credentials
            else grpc.aio.insecure_channel(self.address, options=chosen)
        )
        self.channels.append(channel)
        return channel

    def stub(self, **options: Any) -> Any:
        return inference_pb2_grpc.InferenceStub(self.channel(**options))

    def knowledge_stub(self) -> Any:
        return knowledge_pb2_grpc.KnowledgeStub(self.channel())


@asynccontextmanager
async def running_gateway(
    *, tls: TlsSettings | None = None, ready: bool = True, knowledge: MemoryKnowledge | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """A gateway on a free port of loopback; keyword arguments are server settings."""
    chosen = ServerSettings(**{"port": 0, "host": "127.0.0.1", **settings})
    engine, audit, keys = EchoEngine(), MemoryAudit(), KnownKeys()
    service = InferenceService(engine, audit, chosen, refusal_window_s=0.3)
    bases = KnowledgeService(knowledge, service.admission, service.ledger) if knowledge is not None else None
    gateway = Gateway(service, keys, chosen, tls or TlsSettings(), bases)
    running = Running(gateway, service, engine, audit, keys, await gateway.start())
    if ready:
        service.open()
        await gateway.report(serving=True)
    try:
        yield running
    finally:
        engine.release.set()
        for channel in running.channels:
            await channel.close()
        await gateway.drain(2.0)
        await service.close()


def bearer(key: str = "key-all", **more: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"), *((name.replace("_", "-"), value) for name, value in more.items()))


def ask(text: str = "hello", model: str = "intent-en", **fields: Any) -> pb.InferRequest:
    return pb.InferRequest(model=model, classification=pb.ClassificationInput(text=text), **fields)


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, TaskloomError]:
    """The status that a call ends with, and the error that the SDK makes of it."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as exc:
        return exc.code(), from_rpc_error(exc)
    raise AssertionError(f"it was answered: {answer}")


async def until(true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 - it waits for what has no event
            await asyncio.sleep(0.005)
