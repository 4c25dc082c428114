"""The gRPC server: ports, limits, services, and an end that leaves nobody without an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from taskloom.core.errors import ConfigError
from taskloom.core.preflight import check_exposure
from taskloom.core.settings import ServerSettings, TlsSettings
from taskloom.core.wire.gen import inference_pb2_grpc, knowledge_pb2_grpc
from taskloom.core.wire.limits import MAX_REPLY_BYTES
from taskloom.server.gateway.inference import SERVICE, InferenceServicer
from taskloom.server.gateway.interceptors import AccessInterceptor, ErrorInterceptor, KeyAuthenticator
from taskloom.server.gateway.knowledge import KNOWLEDGE_SERVICE, KnowledgeServicer, NoKnowledge
from taskloom.server.gateway.standard import Health, reflection_handlers
from taskloom.server.gateway.streams import OpenStreams
from taskloom.server.gateway.tls import CertificateFiles
from taskloom.server.knowledge.service import KnowledgeService
from taskloom.server.service import InferenceService

_SPARE_RPCS = 256
"""Room above `max_concurrent_requests` for health checks and for refusals that say why."""

_FAREWELL_S = 1.0
"""How long, at most, callers who come during a drain are told to go elsewhere before the port closes."""

_QUIET_S = 0.05
"""When nobody has come for so long, the port closes earlier."""


class Gateway:
    """`start` listens and reports NOT_SERVING; `report` says whether requests are welcome; `drain` ends it. Without `knowledge`
    calls on knowledge bases are UNIMPLEMENTED."""

    def __init__(
        self,
        service: InferenceService,
        authenticator: KeyAuthenticator,
        settings: ServerSettings,
        tls: TlsSettings,
        knowledge: KnowledgeService | None = None,
    ) -> None:
        self._service = service
        self._knowledge = knowledge
        self._settings = settings
        self._tls = tls
        self._streams = OpenStreams()
        self._services = (SERVICE,) if knowledge is None else (SERVICE, KNOWLEDGE_SERVICE)
        self._health = Health(self._services, self._streams)
        self._access = AccessInterceptor(authenticator, service)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listens; returns the port. Raises `ConfigError` for an address or TLS files that can't be used."""
        check_exposure(self._settings, self._tls)
        credentials = CertificateFiles(self._tls).credentials() if self._tls.enabled else None
        server = self._make_server()
        address = join_address(self._settings.host, self._settings.port)
        try:
            port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        except RuntimeError as exc:
            raise ConfigError(
                f"can't listen on {address}: the port is in use, or the address is not this machine's; "
                "set server.port (0 takes any free one) or server.host"
            ) from exc
        await server.start()
        self._server = server
        return port

    async def report(self, *, serving: bool) -> None:
        """What health checks are told from now on."""
        await self._health.report(serving=serving)

    async def drain(self, grace_s: float) -> None:
        """Says NOT_SERVING, sends new callers away, and waits up to `grace_s` seconds until every call that was accepted has
        its answer; what is left then is cancelled."""
        if self._server is None:
            return
        server, self._server = self._server, None
        ends = time.monotonic() + grace_s
        await self._health.enter_graceful_shutdown()
        self._access.close()
        await self._say_farewell(min(_FAREWELL_S, grace_s / 2))
        self._streams.end()
        await server.stop(max(0.0, ends - time.monotonic()))

    async def _say_farewell(self, at_most_s: float) -> None:
        """Lets those who have come already be told that they should go elsewhere. gRPC cancels calls that wait to be taken
        when the port closes, and clients don't try again what was cancelled."""
        ends = time.monotonic() + at_most_s
        seen = -1
        while seen != self._access.arrivals and time.monotonic() < ends:
            seen = self._access.arrivals
            await asyncio.sleep(min(_QUIET_S, at_most_s))

    def _make_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=(self._access, ErrorInterceptor()),
            options=_options(self._settings),
            maximum_concurrent_rpcs=self._settings.max_concurrent_requests + _SPARE_RPCS,
        )
        handlers = HandlerList()
        mutual_tls, timeout_s = self._tls.client_ca is not None, self._settings.default_timeout_s
        servicer = InferenceServicer(self._service, timeout_s, self._streams, mutual_tls=mutual_tls)
        inference_pb2_grpc.add_InferenceServicer_to_server(servicer, handlers)  # type: ignore[no-untyped-call]
        if self._knowledge is not None:
            knowledge = KnowledgeServicer(self._knowledge, timeout_s, mutual_tls=mutual_tls)
            knowledge_pb2_grpc.add_KnowledgeServicer_to_server(knowledge, handlers)  # type: ignore[no-untyped-call]
        else:
            handlers.add_generic_rpc_handlers((NoKnowledge(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, handlers)
        if self._settings.reflection:
            handlers.add_generic_rpc_handlers(reflection_handlers((*self._services, "grpc.health.v1.Health"), self._streams))
        server.add_generic_rpc_handlers(tuple(handlers.handlers))
        return server


class HandlerList:
    """Takes servicers as a server does, and keeps their generic handlers alone.

    Registered methods would each be waited for separately: every RPC would then cost a turn over all of them, and a call
    that arrives as the server stops could be lost between two.
    """

    def __init__(self) -> None:
        self.handlers: list[Any] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        self.handlers.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Not used."""


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", max(settings.max_message_bytes, MAX_REPLY_BYTES)),
        ("grpc.max_concurrent_streams", settings.max_concurrent_requests),
        # A second gateway on the same port is a mistake to report, not a share of the traffic.
        ("grpc.so_reuseport", 0),
        # Clients may keep connections alive as often as they commonly do; dead clients are noticed.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 4),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
