"""The boundary types of knowledge bases to the messages of `taskloom.v1.Knowledge`, and back.

A Struct knows one kind of number. Whole numbers of metadata and filters come back as integers, and one that a double can't hold
is refused, so that what was put in is what is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf import struct_pb2
from google.protobuf.message import Message
from pydantic import TypeAdapter, ValidationError

from taskloom.core.errors import InvalidInputError
from taskloom.core.knowledge import Document, Hit, IndexInfo, KnowledgeStats, Passage, Refused, VersionInfo
from taskloom.core.knowledge_calls import (
    AnswerConfig,
    AskCall,
    BaseInfo,
    BaseSpec,
    GraphCall,
    GraphResult,
    KnowledgeAnswer,
    Ranked,
    SearchCall,
    SearchResult,
    Source,
    Turn,
    UpsertResult,
)
from taskloom.core.knowledge_graph import GraphInfo, GraphMention, GraphRelation
from taskloom.core.types import Frozen, Name
from taskloom.core.wire.codec import message_to_dict
from taskloom.core.wire.gen import knowledge_pb2 as pb

F = TypeVar("F", bound=Frozen)
M = TypeVar("M", bound=Message)

_EXACT = 2**53
"""Whole numbers beyond it are not all doubles."""
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def build(kind: type[F], within: str = "", /, **fields: Any) -> F:
    """A boundary type of what a caller gave; raises `InvalidInputError` that names the field, under `within`."""
    try:
        return kind(**fields)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        field = ".".join(str(part) for part in (within, *first["loc"]) if part != "")
        raise InvalidInputError(f"{field}: {first['msg']}", field=field) from exc


def wanted_version(sent: pb.RollbackRequest) -> int:
    """The version to go back to; raises `InvalidInputError` where none is named: 0, the empty one, must be meant."""
    if not sent.HasField("version"):
        raise InvalidInputError("version: name the version to go back to; 0 is the empty one", field="version")
    return sent.version


def checked_name(name: str, field: str = "base") -> str:
    """The name of a base or a snapshot; raises `InvalidInputError` for what is none."""
    try:
        return _NAME.validate_python(name)
    except ValidationError as exc:
        raise InvalidInputError(
            f"{field}: {name[:80]!r} is no name; write lower-case letters, digits, '.', '_' and '-', at most 63 of them",
            field=field,
        ) from exc


def message(kind: type[M], /, **fields: Any) -> M:
    """A message; raises `InvalidInputError` for what does not fit into it. None is left out."""
    try:
        return kind(**{name: value for name, value in fields.items() if value is not None})
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(f"the data does not fit the message {kind.__name__}: {exc}") from exc


# -- documents ------------------------------------------------------------------------------------------------------------


def document_to_message(document: Document) -> pb.Document:
    fields = _plain(document)
    return message(
        pb.Document, **fields | {"metadata": _struct(document.metadata, f"document {document.document_id!r}.metadata")}
    )


def document_from_message(sent: pb.Document, within: str = "document") -> Document:
    fields = {name: getattr(sent, name) for name in ("document_id", "text", "title", "question", "language", "source")}
    return build(Document, within, **fields, metadata=_mapping(sent.metadata))


def upsert_result_to_message(result: UpsertResult) -> pb.UpsertResponse:
    refused = [pb.Refused(document_id=one.document_id, reason=one.reason) for one in result.refused]
    return message(pb.UpsertResponse, **_plain(result) | {"refused": refused})


def upsert_result_from_message(sent: pb.UpsertResponse) -> UpsertResult:
    return UpsertResult(
        request_id=sent.request_id,
        version=sent.version,
        passages=sent.passages,
        changed=tuple(sent.changed),
        unchanged=tuple(sent.unchanged),
        refused=tuple(Refused(document_id=one.document_id, reason=one.reason) for one in sent.refused),
    )


# -- bases and versions ---------------------------------------------------------------------------------------------------


def spec_to_message(spec: BaseSpec) -> pb.CreateBaseRequest:
    answering = answering_to_message(spec.answering)
    return message(pb.CreateBaseRequest, **_plain(spec) | {"config": _struct(spec.config, "config"), "answering": answering})


def spec_from_message(sent: pb.CreateBaseRequest) -> BaseSpec:
    answering = answering_from_message(sent.answering)
    fields: dict[str, Any] = {"base": sent.base, "shared": sent.shared, "retriever": sent.retriever}
    return build(BaseSpec, **fields, config=_mapping(sent.config), answering=answering)


def answering_to_message(config: AnswerConfig) -> pb.AnswerConfig:
    return message(pb.AnswerConfig, **_plain(config) | {"params": _struct(config.params, "answering.params")})


def answering_from_message(sent: pb.AnswerConfig) -> AnswerConfig:
    fields = {name: getattr(sent, name) for name in AnswerConfig.model_fields if name not in {"params", "threshold"}}
    threshold = sent.threshold if sent.HasField("threshold") else None
    return build(AnswerConfig, "answering", params=_mapping(sent.params), threshold=threshold, **_given(**fields))


def base_to_message(info: BaseInfo) -> pb.BaseInfo:
    stats = info.stats
    return pb.BaseInfo(
        base=info.base,
        shared=info.shared,
        retriever=info.retriever,
        version=stats.version,
        documents=stats.documents,
        passages=stats.passages,
        languages=stats.languages,
        disk_bytes=stats.disk_bytes,
        indexes=[pb.Index(**_plain(index)) for index in stats.indexes],
        graph=pb.GraphSize(**_plain(stats.graph)) if stats.graph is not None else None,
        answering=answering_to_message(info.answering),
    )


def base_from_message(sent: pb.BaseInfo) -> BaseInfo:
    stats = KnowledgeStats(
        version=sent.version,
        documents=sent.documents,
        passages=sent.passages,
        languages=dict(sent.languages),
        disk_bytes=sent.disk_bytes,
        indexes=tuple(IndexInfo(**message_to_dict(index)) for index in sent.indexes),
        graph=GraphInfo(**message_to_dict(sent.graph)) if sent.HasField("graph") else None,
    )
    answering = answering_from_message(sent.answering)
    return BaseInfo(base=sent.base, shared=sent.shared, retriever=sent.retriever, stats=stats, answering=answering)


def version_to_message(info: VersionInfo) -> pb.Version:
    return pb.Version(**_plain(info))


def version_from_message(sent: pb.Version) -> VersionInfo:
    return VersionInfo(**message_to_dict(sent))


# -- searches -------------------------------------------------------------------------------------------------------------


def search_to_message(call: SearchCall) -> pb.SearchRequest:
    return message(
        pb.SearchRequest,
        base=call.base,
        query=call.query,
        limit=call.limit,
        where=_struct(call.where, "where") if call.where is not None else None,
        mode=call.mode,
        version=call.version,
        request_id=call.request_id,
    )


def search_from_message(sent: pb.SearchRequest, request_id: str, deadline_s: float | None) -> SearchCall:
    return build(
        SearchCall,
        base=sent.base,
        query=sent.query,
        where=_mapping(sent.where) if sent.HasField("where") else None,
        version=sent.version if sent.HasField("version") else None,
        request_id=request_id,
        deadline_s=deadline_s,
        **_given(limit=sent.limit, mode=sent.mode),
    )


def search_result_to_message(result: SearchResult) -> pb.SearchResponse:
    hits = [message(pb.Hit, **_plain(hit) | {"passage": _passage_to_message(hit.passage)}) for hit in result.hits]
    return pb.SearchResponse(request_id=result.request_id, version=result.version, hits=hits)


def search_result_from_message(sent: pb.SearchResponse) -> SearchResult:
    hits = tuple(
        Hit(
            passage=_passage_from_message(hit.passage),
            score=hit.score,
            dense=hit.dense if hit.HasField("dense") else None,
            sparse=hit.sparse if hit.HasField("sparse") else None,
            graph=hit.graph if hit.HasField("graph") else None,
            fused=hit.fused if hit.HasField("fused") else None,
        )
        for hit in sent.hits
    )
    return SearchResult(request_id=sent.request_id, version=sent.version, hits=hits)


def _passage_to_message(passage: Passage) -> pb.Passage:
    return message(pb.Passage, **_plain(passage) | {"metadata": _struct(passage.metadata, "metadata")})


def _passage_from_message(sent: pb.Passage) -> Passage:
    fields = {name: getattr(sent, name) for name in Passage.model_fields if name not in {"headings", "metadata"}}
    return Passage(**fields, headings=tuple(sent.headings), metadata=_mapping(sent.metadata))


# -- questions ------------------------------------------------------------------------------------------------------------


def ask_to_message(call: AskCall) -> pb.AskRequest:
    return message(
        pb.AskRequest,
        base=call.base,
        question=call.question,
        turns=[message(pb.Turn, question=turn.question, answer=turn.answer) for turn in call.turns],
        where=_struct(call.where, "where") if call.where is not None else None,
        passages=call.passages,
        threshold=call.threshold,
        version=call.version,
        request_id=call.request_id,
        mode=call.mode,
    )


def ask_from_message(sent: pb.AskRequest, request_id: str, deadline_s: float | None) -> AskCall:
    turns = (build(Turn, f"turns.{place}", question=turn.question, answer=turn.answer) for place, turn in enumerate(sent.turns))
    return build(
        AskCall,
        base=sent.base,
        question=sent.question,
        turns=tuple(turns),
        where=_mapping(sent.where) if sent.HasField("where") else None,
        threshold=sent.threshold if sent.HasField("threshold") else None,
        version=sent.version if sent.HasField("version") else None,
        request_id=request_id,
        deadline_s=deadline_s,
        **_given(passages=sent.passages, mode=sent.mode),
    )


def answer_to_message(answer: KnowledgeAnswer) -> pb.AskResponse:
    parts = {
        "sources": [pb.Source(**_plain(one)) for one in answer.sources],
        "ranking": [pb.Ranked(**_plain(one)) for one in answer.ranking],
    }
    return message(pb.AskResponse, **_plain(answer) | parts)


def answer_from_message(sent: pb.AskResponse) -> KnowledgeAnswer:
    parts = {
        "sources": tuple(Source(**message_to_dict(one)) for one in sent.sources),
        "ranking": tuple(Ranked(**message_to_dict(one)) for one in sent.ranking),
    }
    return KnowledgeAnswer.model_validate(message_to_dict(sent) | parts)


def piece_from_message(sent: pb.AskStreamResponse) -> str | KnowledgeAnswer:
    """What a message of a stream brings: a part of the text, or the whole answer."""
    return sent.text if sent.WhichOneof("result") == "text" else answer_from_message(sent.answer)


# -- graphs ---------------------------------------------------------------------------------------------------------------


def graph_to_message(call: GraphCall) -> pb.GraphRequest:
    fields = {name: value for name, value in _plain(call).items() if name != "deadline_s"}
    return message(pb.GraphRequest, **fields)


def graph_from_message(sent: pb.GraphRequest, request_id: str, deadline_s: float | None) -> GraphCall:
    return build(
        GraphCall,
        base=sent.base,
        name=sent.name,
        version=sent.version if sent.HasField("version") else None,
        request_id=request_id,
        deadline_s=deadline_s,
        **_given(hops=sent.hops, limit=sent.limit),
    )


def graph_result_to_message(result: GraphResult) -> pb.GraphResponse:
    mentions = [message(pb.GraphMention, **_plain(one)) for one in result.mentions]
    relations = [message(pb.GraphRelation, **_plain(one)) for one in result.relations]
    return message(pb.GraphResponse, **_plain(result) | {"mentions": mentions, "relations": relations})


def graph_result_from_message(sent: pb.GraphResponse) -> GraphResult:
    return GraphResult(
        request_id=sent.request_id,
        version=sent.version,
        mentions=tuple(GraphMention.model_validate(message_to_dict(one)) for one in sent.mentions),
        relations=tuple(GraphRelation.model_validate(message_to_dict(one)) for one in sent.relations),
    )


# -- fields and Structs -----------------------------------------------------------------------------------------------------


def _plain(value: Frozen) -> dict[str, Any]:
    """The fields as they are, not their insides."""
    return {name: getattr(value, name) for name in type(value).model_fields}


def _given(**fields: Any) -> dict[str, Any]:
    """Without what is 0 or empty, which on the wire means the default."""
    return {name: value for name, value in fields.items() if value}


def _struct(data: Mapping[str, Any], within: str) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    try:
        struct.update({key: _sendable(value) for key, value in data.items()})
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(f"{within}: {exc}", field=within) from exc
    return struct


def _sendable(value: Any) -> Any:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_sendable(item) for item in value]
    if isinstance(value, int) and abs(value) > _EXACT:
        raise ValueError(f"{value} is beyond what a double holds exactly (2 to the power of 53); write it as a string")
    return value


def _mapping(struct: struct_pb2.Struct) -> dict[str, Any]:
    return {key: _received(value) for key, value in struct.fields.items()}


def _received(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT else number
    if kind == "list_value":
        return tuple(_received(item) for item in value.list_value.values)
    if kind == "struct_value":
        return _mapping(value.struct_value)  # refused by the schemas, which say where it stands
    return None if kind in {None, "null_value"} else getattr(value, str(kind))
