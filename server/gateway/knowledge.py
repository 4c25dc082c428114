"""The servicer of `taskloom.v1.Knowledge`: convert, call, convert."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from taskloom.core.errors import InvalidInputError
from taskloom.core.knowledge import Document
from taskloom.core.wire import knowledge_codec as codec
from taskloom.core.wire.gen import knowledge_pb2 as pb
from taskloom.core.wire.gen import knowledge_pb2_grpc as pb_grpc
from taskloom.core.wire.status import REQUEST_ID_KEY
from taskloom.server.admission import within
from taskloom.server.gateway.caller import CALLER, Caller, deadline_of, named_caller
from taskloom.server.knowledge.service import Asker, KnowledgeService
from taskloom.server.parts import PartBuffer

KNOWLEDGE_SERVICE = "taskloom.v1.Knowledge"

_ABSENT = "this server keeps no knowledge bases: no plugin of it does; install one with: pip install 'taskloom[local]'"

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class KnowledgeServicer(pb_grpc.KnowledgeServicer):
    """Behind the interceptors: the caller is known, and errors are raised."""

    def __init__(self, service: KnowledgeService, default_timeout_s: float, *, mutual_tls: bool = False) -> None:
        self._service = service
        self._default_timeout_s = default_timeout_s
        self._mutual_tls = mutual_tls

    # -- questions --------------------------------------------------------------------------------------------------------

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:  # noqa: N802 - gRPC's name
        asker = self._asker(context, request.request_id)
        call = await self._valid(
            asker, "search", request, lambda: codec.search_from_message(request, asker.request_id, asker.deadline_s)
        )
        return codec.search_result_to_message(await self._service.search(asker, call))

    async def Ask(self, request: pb.AskRequest, context: Context) -> pb.AskResponse:  # noqa: N802
        asker = self._asker(context, request.request_id)
        call = await self._valid(
            asker, "ask", request, lambda: codec.ask_from_message(request, asker.request_id, asker.deadline_s)
        )
        return codec.answer_to_message(await self._service.ask(asker, call))

    async def AskStream(self, request: pb.AskRequest, context: Context) -> None:  # noqa: N802
        """The model does not wait for a slow client: what it writes meanwhile is sent together."""
        asker = self._asker(context, request.request_id)
        call = await self._valid(
            asker, "ask", request, lambda: codec.ask_from_message(request, asker.request_id, asker.deadline_s)
        )
        parts = PartBuffer()

        async def write() -> None:
            async for text in parts:
                await context.write(pb.AskStreamResponse(request_id=asker.request_id, text=text))

        writing = asyncio.create_task(write())
        try:
            answer = await self._service.ask(asker, call, parts.add)
        except asyncio.CancelledError:
            writing.cancel()
            raise
        except Exception:
            await _written(parts, writing)  # what is recorded as having left does leave
            raise
        await _written(parts, writing)
        await context.write(pb.AskStreamResponse(request_id=asker.request_id, answer=codec.answer_to_message(answer)))

    async def Graph(self, request: pb.GraphRequest, context: Context) -> pb.GraphResponse:  # noqa: N802
        asker = self._asker(context, request.request_id)
        call = await self._valid(
            asker, "graph", request, lambda: codec.graph_from_message(request, asker.request_id, asker.deadline_s)
        )
        return codec.graph_result_to_message(await self._service.graph(asker, call))

    # -- changes ----------------------------------------------------------------------------------------------------------

    async def CreateBase(self, request: pb.CreateBaseRequest, context: Context) -> pb.BaseInfo:  # noqa: N802
        asker = self._asker(context)
        spec = await self._valid(asker, "create", request, lambda: codec.spec_from_message(request))
        return codec.base_to_message(await self._service.create(asker, spec))

    async def DropBase(self, request: pb.DropBaseRequest, context: Context) -> pb.DropBaseResponse:  # noqa: N802
        asker = self._asker(context)
        await self._service.drop(asker, await self._base(asker, "drop", request))
        return pb.DropBaseResponse()

    async def Configure(self, request: pb.ConfigureRequest, context: Context) -> pb.BaseInfo:  # noqa: N802
        asker = self._asker(context)
        base = await self._base(asker, "configure", request)
        answering = await self._valid(asker, "configure", request, lambda: codec.answering_from_message(request.answering))
        return codec.base_to_message(await self._service.configure(asker, base, answering))

    async def Upsert(self, requests: AsyncIterator[pb.UpsertRequest], context: Context) -> pb.UpsertResponse:  # noqa: N802
        """Messages are read as fast as the engine takes documents, so that HTTP/2 holds the client back."""
        asker = self._asker(context)
        assert asker.deadline_s is not None
        late = "the deadline passed before the first message had come"
        messages = aiter(requests)
        first = await within(asker.deadline_s - time.time(), anext(messages, pb.UpsertRequest()), late)
        base = await self._base(asker, "upsert", first)
        documents = _documents(first, messages, CALLER.get())
        return codec.upsert_result_to_message(await self._service.upsert(asker, base, documents))

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.ChangeResponse:  # noqa: N802
        asker = self._asker(context)
        base = await self._base(asker, "delete", request)
        version = await self._service.delete(asker, base, tuple(request.document_ids))
        return pb.ChangeResponse(request_id=asker.request_id, version=version)

    async def Snapshot(self, request: pb.SnapshotRequest, context: Context) -> pb.Version:  # noqa: N802
        asker = self._asker(context)
        base = await self._base(asker, "snapshot", request)
        name = await self._valid(asker, "snapshot", request, lambda: codec.checked_name(request.name, "name"))
        return codec.version_to_message(await self._service.snapshot(asker, base, name))

    async def DropSnapshot(self, request: pb.DropSnapshotRequest, context: Context) -> pb.Version:  # noqa: N802
        asker = self._asker(context)
        base = await self._base(asker, "drop_snapshot", request)
        name = await self._valid(asker, "drop_snapshot", request, lambda: codec.checked_name(request.name, "name"))
        return codec.version_to_message(await self._service.drop_snapshot(asker, base, name))

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.ChangeResponse:  # noqa: N802
        asker = self._asker(context)
        base = await self._base(asker, "rollback", request)
        wanted = await self._valid(asker, "rollback", request, lambda: codec.wanted_version(request))
        version = await self._service.rollback(asker, base, wanted)
        return pb.ChangeResponse(request_id=asker.request_id, version=version)

    # -- looks ------------------------------------------------------------------------------------------------------------

    async def ListBases(self, request: pb.ListBasesRequest, context: Context) -> pb.ListBasesResponse:  # noqa: N802
        bases = await self._service.bases(self._asker(context))
        return pb.ListBasesResponse(bases=[codec.base_to_message(info) for info in bases])

    async def Stats(self, request: pb.StatsRequest, context: Context) -> pb.BaseInfo:  # noqa: N802
        base = codec.checked_name(request.base)
        return codec.base_to_message(await self._service.stats(self._asker(context), base))

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Context) -> pb.ListVersionsResponse:  # noqa: N802
        versions = await self._service.versions(self._asker(context), codec.checked_name(request.base))
        return pb.ListVersionsResponse(versions=[codec.version_to_message(info) for info in versions])

    # -- what every call has ------------------------------------------------------------------------------------------------

    def _asker(self, context: Context, request_id: str = "") -> Asker:
        """Who calls. A request id of the message goes before that of the metadata."""
        caller = named_caller(context, self._mutual_tls)
        if request_id:
            caller.request_id = request_id
        deadline_s = deadline_of(context, self._default_timeout_s)
        return Asker(caller.identity(), caller.request_id, deadline_s, caller.facts)

    async def _base(self, asker: Asker, verb: str, request: Any) -> str:
        return await self._valid(asker, verb, request, lambda: codec.checked_name(request.base))

    async def _valid(self, asker: Asker, verb: str, request: Any, convert: Callable[[], T]) -> T:
        """What the message asks for; that one could not be understood is recorded."""
        try:
            return convert()
        except InvalidInputError as error:
            await self._service.record_refusal(asker, verb, request.base[:128], error)
            raise


async def _written(parts: PartBuffer, writing: asyncio.Task[None]) -> None:
    parts.end()
    await writing


class NoKnowledge(grpc.GenericRpcHandler):  # type: ignore[type-arg] # not generic when it runs
    """Answers every method of the service with UNIMPLEMENTED, and says why."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if not handler_call_details.method.startswith(f"/{KNOWLEDGE_SERVICE}/"):
            return None

        async def refuse(_: Any, context: Context) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, _ABSENT, ((REQUEST_ID_KEY, CALLER.get().request_id),))

        return grpc.stream_stream_rpc_method_handler(refuse)


async def _documents(first: pb.UpsertRequest, rest: AsyncIterator[pb.UpsertRequest], caller: Caller) -> AsyncIterator[Document]:
    """The documents of all messages, as they come; raises `InvalidInputError` for one that can't be understood, and for a
    stream that ends before its last message: to gRPC a client that went away looks just like one that is done."""
    place = 0
    request = first
    while True:
        for document in request.documents:
            yield codec.document_from_message(document, f"documents.{place}")
            place += 1
        if request.last:
            return
        following = await anext(rest, None)
        if following is None:
            raise InvalidInputError("the stream ended without a message that is `last`: nothing of it was put in", field="last")
        if following.base not in {"", first.base}:
            raise InvalidInputError(
                f"the stream began with base {first.base!r} and goes on with {following.base[:80]!r}; open one for each",
                field="base",
            )
        if caller.authenticate is not None:
            await caller.authenticate()  # a stream may outlive its key
        request = following
