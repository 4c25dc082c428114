from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from scripted_knowledge import MemoryKnowledge
from served_knowledge import Served, local_client

from taskloom.core.errors import OverloadedError, UnavailableError
from taskloom.core.knowledge_calls import AnswerConfig
from taskloom.sdk import (
    AlreadyExistsError,
    AsyncClient,
    AsyncKnowledge,
    Client,
    DeadlineExceededError,
    Document,
    InputTooLargeError,
    InvalidInputError,
    Knowledge,
    LocalClient,
    MissingDependencyError,
    NotFoundError,
    RetryPolicy,
    UnsupportedError,
)

CALLS = (
    "ask",
    "search",
    "graph",
    "upsert",
    "delete",
    "stats",
    "versions",
    "configure",
    "snapshot",
    "drop_snapshot",
    "rollback",
)
OF_CLIENT = ("knowledge", "knowledge_bases", "create_knowledge", "drop_knowledge")


def shape(method: Any) -> list[Any]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


def test_all_clients_take_the_same_arguments_and_show_them() -> None:
    for name in CALLS:
        assert shape(getattr(Knowledge, name)) == shape(getattr(AsyncKnowledge, name))
        assert "base" not in inspect.signature(getattr(Knowledge, name)).parameters
        assert inspect.iscoroutinefunction(getattr(AsyncKnowledge, name))
        assert getattr(Knowledge, name).__doc__
    assert shape(Knowledge.ask_stream) == shape(AsyncKnowledge.ask_stream) == shape(Knowledge.ask)
    for name in OF_CLIENT:
        assert shape(getattr(Client, name)) == shape(getattr(AsyncClient, name)) == shape(getattr(LocalClient, name))


def test_the_life_of_a_base(client: Any) -> None:
    """The same calls and results over gRPC and in process."""
    info = client.create_knowledge("handbook", shared=True, config={"overlap": 1})
    assert (info.base, info.shared, info.stats.version) == ("handbook", True, 0)
    handbook = client.knowledge("handbook")
    documents = [
        Document(document_id="wifi", text="hold the reset button", title="Router", metadata={"year": 2026}),
        {"document_id": "zh", "text": "按住复位按钮", "metadata": {"year": 2025, "tags": ("a", "b")}},
        ("empty", ""),
    ]
    put = handbook.upsert(documents, request_id="r-1")
    assert (put.version, put.changed, put.unchanged, put.request_id) == (1, ("wifi", "zh"), (), "r-1")
    assert [one.document_id for one in put.refused] == ["empty"]
    assert handbook.upsert(iter(documents)).unchanged == ("wifi", "zh")
    answer = handbook.ask("where is the reset?", turns=[("my wifi is slow", "how slow?")], passages=1, request_id="r-2")
    assert (answer.kind, answer.answer, answer.models, answer.request_id) == ("span", "reset", ("reader@1",), "r-2")
    assert answer.understood_as == "my wifi is slow where is the reset?"
    assert [(s.title, s.passage[s.start : s.end]) for s in answer.sources] == [("Router", "reset")]
    assert handbook.ask("who?").kind == "none"
    found = handbook.search("x", where={"year": 2025}, limit=1)
    assert [(hit.passage.document_id, hit.passage.metadata) for hit in found.hits] == [
        ("zh", {"year": 2025, "tags": ("a", "b")})
    ]
    with pytest.raises(UnsupportedError, match="keeps no graph"):
        handbook.graph("Ann")
    assert handbook.snapshot("before").name == "before"
    assert handbook.delete(["wifi"]) == 2
    assert handbook.search("x", version=1).version == 1
    assert (handbook.search("x", version=0).hits, handbook.ask("reset?", version=0).kind) == ((), "none")
    assert handbook.rollback(1) == 3
    assert [(v.number, v.documents, v.name) for v in handbook.versions()] == [(3, 2, ""), (2, 1, ""), (1, 2, "before")]
    dropped = handbook.drop_snapshot("before")
    assert (dropped.number, dropped.name, handbook.versions()[2].name) == (1, "", "")
    with pytest.raises(NotFoundError, match="no snapshot named 'before'"):
        handbook.drop_snapshot("before")
    assert handbook.stats() == client.knowledge_bases()[0]
    with pytest.raises(AlreadyExistsError):
        client.create_knowledge("handbook")
    client.drop_knowledge("handbook")
    with pytest.raises(NotFoundError, match="no knowledge base named 'handbook'"):
        handbook.stats()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda kb: kb.ask(""), "question"),
        (lambda kb: kb.ask("q", passages=0), "passages"),
        (lambda kb: kb.ask("q", turns=["said"]), "turns"),
        (lambda kb: kb.ask("q", timeout_s=0), "timeout_s"),
        (lambda kb: kb.search("q", mode="magic"), "mode"),
        (lambda kb: kb.search("q", where={"a": {"b": 1}}), "where"),
        (lambda kb: kb.upsert("text"), "documents"),
        (lambda kb: kb.upsert([("a", "b"), {"document_id": "c"}]), "documents.1.text"),
        (lambda kb: kb.upsert([3]), "documents.0"),
        (lambda kb: kb.delete("wifi"), "document_ids"),
        (lambda kb: kb.snapshot("A b"), "name"),
        (lambda kb: kb.drop_snapshot("A b"), "name"),
    ],
)
def test_what_no_server_could_understand_is_told_by_its_field(client: Any, call: Any, field: str) -> None:
    client.create_knowledge("handbook")
    with pytest.raises(InvalidInputError) as caught:
        call(client.knowledge("handbook"))
    assert caught.value.field.startswith(field)
    assert client.knowledge("handbook").stats().stats.version == 0


def test_the_example_of_the_documentation_runs(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "knowledge.md").read_text(encoding="utf-8")
    example = page.partition("```python\n")[2].partition("```")[0]
    exec(example, {})
    assert capsys.readouterr().out.startswith("span ")
    assert served.engine.kept["handbook"].newest == 1


def test_a_written_answer_comes_piece_by_piece(client: Any) -> None:
    info = client.create_knowledge("handbook", answering={"reranker": "ranker"})
    assert info.answering == AnswerConfig(reranker="ranker")
    handbook = client.knowledge("handbook")
    handbook.upsert([("wifi", "hold the reset button")])
    config = {"writer": "writer", "params": {"max_tokens": 60}, "prompt": "{question} {passages}", "threshold": 0.25}
    assert handbook.configure(**config).answering == AnswerConfig(**config)
    assert handbook.stats().answering == AnswerConfig(**config)
    with handbook.ask_stream("where is the reset?", request_id="r-3") as stream:
        assert "".join(stream) == stream.text == "reset"
    answer = stream.result()
    assert (answer.kind, answer.answer, answer.request_id, answer.evidence) == ("written", "reset", "r-3", "reader")
    assert answer == handbook.ask("where is the reset?", request_id="r-3")
    with pytest.raises(UnavailableError, match="broke off"):
        list(handbook.ask_stream("breaks, where is the reset?"))
    unwritten = handbook.ask_stream("who?")
    assert (unwritten.result().kind, unwritten.text) == ("none", "")
    for wrong in ({"prompt": "{question}"}, {"candidates": 0}, {"reranker": "No Name"}, {"passage": "{text!r}"}):
        with pytest.raises(InvalidInputError) as caught:
            handbook.configure(**wrong)
        assert caught.value.field == f"answering.{next(iter(wrong))}"


async def test_the_async_client_streams(served: Served) -> None:
    async with AsyncClient(served.address) as client:
        await client.create_knowledge("handbook", answering=AnswerConfig(writer="writer"))
        handbook = client.knowledge("handbook")
        await handbook.upsert([("wifi", "hold the reset button")])
        served.engine.writes = ["hold ", "the ", "reset"]
        async with handbook.ask_stream("where is the reset?") as stream:
            assert "".join([piece async for piece in stream]) == "hold the reset"
        assert (await stream.result()).kind == "written"
        with pytest.raises(NotFoundError):
            await client.knowledge("nothing").ask_stream("where?").result()


async def test_the_async_client(served: Served) -> None:
    async with AsyncClient(served.address) as client:
        await client.create_knowledge("handbook")
        handbook = client.knowledge("handbook")
        assert (await handbook.upsert([("a", "the reset")] * 2)).changed == ("a",)
        assert (await handbook.ask("where is the reset?")).answer == "reset"
        assert await handbook.delete(["a"]) == 2
        assert [info.base for info in await client.knowledge_bases()] == ["handbook"]
        with pytest.raises(InvalidInputError, match=r"documents\.1"):
            await handbook.upsert([("a", "b"), 3])  # type: ignore[list-item]
        with pytest.raises(DeadlineExceededError):
            await handbook.ask("slow", timeout_s=0.3)


# -- streams of documents --------------------------------------------------------------------------------------------------


def test_documents_go_in_messages_below_the_limit_and_as_one_version(served: Served) -> None:
    with Client(served.address) as client:
        client.create_knowledge("b")
        base = client.knowledge("b")
        assert base.upsert([(f"d{n}", "汉" * 300_000) for n in range(8)]).version == 1
        assert base.upsert([]).version == 1
        with pytest.raises(InputTooLargeError, match=r"'big' has .* split it into several"):
            base.upsert([("small", "x"), ("big", "x" * 5_000_000)])
        assert base.stats().stats.documents == 8


def interrupted() -> Iterator[tuple[str, str]]:
    yield "first", "x" * 600_000
    yield "second", "x"
    raise ZeroDivisionError("mine")


async def test_what_documents_raise_is_raised_and_nothing_is_put_in(served: Served) -> None:
    async with AsyncClient(served.address) as client:
        await client.create_knowledge("b")
        with pytest.raises(ZeroDivisionError, match="mine"):
            await client.knowledge("b").upsert(interrupted())
        assert (await client.knowledge("b").stats()).stats.version == 0


def test_what_documents_raise_is_raised_to_blocking_callers_too(client: Any) -> None:
    client.create_knowledge("b")
    with pytest.raises(ZeroDivisionError, match="mine"):
        client.knowledge("b").upsert(interrupted())
    assert client.knowledge("b").stats().stats.version == 0


# -- repetition ------------------------------------------------------------------------------------------------------------


class FailingKnowledge(MemoryKnowledge):
    """Raises `error` the first `times` times that it is to change something, after the change; then it works."""

    def __init__(self, error: Exception, times: int = 1) -> None:
        super().__init__()
        self.error, self.times, self.tried = error, times, count(1)

    def _fail(self) -> None:
        if next(self.tried) <= self.times:
            raise self.error

    async def upsert(self, *given: Any) -> Any:
        result = await super().upsert(*given)
        self._fail()
        return result

    async def delete(self, *given: Any) -> Any:
        version = await super().delete(*given)
        self._fail()
        return version

    async def snapshot(self, *given: Any) -> Any:
        self._fail()
        return await super().snapshot(*given)


def patient(engine: MemoryKnowledge, home: Any) -> LocalClient:
    client = local_client(engine, home)
    client.retry = RetryPolicy(initial_wait_s=0.01)
    client.create_knowledge("b")
    return client


def test_a_list_is_sent_again_and_what_can_be_read_once_is_not(tmp_path: Any) -> None:
    """An upsert that is lost after it was made, and sent again, changes nothing more."""
    engine = FailingKnowledge(UnavailableError("away"))
    with patient(engine, tmp_path) as client:
        result = client.knowledge("b").upsert([("a", "x")])
        assert (result.version, result.unchanged, engine.upserts) == (1, ("a",), 2)
    for error in (UnavailableError("away"), OverloadedError("full", 0.01)):
        engine = FailingKnowledge(error)
        with patient(engine, tmp_path) as client, pytest.raises(type(error)):
            client.knowledge("b").upsert(pair for pair in [("a", "x")])
        assert engine.upserts == 1


def test_another_change_is_repeated_only_if_it_was_refused(tmp_path: Any) -> None:
    engine = FailingKnowledge(UnavailableError("away"))
    with patient(engine, tmp_path) as client:
        engine.times = 0
        client.knowledge("b").upsert([("a", "x"), ("b", "y")])
        engine.times = 2  # the delete is the second try
        with pytest.raises(UnavailableError):
            client.knowledge("b").delete(["a"])  # sent again, it would say that there is no such document
        assert client.knowledge("b").stats().stats.documents == 1
    engine = FailingKnowledge(OverloadedError("full", 0.01), times=2)
    with patient(engine, tmp_path) as client:
        assert client.knowledge("b").snapshot("s").name == "s"


# -- what is not there -----------------------------------------------------------------------------------------------------


def test_without_a_plugin_the_install_line(tmp_path: Any) -> None:
    with (
        local_client(None, tmp_path) as client,
        pytest.raises(MissingDependencyError, match=r"pip install 'taskloom\[local\]'"),
    ):
        client.knowledge_bases()


class BareKnowledge(MemoryKnowledge):
    """Stands on a library that is not installed."""

    async def bases(self, tenant: str, wanted: Any = None) -> Any:
        raise ModuleNotFoundError("No module named 'faiss'", name="faiss")


def test_a_missing_library_names_the_install_line(tmp_path: Any) -> None:
    with (
        local_client(BareKnowledge(), tmp_path) as client,
        pytest.raises(MissingDependencyError, match=r"'faiss'.*pip install"),
    ):
        client.knowledge_bases()


def test_a_closed_client_closes_its_bases_and_says_what_it_is(tmp_path: Any) -> None:
    engine = MemoryKnowledge()
    client = local_client(engine, tmp_path)
    assert client.knowledge_bases() == []
    client.close()
    assert engine.closed
    with pytest.raises(UnsupportedError, match="closed"):
        client.knowledge_bases()


def test_a_deadline_holds_in_process(tmp_path: Any) -> None:
    with local_client(MemoryKnowledge(), tmp_path) as client:
        client.create_knowledge("b")
        with pytest.raises(DeadlineExceededError) as caught:
            client.knowledge("b").ask("slow", timeout_s=0.2, request_id="r-9")
        assert caught.value.request_id == "r-9"


def test_gateways_repeat_looks_alone_by_themselves() -> None:
    config = RetryPolicy().service_config()
    assert '"method": "Ask"' in config
    for method in ("Upsert", "Delete", "Rollback", "CreateBase", "DropBase", "Snapshot", "DropSnapshot"):
        assert method not in config


def test_a_graph_can_be_looked_at_and_says_what_came_by_it(client: Any) -> None:
    client.create_knowledge("firms", config={"graph": True})
    firms = client.knowledge("firms")
    firms.upsert([("own", "Ann owns Bolt"), ("other", "Ann sleeps")])
    assert firms.stats().stats.graph.mentions == 2
    found = firms.graph("Ann", hops=2, limit=1, request_id="r-1")
    assert (found.version, found.request_id) == (1, "r-1")
    assert [(one.name, one.document_id, one.models) for one in found.mentions] == [("ann", "own", ("names@1",))]
    assert [(one.head, one.relation, one.tail, one.hop) for one in found.relations] == [("ann", "owns", "bolt", 2)]
    assert firms.graph("Ann", version=0).mentions == ()
    assert [hit.graph for hit in firms.search("x", mode="graph").hits] == [0.25, 0.25]
    assert [hit.graph for hit in firms.search("x").hits] == [None, None]
    assert firms.ask("who owns?", mode="graph").sources[0].graph == 0.25
    assert firms.ask("who owns?", mode="hybrid").sources[0].graph is None
    with pytest.raises(NotFoundError, match="Cid"):
        firms.graph("Cid")
    with pytest.raises(InvalidInputError, match="hops"):
        firms.graph("Ann", hops=3)
