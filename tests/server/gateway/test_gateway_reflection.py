"""A client that has nothing but the server's address and a key, as grpcurl has."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from gateway_fakes import Running, bearer, running_gateway
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2

pytestmark = pytest.mark.integration

VERSIONS = ["grpc.reflection.v1", "grpc.reflection.v1alpha"]


class ReflectingClient:
    """Builds messages from the descriptors that the server gives; knows none of our stubs."""

    def __init__(self, channel: grpc.aio.Channel, package: str, key: str) -> None:
        self._channel = channel
        self._metadata = bearer(key)
        self._ask = channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        self._pool = descriptor_pool.DescriptorPool()

    async def _one(self, **request: Any) -> Any:
        call = self._ask(iter([reflection_pb2.ServerReflectionRequest(**request)]), metadata=self._metadata)
        return await call.read()

    async def services(self) -> list[str]:
        answer = await self._one(list_services="")
        return [service.name for service in answer.list_services_response.service]

    async def refusal(self) -> grpc.StatusCode:
        """How a stream ends that sends nothing: what is written to one that was refused already may fail by itself."""
        code: grpc.StatusCode = await self._ask(metadata=self._metadata, timeout=10).code()
        return code

    async def load(self, **wanted: str) -> None:
        answer = await self._one(**wanted)
        for content in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(content)
            for name in file.dependency:
                await self.load(file_by_filename=name)
            self._pool.Add(file)

    async def call(self, service: str, method: str, data: dict[str, Any]) -> dict[str, Any]:
        await self.load(file_containing_symbol=service)
        described = self._pool.FindServiceByName(service).methods_by_name[method]
        asked = message_factory.GetMessageClass(described.input_type)
        answered = message_factory.GetMessageClass(described.output_type)
        call = self._channel.unary_unary(
            f"/{service}/{method}", request_serializer=asked.SerializeToString, response_deserializer=answered.FromString
        )
        answer = await call(json_format.ParseDict(data, asked()), metadata=self._metadata)
        return json_format.MessageToDict(answer)


@pytest.mark.parametrize("package", VERSIONS)
async def test_a_client_without_stubs_can_find_and_call_everything(running: Running, package: str) -> None:
    client = ReflectingClient(running.channel(), package, "key-all")
    assert "taskloom.v1.Inference" in await client.services()
    answer = await client.call("taskloom.v1.Inference", "Infer", {"model": "intent-en", "classification": {"text": "卡丢了"}})
    assert answer["classification"]["labels"][0]["label"] == "卡丢了"


@pytest.mark.parametrize("package", VERSIONS)
async def test_reflection_needs_a_key_of_any_role(running: Running, package: str) -> None:
    assert await ReflectingClient(running.channel(), package, "key-audit").services()
    for key, code in [("wrong", grpc.StatusCode.UNAUTHENTICATED), ("key-none", grpc.StatusCode.PERMISSION_DENIED)]:
        assert await ReflectingClient(running.channel(), package, key).refusal() is code


async def test_reflection_can_be_switched_off() -> None:
    async with running_gateway(reflection=False) as closed:
        assert await ReflectingClient(closed.channel(), VERSIONS[0], "key-all").refusal() is grpc.StatusCode.UNIMPLEMENTED
