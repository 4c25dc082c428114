"""The calls on knowledge bases, each written once: what is sent, what comes of it, and whether it may be sent again. A client
turns them into its methods, so that all clients take the same arguments and give the same results. Questions are in
`knowledge_questions`. No I/O."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from taskloom.core.errors import InputTooLargeError, InvalidInputError
from taskloom.core.knowledge import Document, Metadata, VersionInfo
from taskloom.core.knowledge_calls import (
    AnswerConfig,
    BaseInfo,
    BaseSpec,
    KnowledgeEngine,
    UpsertResult,
)
from taskloom.core.types import new_request_id
from taskloom.core.wire import knowledge_codec as codec
from taskloom.core.wire.gen import knowledge_pb2 as pb
from taskloom.sdk.knowledge_operations import TENANT, Feed, Operation, given_only

R = TypeVar("R")

DocumentLike = Document | Mapping[str, Any] | tuple[str, str]
"""A document, its fields, or its id and its text."""

UPSERT_TIMEOUT_S = 600.0
"""Documents are embedded before they are acknowledged, which takes its time."""
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""What a server takes unless `server.max_message_bytes` says otherwise."""
CHUNK_BYTES = 512 * 1024
"""Documents that are sent together, unless one alone is larger."""


# -- documents ------------------------------------------------------------------------------------------------------------


def upsert(
    base: str,
    documents: Iterable[DocumentLike],
    *,
    timeout_s: float | None = None,
    request_id: str | None = None,
) -> Operation[UpsertResult]:
    """Puts documents in, in place of those with the same ids: all of them as one new version, or none. What is returned is on
    stable storage. A document is a `Document`, a mapping of its fields, or a pair of id and text.

    A list is sent again if the connection breaks, which changes nothing that is there already; what can be read only once (a
    generator) is not. Raises `InputTooLargeError` for a document that fits into no message.
    """
    if isinstance(documents, str | Mapping):
        raise InvalidInputError(
            f"documents is a {type(documents).__name__}; it takes several: a list of documents, of mappings, or of (id, text)",
            field="documents",
        )
    name = codec.checked_name(base)
    asked_as = request_id or new_request_id()

    async def run(engine: KnowledgeEngine, _deadline_s: float) -> UpsertResult:
        result = await engine.upsert(TENANT, name, _one_by_one(documents))
        return result.model_copy(update={"request_id": asked_as})

    return Operation(
        "Upsert",
        lambda: Feed(_chunks(name, documents)),
        codec.upsert_result_from_message,
        run,
        asked_as,
        UPSERT_TIMEOUT_S if timeout_s is None else timeout_s,
        "always" if isinstance(documents, Sequence) else "never",
    )


def delete(
    base: str, document_ids: Iterable[str], *, timeout_s: float | None = None, request_id: str | None = None
) -> Operation[int]:
    """Takes documents out; the new version. Raises `NotFoundError` if one isn't there; then none is taken out."""
    if isinstance(document_ids, str):
        raise InvalidInputError(f"document_ids is one string; it takes a list: [{document_ids[:40]!r}]", field="document_ids")
    name, ids = codec.checked_name(base), tuple(document_ids)
    return _change(
        "Delete",
        lambda: codec.message(pb.DeleteRequest, base=name, document_ids=ids),
        lambda reply: int(reply.version),
        lambda engine: engine.delete(TENANT, name, ids),
        timeout_s=timeout_s,
        request_id=request_id,
    )


def as_document(given: DocumentLike, place: int) -> Document:
    """What `upsert` takes as a document; raises `InvalidInputError`."""
    within = f"documents.{place}"
    if isinstance(given, Document):
        return given
    if isinstance(given, Mapping):
        return codec.build(Document, within, **given)
    if isinstance(given, tuple) and len(given) == 2:
        return codec.build(Document, within, document_id=given[0], text=given[1])
    raise InvalidInputError(
        f"{within} is a {type(given).__name__}; give a Document, a mapping of its fields, or a pair of id and text",
        field=within,
    )


def sendable(document: Document, within: str = "") -> pb.Document:
    """The message for a document; raises `InputTooLargeError` for one that fits into none."""
    sent = codec.document_to_message(document)
    size_bytes = sent.ByteSize()
    if size_bytes + 1024 > MAX_MESSAGE_BYTES:
        raise InputTooLargeError(
            f"document {document.document_id!r} has {size_bytes:,} bytes, and a message at most {MAX_MESSAGE_BYTES:,}; "
            "split it into several, each with an id of its own",
            field=within,
        )
    return sent


def _chunks(base: str, documents: Iterable[DocumentLike]) -> Iterator[pb.UpsertRequest]:
    held = pb.UpsertRequest(base=base)
    held_bytes = 0
    for place, given in enumerate(documents):
        document = sendable(as_document(given, place), f"documents.{place}")
        size_bytes = document.ByteSize()
        if held_bytes and held_bytes + size_bytes > CHUNK_BYTES:
            yield held
            held, held_bytes = pb.UpsertRequest(base=base), 0
        held.documents.append(document)
        held_bytes += size_bytes
    held.last = True
    yield held


async def _one_by_one(documents: Iterable[DocumentLike]) -> AsyncIterator[Document]:
    for place, given in enumerate(documents):
        yield as_document(given, place)


# -- bases and versions ---------------------------------------------------------------------------------------------------


def stats(base: str, *, timeout_s: float | None = None) -> Operation[BaseInfo]:
    """How much the base holds, how that is indexed, and its newest version."""
    request = pb.StatsRequest(base=codec.checked_name(base))
    return _look("Stats", request, codec.base_from_message, lambda engine: engine.stats(TENANT, base), timeout_s)


def versions(base: str, *, timeout_s: float | None = None) -> Operation[list[VersionInfo]]:
    """The versions that can be asked and gone back to, the newest first."""
    request = pb.ListVersionsRequest(base=codec.checked_name(base))

    async def run(engine: KnowledgeEngine) -> list[VersionInfo]:
        return list(await engine.versions(TENANT, base))

    return _look("ListVersions", request, lambda reply: list(map(codec.version_from_message, reply.versions)), run, timeout_s)


def snapshot(base: str, name: str, *, timeout_s: float | None = None, request_id: str | None = None) -> Operation[VersionInfo]:
    """Keeps the newest version under a name."""
    request = pb.SnapshotRequest(base=codec.checked_name(base), name=codec.checked_name(name, "name"))
    return _change(
        "Snapshot",
        lambda: request,
        codec.version_from_message,
        lambda engine: engine.snapshot(TENANT, base, name),
        timeout_s=timeout_s,
        request_id=request_id,
    )


def drop_snapshot(
    base: str, name: str, *, timeout_s: float | None = None, request_id: str | None = None
) -> Operation[VersionInfo]:
    """Takes the name from the version that has it, which from then on is kept as long as others are."""
    request = pb.DropSnapshotRequest(base=codec.checked_name(base), name=codec.checked_name(name, "name"))
    return _change(
        "DropSnapshot",
        lambda: request,
        codec.version_from_message,
        lambda engine: engine.drop_snapshot(TENANT, base, name),
        timeout_s=timeout_s,
        request_id=request_id,
    )


def rollback(base: str, version: int, *, timeout_s: float | None = None, request_id: str | None = None) -> Operation[int]:
    """Makes a new version that has what that one had; its number."""
    name = codec.checked_name(base)
    return _change(
        "Rollback",
        lambda: codec.message(pb.RollbackRequest, base=name, version=version),
        lambda reply: int(reply.version),
        lambda engine: engine.rollback(TENANT, name, version),
        timeout_s=timeout_s,
        request_id=request_id,
    )


def knowledge_bases(*, timeout_s: float | None = None) -> Operation[list[BaseInfo]]:
    """The knowledge bases that may be asked."""

    async def run(engine: KnowledgeEngine) -> list[BaseInfo]:
        return list(await engine.bases(TENANT))

    def read(reply: pb.ListBasesResponse) -> list[BaseInfo]:
        return [codec.base_from_message(info) for info in reply.bases]

    return _look("ListBases", pb.ListBasesRequest(), read, run, timeout_s)


def create_knowledge(
    name: str,
    *,
    shared: bool = False,
    retriever: str = "",
    config: Metadata | None = None,
    answering: AnswerConfig | Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    request_id: str | None = None,
) -> Operation[BaseInfo]:
    """Makes an empty knowledge base. One that is `shared` may be asked by every tenant. `config` has the settings of the
    `retriever` that keeps it; left empty, that is the built-in one. `answering` is what `configure` takes, as a mapping. Raises
    `AlreadyExistsError`."""
    fields: dict[str, Any] = {"base": name, "shared": shared, "retriever": retriever, "config": config or {}}
    spec = codec.build(BaseSpec, **fields, answering=answering or AnswerConfig())
    return _change(
        "CreateBase",
        lambda: codec.spec_to_message(spec),
        codec.base_from_message,
        lambda engine: engine.create(TENANT, spec),
        timeout_s=timeout_s,
        request_id=request_id,
    )


def configure(
    base: str,
    *,
    reranker: str = "",
    candidates: int | None = None,
    writer: str = "",
    params: Metadata | None = None,
    prompt: str | None = None,
    passage: str | None = None,
    passage_characters: int | None = None,
    threshold: float | None = None,
    timeout_s: float | None = None,
    request_id: str | None = None,
) -> Operation[BaseInfo]:
    """Says how questions are answered from now on; what is left out goes back to its default. `reranker` is a model that scores
    question and passage together, for `candidates` (20) of the passages that were found. `writer` is a model that writes the
    answer from the best: it reads `prompt`, with the fields `{question}` and `{passages}`, in which each passage stands as
    `passage` says (`{number}`, `{title}`, `{text}`), as many of them as `passage_characters` (4000) take; `params` are
    parameters of its task. `threshold` is the confidence below which there is no answer. Models are tried before the settings
    are kept: raises `InvalidInputError` for one that is not served or can't do it."""
    name = codec.checked_name(base)
    given = {"candidates": candidates, "prompt": prompt, "passage": passage, "passage_characters": passage_characters}
    fields: dict[str, Any] = {"reranker": reranker, "writer": writer, "params": params or {}, "threshold": threshold}
    config = codec.build(AnswerConfig, "answering", **fields, **given_only(**given))
    request = pb.ConfigureRequest(base=name, answering=codec.answering_to_message(config))
    asked_as = request_id or new_request_id()

    async def run(engine: KnowledgeEngine, _deadline_s: float) -> BaseInfo:
        return await engine.configure(TENANT, name, config)

    return Operation("Configure", lambda: request, codec.base_from_message, run, asked_as, timeout_s)


def drop_knowledge(name: str, *, timeout_s: float | None = None, request_id: str | None = None) -> Operation[None]:
    """Removes a knowledge base with all it holds."""
    request = pb.DropBaseRequest(base=codec.checked_name(name))
    return _change(
        "DropBase",
        lambda: request,
        lambda _reply: None,
        lambda engine: engine.drop(TENANT, name),
        timeout_s=timeout_s,
        request_id=request_id,
    )


def _look(
    method: str,
    request: Any,
    read: Callable[[Any], R],
    run: Callable[[KnowledgeEngine], Awaitable[R]],
    timeout_s: float | None,
) -> Operation[R]:
    return Operation(method, lambda: request, read, lambda engine, _deadline_s: run(engine), new_request_id(), timeout_s)


def _change(
    method: str,
    send: Callable[[], Any],
    read: Callable[[Any], R],
    run: Callable[[KnowledgeEngine], Awaitable[R]],
    *,
    timeout_s: float | None,
    request_id: str | None,
) -> Operation[R]:
    """A change that, made twice, is another or an error: it is sent again only where it was refused before it began."""
    asked_as = request_id or new_request_id()
    return Operation(method, send, read, lambda engine, _deadline_s: run(engine), asked_as, timeout_s, "unless-begun")
