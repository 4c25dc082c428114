from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateBaseRequest(_message.Message):
    __slots__ = ("base", "shared", "retriever", "config", "answering")
    BASE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    RETRIEVER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    ANSWERING_FIELD_NUMBER: _ClassVar[int]
    base: str
    shared: bool
    retriever: str
    config: _struct_pb2.Struct
    answering: AnswerConfig
    def __init__(self, base: _Optional[str] = ..., shared: bool = ..., retriever: _Optional[str] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., answering: _Optional[_Union[AnswerConfig, _Mapping]] = ...) -> None: ...

class ConfigureRequest(_message.Message):
    __slots__ = ("base", "answering")
    BASE_FIELD_NUMBER: _ClassVar[int]
    ANSWERING_FIELD_NUMBER: _ClassVar[int]
    base: str
    answering: AnswerConfig
    def __init__(self, base: _Optional[str] = ..., answering: _Optional[_Union[AnswerConfig, _Mapping]] = ...) -> None: ...

class AnswerConfig(_message.Message):
    __slots__ = ("reranker", "candidates", "writer", "params", "prompt", "passage", "passage_characters", "threshold")
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    reranker: str
    candidates: int
    writer: str
    params: _struct_pb2.Struct
    prompt: str
    passage: str
    passage_characters: int
    threshold: float
    def __init__(self, reranker: _Optional[str] = ..., candidates: _Optional[int] = ..., writer: _Optional[str] = ..., params: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., prompt: _Optional[str] = ..., passage: _Optional[str] = ..., passage_characters: _Optional[int] = ..., threshold: _Optional[float] = ...) -> None: ...

class ListBasesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBasesResponse(_message.Message):
    __slots__ = ("bases",)
    BASES_FIELD_NUMBER: _ClassVar[int]
    bases: _containers.RepeatedCompositeFieldContainer[BaseInfo]
    def __init__(self, bases: _Optional[_Iterable[_Union[BaseInfo, _Mapping]]] = ...) -> None: ...

class BaseInfo(_message.Message):
    __slots__ = ("base", "shared", "retriever", "version", "documents", "passages", "languages", "disk_bytes", "indexes", "graph", "answering")
    class LanguagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    BASE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    RETRIEVER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    ANSWERING_FIELD_NUMBER: _ClassVar[int]
    base: str
    shared: bool
    retriever: str
    version: int
    documents: int
    passages: int
    languages: _containers.ScalarMap[str, int]
    disk_bytes: int
    indexes: _containers.RepeatedCompositeFieldContainer[Index]
    graph: GraphSize
    answering: AnswerConfig
    def __init__(self, base: _Optional[str] = ..., shared: bool = ..., retriever: _Optional[str] = ..., version: _Optional[int] = ..., documents: _Optional[int] = ..., passages: _Optional[int] = ..., languages: _Optional[_Mapping[str, int]] = ..., disk_bytes: _Optional[int] = ..., indexes: _Optional[_Iterable[_Union[Index, _Mapping]]] = ..., graph: _Optional[_Union[GraphSize, _Mapping]] = ..., answering: _Optional[_Union[AnswerConfig, _Mapping]] = ...) -> None: ...

class GraphSize(_message.Message):
    __slots__ = ("entities", "mentions", "relations")
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    MENTIONS_FIELD_NUMBER: _ClassVar[int]
    RELATIONS_FIELD_NUMBER: _ClassVar[int]
    entities: int
    mentions: int
    relations: int
    def __init__(self, entities: _Optional[int] = ..., mentions: _Optional[int] = ..., relations: _Optional[int] = ...) -> None: ...

class Index(_message.Message):
    __slots__ = ("space", "kind", "vectors", "dimensions", "recall", "memory_bytes")
    SPACE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    space: str
    kind: str
    vectors: int
    dimensions: int
    recall: float
    memory_bytes: int
    def __init__(self, space: _Optional[str] = ..., kind: _Optional[str] = ..., vectors: _Optional[int] = ..., dimensions: _Optional[int] = ..., recall: _Optional[float] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class DropBaseRequest(_message.Message):
    __slots__ = ("base",)
    BASE_FIELD_NUMBER: _ClassVar[int]
    base: str
    def __init__(self, base: _Optional[str] = ...) -> None: ...

class DropBaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Document(_message.Message):
    __slots__ = ("document_id", "text", "title", "question", "language", "source", "metadata")
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    document_id: str
    text: str
    title: str
    question: str
    language: str
    source: str
    metadata: _struct_pb2.Struct
    def __init__(self, document_id: _Optional[str] = ..., text: _Optional[str] = ..., title: _Optional[str] = ..., question: _Optional[str] = ..., language: _Optional[str] = ..., source: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class UpsertRequest(_message.Message):
    __slots__ = ("base", "documents", "last")
    BASE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    base: str
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    last: bool
    def __init__(self, base: _Optional[str] = ..., documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ..., last: bool = ...) -> None: ...

class UpsertResponse(_message.Message):
    __slots__ = ("request_id", "version", "passages", "changed", "unchanged", "refused")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    version: int
    passages: int
    changed: _containers.RepeatedScalarFieldContainer[str]
    unchanged: _containers.RepeatedScalarFieldContainer[str]
    refused: _containers.RepeatedCompositeFieldContainer[Refused]
    def __init__(self, request_id: _Optional[str] = ..., version: _Optional[int] = ..., passages: _Optional[int] = ..., changed: _Optional[_Iterable[str]] = ..., unchanged: _Optional[_Iterable[str]] = ..., refused: _Optional[_Iterable[_Union[Refused, _Mapping]]] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("document_id", "reason")
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    document_id: str
    reason: str
    def __init__(self, document_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("base", "document_ids")
    BASE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_IDS_FIELD_NUMBER: _ClassVar[int]
    base: str
    document_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, base: _Optional[str] = ..., document_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ChangeResponse(_message.Message):
    __slots__ = ("request_id", "version")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    version: int
    def __init__(self, request_id: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("base", "query", "limit", "where", "mode", "version", "request_id")
    BASE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    base: str
    query: str
    limit: int
    where: _struct_pb2.Struct
    mode: str
    version: int
    request_id: str
    def __init__(self, base: _Optional[str] = ..., query: _Optional[str] = ..., limit: _Optional[int] = ..., where: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., mode: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("request_id", "version", "hits")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    version: int
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    def __init__(self, request_id: _Optional[str] = ..., version: _Optional[int] = ..., hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("passage", "score", "dense", "sparse", "graph", "fused")
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    SPARSE_FIELD_NUMBER: _ClassVar[int]
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    FUSED_FIELD_NUMBER: _ClassVar[int]
    passage: Passage
    score: float
    dense: float
    sparse: float
    graph: float
    fused: float
    def __init__(self, passage: _Optional[_Union[Passage, _Mapping]] = ..., score: _Optional[float] = ..., dense: _Optional[float] = ..., sparse: _Optional[float] = ..., graph: _Optional[float] = ..., fused: _Optional[float] = ...) -> None: ...

class Passage(_message.Message):
    __slots__ = ("passage_id", "document_id", "text", "start", "end", "title", "headings", "question", "language", "source", "metadata")
    PASSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    HEADINGS_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    passage_id: str
    document_id: str
    text: str
    start: int
    end: int
    title: str
    headings: _containers.RepeatedScalarFieldContainer[str]
    question: str
    language: str
    source: str
    metadata: _struct_pb2.Struct
    def __init__(self, passage_id: _Optional[str] = ..., document_id: _Optional[str] = ..., text: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., title: _Optional[str] = ..., headings: _Optional[_Iterable[str]] = ..., question: _Optional[str] = ..., language: _Optional[str] = ..., source: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("question", "answer")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    question: str
    answer: str
    def __init__(self, question: _Optional[str] = ..., answer: _Optional[str] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("base", "question", "turns", "where", "passages", "threshold", "version", "request_id", "mode")
    BASE_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    base: str
    question: str
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    where: _struct_pb2.Struct
    passages: int
    threshold: float
    version: int
    request_id: str
    mode: str
    def __init__(self, base: _Optional[str] = ..., question: _Optional[str] = ..., turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., where: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., passages: _Optional[int] = ..., threshold: _Optional[float] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ..., mode: _Optional[str] = ...) -> None: ...

class AskResponse(_message.Message):
    __slots__ = ("request_id", "version", "kind", "answer", "confidence", "language", "understood_as", "sources", "models", "ranking", "evidence", "truncated")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    UNDERSTOOD_AS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    RANKING_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    version: int
    kind: str
    answer: str
    confidence: float
    language: str
    understood_as: str
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    models: _containers.RepeatedScalarFieldContainer[str]
    ranking: _containers.RepeatedCompositeFieldContainer[Ranked]
    evidence: str
    truncated: bool
    def __init__(self, request_id: _Optional[str] = ..., version: _Optional[int] = ..., kind: _Optional[str] = ..., answer: _Optional[str] = ..., confidence: _Optional[float] = ..., language: _Optional[str] = ..., understood_as: _Optional[str] = ..., sources: _Optional[_Iterable[_Union[Source, _Mapping]]] = ..., models: _Optional[_Iterable[str]] = ..., ranking: _Optional[_Iterable[_Union[Ranked, _Mapping]]] = ..., evidence: _Optional[str] = ..., truncated: bool = ...) -> None: ...

class Ranked(_message.Message):
    __slots__ = ("passage_id", "fused", "score")
    PASSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    FUSED_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    passage_id: str
    fused: float
    score: float
    def __init__(self, passage_id: _Optional[str] = ..., fused: _Optional[float] = ..., score: _Optional[float] = ...) -> None: ...

class AskStreamResponse(_message.Message):
    __slots__ = ("request_id", "text", "answer")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    text: str
    answer: AskResponse
    def __init__(self, request_id: _Optional[str] = ..., text: _Optional[str] = ..., answer: _Optional[_Union[AskResponse, _Mapping]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("document_id", "passage_id", "title", "source", "passage", "answer", "start", "end", "score", "graph")
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    document_id: str
    passage_id: str
    title: str
    source: str
    passage: str
    answer: str
    start: int
    end: int
    score: float
    graph: float
    def __init__(self, document_id: _Optional[str] = ..., passage_id: _Optional[str] = ..., title: _Optional[str] = ..., source: _Optional[str] = ..., passage: _Optional[str] = ..., answer: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., score: _Optional[float] = ..., graph: _Optional[float] = ...) -> None: ...

class GraphRequest(_message.Message):
    __slots__ = ("base", "name", "hops", "limit", "version", "request_id")
    BASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    base: str
    name: str
    hops: int
    limit: int
    version: int
    request_id: str
    def __init__(self, base: _Optional[str] = ..., name: _Optional[str] = ..., hops: _Optional[int] = ..., limit: _Optional[int] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class GraphResponse(_message.Message):
    __slots__ = ("request_id", "version", "mentions", "relations")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MENTIONS_FIELD_NUMBER: _ClassVar[int]
    RELATIONS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    version: int
    mentions: _containers.RepeatedCompositeFieldContainer[GraphMention]
    relations: _containers.RepeatedCompositeFieldContainer[GraphRelation]
    def __init__(self, request_id: _Optional[str] = ..., version: _Optional[int] = ..., mentions: _Optional[_Iterable[_Union[GraphMention, _Mapping]]] = ..., relations: _Optional[_Iterable[_Union[GraphRelation, _Mapping]]] = ...) -> None: ...

class GraphMention(_message.Message):
    __slots__ = ("name", "label", "document_id", "passage_id", "text", "start", "end", "score", "models")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    document_id: str
    passage_id: str
    text: str
    start: int
    end: int
    score: float
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., document_id: _Optional[str] = ..., passage_id: _Optional[str] = ..., text: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., score: _Optional[float] = ..., models: _Optional[_Iterable[str]] = ...) -> None: ...

class GraphRelation(_message.Message):
    __slots__ = ("head", "head_label", "relation", "tail", "tail_label", "hop", "document_id", "passage_id", "score", "models")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    HEAD_LABEL_FIELD_NUMBER: _ClassVar[int]
    RELATION_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    TAIL_LABEL_FIELD_NUMBER: _ClassVar[int]
    HOP_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    head: str
    head_label: str
    relation: str
    tail: str
    tail_label: str
    hop: int
    document_id: str
    passage_id: str
    score: float
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, head: _Optional[str] = ..., head_label: _Optional[str] = ..., relation: _Optional[str] = ..., tail: _Optional[str] = ..., tail_label: _Optional[str] = ..., hop: _Optional[int] = ..., document_id: _Optional[str] = ..., passage_id: _Optional[str] = ..., score: _Optional[float] = ..., models: _Optional[_Iterable[str]] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("base",)
    BASE_FIELD_NUMBER: _ClassVar[int]
    base: str
    def __init__(self, base: _Optional[str] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("base",)
    BASE_FIELD_NUMBER: _ClassVar[int]
    base: str
    def __init__(self, base: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    def __init__(self, versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("number", "created", "change", "documents", "passages", "name")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    number: int
    created: str
    change: str
    documents: int
    passages: int
    name: str
    def __init__(self, number: _Optional[int] = ..., created: _Optional[str] = ..., change: _Optional[str] = ..., documents: _Optional[int] = ..., passages: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("base", "name")
    BASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    base: str
    name: str
    def __init__(self, base: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DropSnapshotRequest(_message.Message):
    __slots__ = ("base", "name")
    BASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    base: str
    name: str
    def __init__(self, base: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("base", "version")
    BASE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    base: str
    version: int
    def __init__(self, base: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...
