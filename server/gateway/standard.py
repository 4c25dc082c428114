"""The services that every gRPC server has, here so that they end when the server drains: health and reflection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from taskloom.core.errors import NotFoundError
from taskloom.server.gateway.streams import OpenStreams

HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""One protocol under two names: newer clients ask for `v1` first."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

Context = grpc.aio.ServicerContext[Any, Any]


class Health(health.aio.HealthServicer):  # type: ignore[misc, name-defined] # made at import
    """`grpc.health.v1` for the server as a whole (the empty name) and for each of `services`; not serving at first."""

    def __init__(self, services: Sequence[str], streams: OpenStreams) -> None:
        super().__init__()
        self._services = ("", *services)
        self._streams = streams
        self._server_status.update(dict.fromkeys(self._services, NOT_SERVING))

    async def Check(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        status = self._server_status.get(request.service)
        if status is None:
            raise NotFoundError(f"no service named {request.service[:100]!r}; there are: {', '.join(self._services[1:])}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        await self._streams.run(super().Watch(request, context))

    async def report(self, *, serving: bool) -> None:
        for service in self._services:
            await self.set(service, SERVING if serving else NOT_SERVING)


def reflection_handlers(services: Sequence[str], streams: OpenStreams) -> list[Any]:
    """Handlers for both names of the reflection service. `services` are those that clients are told of."""
    aio: Any = reflection.aio  # type: ignore[attr-defined] # made at import
    servicer = aio.ReflectionServicer((*services, REFLECTION_SERVICES[1]))

    async def relay(requests: Any, context: Context) -> None:
        async for response in servicer.ServerReflectionInfo(requests, context):
            await context.write(response)

    async def info(requests: Any, context: Context) -> None:
        await streams.run(relay(requests, context))

    handler = grpc.stream_stream_rpc_method_handler(
        info,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in REFLECTION_SERVICES]
