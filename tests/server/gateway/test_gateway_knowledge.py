"""`taskloom.v1.Knowledge` over a real server: who may what, what is recorded, and what is not done by halves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from gateway_fakes import Running, bearer, failure, running_gateway, until
from grpc import StatusCode as Code
from scripted_knowledge import MemoryKnowledge

from taskloom.core.errors import OverloadedError
from taskloom.core.knowledge_calls import AnswerConfig, BaseSpec
from taskloom.core.wire.gen import inference_pb2 as inference
from taskloom.core.wire.gen import knowledge_pb2 as pb
from taskloom.server.auth.policy import RULES

WIFI = pb.Document(document_id="wifi", text="hold the reset button for ten seconds", title="Router")


class Asking:
    """A gateway with the base `handbook`, of one document, and a stub to ask it."""

    def __init__(self, running: Running, engine: MemoryKnowledge) -> None:
        self.running, self.engine, self.audit = running, engine, running.audit
        self.stub = running.knowledge_stub()

    def call(self, method: str, request: Any, key: str = "key-all", **options: Any) -> Any:
        return getattr(self.stub, method)(request, metadata=bearer(key), **options)

    async def upsert(self, *messages: pb.UpsertRequest, key: str = "key-all", **more: str) -> pb.UpsertResponse:
        return await self.stub.Upsert(iter(messages), metadata=bearer(key, **more))

    def records(self) -> list[tuple[str, str, str]]:
        return [(entry.kind, entry.action, entry.code) for entry in self.audit.entries]


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    engine = MemoryKnowledge()
    async with running_gateway(knowledge=engine) as running:
        found = Asking(running, engine)
        await engine.create("default", BaseSpec(base="handbook"))
        await found.upsert(message(WIFI, last=True))
        running.audit.entries.clear()
        yield found
        engine.release.set()


def message(*documents: pb.Document, base: str = "handbook", last: bool = False) -> pb.UpsertRequest:
    return pb.UpsertRequest(base=base, documents=documents, last=last)


def ask(question: str = "where is the reset?", base: str = "handbook", **fields: Any) -> pb.AskRequest:
    return pb.AskRequest(base=base, question=question, **fields)


# -- questions -------------------------------------------------------------------------------------------------------------


async def test_an_answer_has_its_sources_and_two_records_with_the_passages(asking: Asking) -> None:
    reply = await asking.call("Ask", ask(request_id="r-1", turns=[pb.Turn(question="my wifi?", answer="yes")]))
    assert (reply.kind, reply.answer, reply.request_id, reply.version) == ("span", "reset", "r-1", 1)
    assert list(reply.models) == ["reader@1"]
    source = reply.sources[0]
    assert source.passage[source.start : source.end] == "reset"
    accepted, completed = asking.audit.entries
    assert [e.kind for e in (accepted, completed)] == ["accepted", "completed"]
    for entry in (accepted, completed):
        assert (entry.action, entry.model, entry.request_id) == ("knowledge.ask", "kb:handbook", "r-1")
    assert accepted.payload == {"question": "where is the reset?", "turns": [{"question": "my wifi?", "answer": "yes"}]}
    assert completed.version == "1"
    assert completed.payload is not None
    assert completed.payload["answer"] == "reset"
    assert completed.facts["passages"] == ["wifi#0"]
    assert "reset" not in str(completed.facts)


async def test_what_came_by_the_graph_is_in_the_answer_and_in_the_records(asking: Asking) -> None:
    await asking.engine.create("default", BaseSpec(base="firms", config={"graph": True}))
    await asking.upsert(message(WIFI, base="firms", last=True))
    asking.audit.entries.clear()
    reply = await asking.call("Ask", ask(base="firms", mode="graph"))
    assert reply.sources[0].graph == 0.25
    accepted, completed = asking.audit.entries
    assert accepted.facts["mode"] == "graph"
    assert completed.facts["graph_passages"] == completed.facts["passages"] == ["wifi#0"]
    plain = await asking.call("Ask", ask(base="firms"))
    assert not plain.sources[0].HasField("graph")
    assert "graph_passages" not in asking.audit.entries[-1].facts
    asking.audit.entries.clear()
    found = await asking.call("Graph", pb.GraphRequest(base="firms", name="Ann", request_id="r-1"))
    assert ([one.name for one in found.mentions], found.request_id) == (["ann"], "r-1")
    accepted, completed = asking.audit.entries
    assert (accepted.action, accepted.payload) == ("knowledge.graph", {"name": "Ann"})
    assert (completed.kind, completed.version) == ("completed", "1")
    assert {name: completed.facts[name] for name in ("mentions", "relations", "passages", "hops")} == {
        "mentions": 1,
        "relations": 1,
        "passages": ["wifi#0"],
        "hops": 1,
    }
    code, _ = await failure(asking.call("Graph", pb.GraphRequest(base="firms", name="Ann", hops=3)))
    assert code is Code.INVALID_ARGUMENT
    assert asking.audit.entries[-1].action == "knowledge.graph"


async def test_a_search_keeps_whole_numbers_of_metadata_and_filters_by_them(asking: Asking) -> None:
    old, new = (pb.Document(document_id=str(year), text="x") for year in (2025, 2026))
    old.metadata.update({"year": 2025, "tags": ["a", "b"]})
    new.metadata.update({"year": 2026})
    await asking.upsert(message(old, new, last=True))
    request = pb.SearchRequest(base="handbook", query="x")
    request.where.update({"year": 2025})
    reply = await asking.call("Search", request)
    assert [hit.passage.document_id for hit in reply.hits] == ["2025"]
    year = asking.engine.kept["handbook"].versions[-1]["2025"].metadata["year"]
    assert (year, type(year)) == (2025, int)
    assert not reply.hits[0].HasField("sparse")
    completed = asking.audit.entries[-1]
    assert (completed.action, completed.version, completed.facts["passages"]) == ("knowledge.search", "2", ["2025#0"])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ask(""), "question"),
        (ask("q" * 5000), "question"),
        (ask(base="../etc"), "base"),
        (ask(passages=21), "passages"),
        (ask(threshold=1.5), "threshold"),
        (ask(turns=[pb.Turn(question="")]), "turns.0.question"),
    ],
)
async def test_what_can_not_be_understood_is_told_by_its_field_and_recorded(
    asking: Asking, request_: pb.AskRequest, field: str
) -> None:
    code, error = await failure(asking.call("Ask", request_))
    assert (code, error.field) == (Code.INVALID_ARGUMENT, field)  # type: ignore[attr-defined]
    assert asking.records() == [("failed", "knowledge.ask", "invalid_input")]
    assert asking.engine.calls == []


async def test_no_answer_leaves_without_its_record(asking: Asking) -> None:
    asking.audit.fails_on = {"completed"}
    assert (await failure(asking.call("Ask", ask())))[1].code == "audit_unavailable"
    asking.audit.fails_on = {"accepted", "completed", "failed"}
    asking.engine.calls.clear()
    for method, request in (("Ask", ask()), ("Search", pb.SearchRequest(base="handbook", query="q"))):
        assert (await failure(asking.call(method, request)))[1].code == "audit_unavailable"
    assert (await failure(asking.upsert(message(WIFI, last=True))))[1].code == "audit_unavailable"
    assert asking.engine.calls == []
    assert asking.engine.upserts == 1


@pytest.mark.parametrize(("question", "code", "told"), [("full", "overloaded", "full"), ("crash", "internal", "request id")])
async def test_a_failure_is_recorded_and_says_nothing_of_the_inside(
    asking: Asking, question: str, code: str, told: str
) -> None:
    asking.engine.errors["full"] = OverloadedError("full", 2.0)
    error = (await failure(asking.call("Ask", ask(question))))[1]
    assert error.code == code
    assert told in error.message
    assert "/secret" not in error.message
    assert asking.records() == [("accepted", "knowledge.ask", ""), ("failed", "knowledge.ask", code)]


async def test_a_deadline_ends_a_question_and_its_record_says_so(asking: Asking) -> None:
    code, _ = await failure(asking.call("Ask", ask("slow"), timeout=0.3))
    assert code is Code.DEADLINE_EXCEEDED
    await until(lambda: asking.audit.codes() != [])
    assert asking.audit.codes() == ["deadline_exceeded"]


async def test_a_caller_who_goes_away_is_recorded(asking: Asking) -> None:
    call = asking.call("Ask", ask("slow"))
    await asyncio.wait_for(asking.engine.started.wait(), 5)
    call.cancel()
    await until(lambda: asking.audit.codes() == ["cancelled"])


# -- answers that models re-rank for and write ---------------------------------------------------------------------------


async def configured(asking: Asking, **answering: Any) -> pb.BaseInfo:
    request = pb.ConfigureRequest(base="handbook", answering=pb.AnswerConfig(**answering))
    found = await asking.call("Configure", request)
    asking.audit.entries.clear()
    return found


async def streamed(asking: Asking, request: pb.AskRequest, **options: Any) -> list[pb.AskStreamResponse]:
    return [one async for one in asking.call("AskStream", request, **options)]


async def test_an_answer_that_is_written_comes_in_parts_then_whole_and_is_recorded(asking: Asking) -> None:
    info = await configured(asking, writer="writer", reranker="ranker", candidates=7)
    assert (info.answering.writer, info.answering.candidates, info.answering.prompt) == ("writer", 7, AnswerConfig().prompt)
    asking.engine.writes = ["按住", "reset", " for ten seconds"]
    replies = await streamed(asking, ask(request_id="r-9"))
    assert "".join(one.text for one in replies[:-1]) == "按住reset for ten seconds"
    assert {one.request_id for one in replies} == {"r-9"}
    answer = replies[-1].answer
    assert (answer.kind, answer.answer, answer.evidence) == ("written", "按住reset for ten seconds", "reader")
    assert [source.passage_id for source in answer.sources] == ["wifi#0"]
    accepted, completed = asking.audit.entries
    assert (accepted.kind, accepted.action, accepted.facts["partials"]) == ("accepted", "knowledge.ask", True)
    assert completed.payload is not None
    assert completed.payload["answer"] == "按住reset for ten seconds"
    assert completed.facts["passages"] == ["wifi#0"]
    assert completed.facts["reranked"] == [["wifi#0", 1 / 64, 0.5]]
    assert completed.facts["evidence"] == "reader"
    whole = await asking.call("Ask", ask(request_id="r-9"))
    assert whole == answer


async def test_an_answer_that_breaks_off_is_recorded_with_what_had_left(asking: Asking) -> None:
    await configured(asking, writer="writer")
    asking.engine.writes = ["hold", " the"]
    code, error = await failure(streamed(asking, ask("breaks: where is the reset?")))
    assert (code, error.code) == (Code.UNAVAILABLE, "unavailable")
    failed = asking.audit.entries[-1]
    assert (failed.kind, failed.code, failed.payload) == ("failed", "unavailable", {"partial": "hold the"})


async def test_a_stream_is_refused_as_a_question_is(asking: Asking) -> None:
    for request, code in ((ask(""), Code.INVALID_ARGUMENT), (ask(base="nothing"), Code.NOT_FOUND)):
        assert (await failure(streamed(asking, request)))[0] is code
    asking.audit.fails_on = {"completed"}
    assert (await failure(streamed(asking, ask())))[1].code == "audit_unavailable"


async def test_a_base_is_set_to_use_only_models_that_the_caller_may_use(asking: Asking) -> None:
    """`key-kb-admin` may change `kb:*`, and use no model."""
    for setting in ("reranker", "writer"):
        request = pb.ConfigureRequest(base="handbook", answering=pb.AnswerConfig(**{setting: "secret-model"}))
        assert (await failure(asking.call("Configure", request, "key-kb-admin")))[0] is Code.PERMISSION_DENIED
        made = pb.CreateBaseRequest(base="handbook2", answering=request.answering)
        assert (await failure(asking.call("CreateBase", made, "key-kb-admin")))[0] is Code.PERMISSION_DENIED
    await asking.call("Configure", pb.ConfigureRequest(base="handbook"), "key-kb-admin")
    completed = asking.audit.entries[-1]
    assert (completed.kind, completed.action, completed.facts) == ("completed", "knowledge.configure", {})


async def test_settings_that_can_not_be_understood_are_told_by_their_field(asking: Asking) -> None:
    for field, value in (("prompt", "{question}"), ("passage", "{document}"), ("candidates", 101), ("threshold", 2.0)):
        request = pb.ConfigureRequest(base="handbook", answering=pb.AnswerConfig(**{field: value}))
        code, error = await failure(asking.call("Configure", request))
        assert (code, error.field) == (Code.INVALID_ARGUMENT, f"answering.{field}")  # type: ignore[attr-defined]


# -- who may what ----------------------------------------------------------------------------------------------------------

CHANGES = {
    "CreateBase": pb.CreateBaseRequest(base="handbook2"),
    "Configure": pb.ConfigureRequest(base="handbook", answering=pb.AnswerConfig(reranker="intent-en")),
    "DropBase": pb.DropBaseRequest(base="handbook"),
    "Delete": pb.DeleteRequest(base="handbook", document_ids=["wifi"]),
    "Snapshot": pb.SnapshotRequest(base="handbook", name="s"),
    "DropSnapshot": pb.DropSnapshotRequest(base="handbook", name="s"),
    "Rollback": pb.RollbackRequest(base="handbook", version=1),
}


async def test_asking_needs_predict_and_changing_needs_admin(asking: Asking) -> None:
    for method, request in CHANGES.items():
        assert (await failure(asking.call(method, request, "key-kb")))[0] is Code.PERMISSION_DENIED
    assert (await failure(asking.upsert(message(WIFI, last=True), key="key-kb")))[0] is Code.PERMISSION_DENIED
    assert asking.engine.kept["handbook"].newest == 1
    assert (await asking.call("Ask", ask(), "key-kb")).answer == "reset"
    for method, request in (("Ask", ask()), ("Stats", pb.StatsRequest(base="handbook"))):
        assert (await failure(asking.call(method, request, "key-audit")))[0] is Code.PERMISSION_DENIED


def test_every_method_has_a_rule_that_says_the_same() -> None:
    """What the service asks for is asked for before a message is read."""
    prefix, methods = "/taskloom.v1.Knowledge/", pb.DESCRIPTOR.services_by_name["Knowledge"].methods_by_name
    roles = {name: RULES[f"{prefix}{name}"].roles for name in methods}
    assert {name for name in roles if roles[name] == {"admin"}} == {*CHANGES, "Upsert"}
    assert {name for name in roles if roles[name] == {"predict"}} == {"Ask", "AskStream", "Search", "Graph"}


async def test_a_key_sees_the_bases_of_its_patterns_alone(asking: Asking) -> None:
    await asking.engine.create("default", BaseSpec(base="secret"))
    reply = await asking.call("ListBases", pb.ListBasesRequest(), "key-kb")
    assert [info.base for info in reply.bases] == ["handbook"]
    assert len((await asking.call("ListBases", pb.ListBasesRequest())).bases) == 2
    for base in ("secret", "nothing"):
        for method, request in (("Ask", ask(base=base)), ("Stats", pb.StatsRequest(base=base))):
            assert (await failure(asking.call(method, request, "key-kb")))[0] is Code.PERMISSION_DENIED
    code, error = await failure(asking.call("Ask", ask(base="handbooks"), "key-kb"))
    assert code is Code.NOT_FOUND
    assert "handbook" in error.message
    assert "secret" not in error.message
    assert (await failure(asking.call("Ask", ask(), "key-en")))[0] is Code.PERMISSION_DENIED


async def test_a_tenant_sees_its_own_bases_and_shared_ones(asking: Asking) -> None:
    assert (await failure(asking.call("Ask", ask(), "key-other")))[0] is Code.NOT_FOUND
    assert "handbook" not in (await failure(asking.call("Stats", pb.StatsRequest(base="x"), "key-other")))[1].message
    await asking.call("CreateBase", pb.CreateBaseRequest(base="open", shared=True))
    assert (await asking.call("Ask", ask(base="open"), "key-other")).kind == "none"
    code, error = await failure(asking.call("DropBase", pb.DropBaseRequest(base="open"), "key-other"))
    assert code is Code.NOT_FOUND
    assert "can be asked, not changed" in error.message
    assert asking.audit.entries[-1].tenant == "other"


async def test_rates_hold_for_all_services_of_a_gateway_together(asking: Asking) -> None:
    """One bucket: what models were asked is no longer there for knowledge bases."""
    infer = inference.InferRequest(model="intent-en", classification=inference.ClassificationInput(text="hello"))
    models = asking.running.stub()
    asking.running.keys.principals["key-slow"] = asking.running.keys.principals["key-slow"].model_copy(
        update={"requests_per_s": 0.01}
    )
    await models.Infer(infer, metadata=bearer("key-slow"))
    for _ in range(3):
        error = (await failure(asking.call("Ask", ask(), "key-slow")))[1]
        assert error.code == "rate_limited"
    await until(lambda: asking.records()[-1] == ("failed", "knowledge.refused", "rate_limited"))
    assert asking.audit.entries[-1].facts["refused"] == 2


async def test_room_is_shared_by_all_services_of_a_gateway() -> None:
    engine = MemoryKnowledge()
    async with running_gateway(knowledge=engine, max_concurrent_requests=1) as running:
        asking = Asking(running, engine)
        await engine.create("default", BaseSpec(base="handbook"))
        slow = asking.call("Ask", ask("slow"))
        await asyncio.wait_for(engine.started.wait(), 5)
        infer = inference.InferRequest(model="intent-en", classification=inference.ClassificationInput(text="hello"))
        other = running.stub(use_local_subchannel_pool=1)  # a connection has as many streams as there may be requests
        assert (await failure(other.Infer(infer, metadata=bearer())))[1].code == "overloaded"
        engine.release.set()
        assert (await slow).kind == "none"


# -- changes ---------------------------------------------------------------------------------------------------------------


async def test_a_stream_is_one_version_and_its_records_count_the_documents(asking: Asking) -> None:
    empty = pb.Document(document_id="empty")
    first, second = message(WIFI, pb.Document(document_id="a", text="x")), message(empty, base="", last=True)
    reply = await asking.upsert(first, second, taskloom_request_id="r-7")
    assert (reply.version, list(reply.changed), list(reply.unchanged)) == (2, ["a"], ["wifi"])
    assert [one.document_id for one in reply.refused] == ["empty"]
    assert reply.request_id == "r-7"
    accepted, completed = asking.audit.entries
    assert (accepted.kind, completed.kind, completed.version) == ("accepted", "completed", "2")
    counts = {"documents": 3, "changed": 1, "unchanged": 1, "refused": 1, "passages": 1}
    assert completed.facts == {**counts, "document_ids": ["wifi", "a", "empty"]}
    assert completed.payload is None


async def test_ids_in_a_record_are_capped_and_counted(asking: Asking) -> None:
    many = [pb.Document(document_id=f"{n:03d}" + "x" * 200, text="x") for n in range(150)]
    await asking.upsert(message(*many, last=True))
    facts = asking.audit.entries[-1].facts
    assert (facts["documents"], len(facts["document_ids"]), len(facts["document_ids"][0])) == (150, 100, 128)


def broken_off() -> Iterator[pb.UpsertRequest]:
    yield message(pb.Document(document_id="half", text="x"))


async def test_a_stream_that_breaks_off_puts_nothing_in(asking: Asking) -> None:
    code, error = await failure(asking.stub.Upsert(broken_off(), metadata=bearer()))
    assert (code, error.field) == (Code.INVALID_ARGUMENT, "last")  # type: ignore[attr-defined]
    assert asking.records() == [("accepted", "knowledge.upsert", ""), ("failed", "knowledge.upsert", "invalid_input")]

    call = asking.stub.Upsert(metadata=bearer())
    await call.write(message(pb.Document(document_id="half", text="x")))
    await until(lambda: asking.engine.upserts == 3)
    call.cancel()
    await until(lambda: len(asking.audit.codes()) == 2)
    assert asking.engine.kept["handbook"].newest == 1


async def test_a_stream_changes_one_base(asking: Asking) -> None:
    await asking.engine.create("default", BaseSpec(base="other"))
    code, error = await failure(asking.upsert(message(WIFI), message(WIFI, base="other", last=True)))
    assert code is Code.INVALID_ARGUMENT
    assert "'other'" in error.message
    code, _ = await failure(asking.upsert())
    assert code is Code.INVALID_ARGUMENT


async def test_a_stream_does_not_outlive_its_key(asking: Asking) -> None:
    call = asking.stub.Upsert(metadata=bearer())
    await call.write(message(pb.Document(document_id="a", text="x")))
    await until(lambda: asking.engine.upserts == 2)
    del asking.running.keys.principals["key-all"]
    await call.write(message(last=True))
    assert (await failure(call))[0] is Code.UNAUTHENTICATED
    assert asking.engine.kept["handbook"].newest == 1


async def test_every_change_has_its_records(asking: Asking) -> None:
    info = await asking.call("CreateBase", pb.CreateBaseRequest(base="second", shared=True))
    assert (info.base, info.shared, info.version) == ("second", True, 0)
    assert (await asking.call("Snapshot", pb.SnapshotRequest(base="handbook", name="before"))).name == "before"
    assert (await asking.call("Delete", CHANGES["Delete"])).version == 2
    assert (await asking.call("Rollback", CHANGES["Rollback"])).version == 3
    versions = (await asking.call("ListVersions", pb.ListVersionsRequest(base="handbook"))).versions
    assert [(info.number, info.documents, info.name) for info in versions] == [(3, 1, ""), (2, 0, ""), (1, 1, "before")]
    dropped = await asking.call("DropSnapshot", pb.DropSnapshotRequest(base="handbook", name="before"))
    assert (dropped.number, dropped.name) == (1, "")
    await asking.call("DropBase", pb.DropBaseRequest(base="second"))
    done = {e.action: e for e in asking.audit.entries if e.kind == "completed"}
    assert {e.action for e in asking.audit.entries if e.kind == "accepted"} == set(done)
    assert {name.partition(".")[2]: (e.model, e.version) for name, e in done.items()} == {
        "create": ("kb:second", "0"),
        "snapshot": ("kb:handbook", "1"),
        "delete": ("kb:handbook", "2"),
        "rollback": ("kb:handbook", "3"),
        "drop_snapshot": ("kb:handbook", "1"),
        "drop": ("kb:second", ""),
    }
    assert done["knowledge.delete"].facts == {"documents": 1, "document_ids": ["wifi"]}
    assert done["knowledge.rollback"].facts == {"to_version": 1}


class SlowToWrite(MemoryKnowledge):
    """Has begun to write when it is asked to stop; `release` lets it finish."""

    async def delete(self, tenant: str, base: str, document_ids: Any) -> int:
        self.started.set()
        while not self.release.is_set():
            with suppress(asyncio.CancelledError):
                await self.release.wait()
        return await super().delete(tenant, base, document_ids)


async def test_a_change_that_was_made_is_recorded_as_made_though_its_caller_is_gone() -> None:
    engine = SlowToWrite()
    async with running_gateway(knowledge=engine) as running:
        asking = Asking(running, engine)
        await engine.create("default", BaseSpec(base="handbook"))
        await asking.upsert(message(WIFI, last=True))
        call = asking.call("Delete", CHANGES["Delete"])
        await asyncio.wait_for(engine.started.wait(), 5)
        call.cancel()
        await asyncio.sleep(0.1)
        engine.release.set()
        await until(lambda: asking.records()[-1] == ("completed", "knowledge.delete", ""))
        assert asking.audit.entries[-1].version == "2"


async def test_a_change_that_fails_is_recorded_and_says_what_there_is(asking: Asking) -> None:
    code, error = await failure(asking.call("Delete", pb.DeleteRequest(base="handbook", document_ids=["wlan"])))
    assert code is Code.NOT_FOUND
    assert "no document named 'wlan'" in error.message
    assert asking.records()[-1] == ("failed", "knowledge.delete", "not_found")
    assert (await failure(asking.call("CreateBase", pb.CreateBaseRequest(base="handbook"))))[0] is Code.ALREADY_EXISTS
    request = pb.CreateBaseRequest(base="b", retriever="vespa")
    assert "no retriever named 'vespa'" in (await failure(asking.call("CreateBase", request)))[1].message


# -- a server without ------------------------------------------------------------------------------------------------------


async def test_a_server_without_knowledge_bases_says_so(running: Running) -> None:
    stub = running.knowledge_stub()
    for call in (stub.Ask(ask(), metadata=bearer()), stub.Upsert(iter([message(last=True)]), metadata=bearer())):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is Code.UNIMPLEMENTED
        assert "keeps no knowledge bases" in str(caught.value.details())
    assert (await failure(stub.Ask(ask())))[0] is Code.UNAUTHENTICATED
