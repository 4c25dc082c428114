from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from taskloom.core.wire import knowledge_codec as codec
from taskloom.core.wire.gen import knowledge_pb2 as pb

text = st.text(st.characters(codec="utf-8"), max_size=20)
ident = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
scalar = text | st.integers(-(2**53), 2**53) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
metadata = st.dictionaries(text, scalar | st.lists(scalar, max_size=3).map(tuple), max_size=4)
counts = st.integers(0, 2**40)
score = st.floats(-1e9, 1e9)
documents = st.builds(Document, document_id=ident, text=text, title=text, question=text, source=text, metadata=metadata)
passages = st.builds(
    Passage,
    passage_id=text,
    document_id=text,
    text=text,
    start=counts,
    end=counts,
    headings=st.lists(text, max_size=3).map(tuple),
    metadata=metadata,
)


@given(documents)
def test_a_document_survives_the_wire_with_whole_numbers_whole(document: Document) -> None:
    sent = pb.Document.FromString(codec.document_to_message(document).SerializeToString())
    back = codec.document_from_message(sent)
    assert back == document
    for key, value in document.metadata.items():
        if isinstance(value, int):
            assert type(back.metadata[key]) is type(value)


@given(
    st.builds(
        SearchCall,
        base=st.just("b"),
        query=ident,
        limit=st.integers(1, 100),
        where=st.none() | metadata,
        mode=st.sampled_from(["hybrid", "dense", "sparse", "graph", "reranked"]),
        version=st.none() | st.integers(0, 2**40),
        request_id=st.just("r"),
    )
)
def test_a_search_survives_the_wire(call: SearchCall) -> None:
    sent = pb.SearchRequest.FromString(codec.search_to_message(call).SerializeToString())
    assert codec.search_from_message(sent, sent.request_id, None) == call


@given(
    st.builds(
        AskCall,
        base=st.just("b"),
        question=ident,
        turns=st.lists(st.builds(Turn, question=ident, answer=text), max_size=3).map(tuple),
        where=st.none() | metadata,
        passages=st.integers(1, 20),
        threshold=st.none() | st.floats(0, 1),
        mode=st.none() | st.sampled_from(["hybrid", "graph"]),
        version=st.none() | st.integers(0, 2**40),
        request_id=st.just("r"),
    )
)
def test_a_question_survives_the_wire(call: AskCall) -> None:
    sent = pb.AskRequest.FromString(codec.ask_to_message(call).SerializeToString())
    assert codec.ask_from_message(sent, sent.request_id, None) == call


sources = st.builds(
    Source,
    document_id=text,
    passage_id=text,
    title=text,
    source=text,
    passage=text,
    answer=text,
    start=counts,
    end=counts,
    score=score,
    graph=st.none() | score,
)


@given(
    st.builds(
        KnowledgeAnswer,
        kind=st.sampled_from(["span", "faq", "written", "none"]),
        answer=text,
        confidence=st.floats(0, 1),
        language=text,
        understood_as=text,
        sources=st.lists(sources, max_size=3).map(tuple),
        version=counts,
        models=st.lists(text, max_size=3).map(tuple),
        ranking=st.lists(st.builds(Ranked, passage_id=text, fused=score, score=score), max_size=3).map(tuple),
        evidence=st.sampled_from(["", "reader", "reranker", "similarity"]),
        truncated=st.booleans(),
        request_id=text,
    )
)
def test_an_answer_survives_the_wire(answer: KnowledgeAnswer) -> None:
    sent = pb.AskResponse.FromString(codec.answer_to_message(answer).SerializeToString())
    assert codec.answer_from_message(sent) == answer


scores = st.none() | score
hits = st.builds(Hit, passage=passages, score=score, dense=scores, sparse=scores, graph=scores, fused=scores)


@given(st.builds(SearchResult, version=counts, hits=st.lists(hits, max_size=3).map(tuple), request_id=text))
def test_hits_survive_the_wire_and_what_was_not_found_stays_none(result: SearchResult) -> None:
    sent = pb.SearchResponse.FromString(codec.search_result_to_message(result).SerializeToString())
    assert codec.search_result_from_message(sent) == result


probability = st.floats(0, 1)
models = st.lists(text, max_size=2).map(tuple)
mentions = st.builds(
    GraphMention,
    name=text,
    label=text,
    document_id=text,
    passage_id=text,
    text=text,
    start=counts,
    end=counts,
    score=probability,
    models=models,
)
relations = st.builds(
    GraphRelation,
    head=text,
    head_label=text,
    relation=text,
    tail=text,
    tail_label=text,
    hop=st.integers(1, 2),
    document_id=text,
    passage_id=text,
    score=probability,
    models=models,
)


@given(
    st.builds(
        GraphCall,
        base=st.just("b"),
        name=ident,
        hops=st.integers(1, 2),
        limit=st.integers(1, 100),
        version=st.none() | st.integers(0, 2**40),
        request_id=st.just("r"),
    ),
    st.builds(
        GraphResult,
        version=counts,
        mentions=st.lists(mentions, max_size=2).map(tuple),
        relations=st.lists(relations, max_size=2).map(tuple),
        request_id=text,
    ),
)
def test_a_look_at_a_graph_survives_the_wire(call: GraphCall, result: GraphResult) -> None:
    sent = pb.GraphRequest.FromString(codec.graph_to_message(call).SerializeToString())
    assert codec.graph_from_message(sent, sent.request_id, None) == call
    told = pb.GraphResponse.FromString(codec.graph_result_to_message(result).SerializeToString())
    assert codec.graph_result_from_message(told) == result


def test_the_rest_survives_the_wire() -> None:
    index = IndexInfo(space="e@1", kind="hnsw", vectors=3, dimensions=384, recall=0.99, memory_bytes=10)
    stats = KnowledgeStats(version=3, documents=2, passages=3, languages={"zh": 1, "en": 2}, disk_bytes=9, indexes=(index,))
    graph = GraphInfo(entities=2, mentions=3, relations=0)
    answering = AnswerConfig(
        reranker="a", candidates=3, writer="b@2", params={"num_beams": 2}, threshold=0.0, passage="{text}{{"
    )
    for known in (None, graph):
        own = stats.model_copy(update={"graph": known})
        info = BaseInfo(base="b", shared=True, retriever="r", stats=own, answering=answering)
        assert codec.base_from_message(codec.base_to_message(info)) == info
    spec = BaseSpec(base="b", shared=True, retriever="r", config={"overlap": 2, "rate": 0.5}, answering=answering)
    assert codec.spec_from_message(codec.spec_to_message(spec)) == spec
    refused = (Refused(document_id="d", reason="空"),)
    result = UpsertResult(version=4, passages=2, changed=("a",), unchanged=("b",), refused=refused, request_id="r")
    assert codec.upsert_result_from_message(codec.upsert_result_to_message(result)) == result
    version = VersionInfo(number=3, created="2026-11-21T10:00:00Z", change="put", documents=1, passages=2, name="v")
    assert codec.version_from_message(codec.version_to_message(version)) == version


def test_what_is_left_out_means_the_default() -> None:
    asked = codec.ask_from_message(pb.AskRequest(base="b", question="q"), "r", 5.0)
    assert (asked.passages, asked.threshold, asked.version, asked.where) == (5, None, None, None)
    assert (asked.request_id, asked.deadline_s) == ("r", 5.0)
    assert codec.ask_from_message(pb.AskRequest(base="b", question="q", threshold=0.0), "r", None).threshold == 0.0
    found = codec.search_from_message(pb.SearchRequest(base="b", query="q"), "r", None)
    assert (found.limit, found.mode) == (10, "hybrid")
    assert codec.answering_from_message(pb.AnswerConfig()) == AnswerConfig()
    assert codec.spec_from_message(pb.CreateBaseRequest(base="b")).answering == AnswerConfig()
    part = codec.piece_from_message(pb.AskStreamResponse(text="of it"))
    assert part == "of it"
    assert asked.mode is None
    near = codec.graph_from_message(pb.GraphRequest(base="b", name="x"), "r", None)
    assert (near.hops, near.limit, near.version) == (1, 20, None)


@pytest.mark.parametrize("value", [2**53 + 1, -(2**60), (1, 2**53 + 1)])
def test_a_number_that_the_wire_would_change_is_refused(value: Any) -> None:
    document = Document(document_id="d", text="x", metadata={"n": value})
    with pytest.raises(InvalidInputError, match="write it as a string"):
        codec.document_to_message(document)


def test_what_no_filter_can_match_is_refused_where_it_stands() -> None:
    sent = pb.Document(document_id="d", text="x")
    sent.metadata.update({"nested": {"a": 1}})
    with pytest.raises(InvalidInputError, match="metadata") as caught:
        codec.document_from_message(sent, "documents.3")
    assert caught.value.field.startswith("documents.3.metadata")
    for name in ("", "../etc", "A", "x" * 64):
        with pytest.raises(InvalidInputError, match="lower-case letters"):
            codec.checked_name(name)
