"""The questions to knowledge bases, each written once, as the other calls are in `knowledge_calls`. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from taskloom.core.errors import InvalidInputError
from taskloom.core.knowledge import Mode, SearchMode, Where
from taskloom.core.knowledge_calls import (
    AskCall,
    GraphCall,
    GraphResult,
    KnowledgeAnswer,
    KnowledgeEngine,
    SearchCall,
    SearchResult,
    Turn,
)
from taskloom.core.ports import PartSink
from taskloom.core.types import new_request_id
from taskloom.core.wire import knowledge_codec as codec
from taskloom.sdk.knowledge_operations import TENANT, Operation, StreamedOperation, given_only

TurnLike = Turn | tuple[str, str]
"""A question and what was answered."""


def ask(
    base: str,
    question: str,
    *,
    turns: Sequence[TurnLike] = (),
    where: Where | None = None,
    passages: int | None = None,
    threshold: float | None = None,
    mode: Mode | None = None,
    version: int | None = None,
    timeout_s: float | None = None,
    request_id: str | None = None,
) -> Operation[KnowledgeAnswer]:
    """The answer to a question, its confidence and its sources; of kind `none` if nothing that the base holds is sure enough.

    `turns` are the questions and answers before this one, the oldest first. `where` keeps documents whose metadata match:
    `{"product": "router", "year": (2025, 2026)}`. `passages` is how many are read. Below the confidence `threshold` there is no
    answer; left out, it is the base's, or else the one that was chosen on data. `mode` is how passages are found: `dense`,
    `sparse`, `hybrid` or `graph`, as for `search`, before the base's re-ranker, if it has one, orders them; left out, the graph
    is used where the base keeps one, else `hybrid`. `version` is one of `versions()`; left out, the newest.
    """
    given = {"passages": passages, "threshold": threshold, "mode": mode}
    call = _ask_call(base, question, turns, where=where, version=version, request_id=request_id, **given)

    async def run(engine: KnowledgeEngine, deadline_s: float) -> KnowledgeAnswer:
        answer = await engine.ask(TENANT, call.model_copy(update={"deadline_s": deadline_s}))
        return answer.model_copy(update={"request_id": call.request_id})

    return Operation("Ask", lambda: codec.ask_to_message(call), codec.answer_from_message, run, call.request_id, timeout_s)


def ask_stream(
    base: str,
    question: str,
    *,
    turns: Sequence[TurnLike] = (),
    where: Where | None = None,
    passages: int | None = None,
    threshold: float | None = None,
    mode: Mode | None = None,
    version: int | None = None,
    timeout_s: float | None = None,
    request_id: str | None = None,
) -> StreamedOperation[KnowledgeAnswer]:
    """As `ask`, but the text of an answer that a model writes comes piece by piece while it is written; `result()` of the
    stream is what `ask` gives. Any other answer has no pieces. `timeout_s` is for the whole answer. A failure is made good by
    another attempt only before the first piece."""
    given = {"passages": passages, "threshold": threshold, "mode": mode}
    call = _ask_call(base, question, turns, where=where, version=version, request_id=request_id, **given)

    async def run(engine: KnowledgeEngine, deadline_s: float, send: PartSink) -> KnowledgeAnswer:
        answer = await engine.ask(TENANT, call.model_copy(update={"deadline_s": deadline_s}), send)
        return answer.model_copy(update={"request_id": call.request_id})

    send = partial(codec.ask_to_message, call)
    return StreamedOperation("AskStream", send, codec.piece_from_message, run, call.request_id, timeout_s)


def _ask_call(
    base: str, question: str, turns: Sequence[TurnLike], *, request_id: str | None, where: Any, version: Any, **given: Any
) -> AskCall:
    told = tuple(_turn(turn, place) for place, turn in enumerate(turns))
    fields: dict[str, Any] = {"base": base, "question": question, "turns": told, "where": where, "version": version}
    return codec.build(AskCall, **fields, request_id=request_id or new_request_id(), **given_only(**given))


def search(
    base: str,
    query: str,
    *,
    limit: int | None = None,
    where: Where | None = None,
    mode: SearchMode | None = None,
    version: int | None = None,
    timeout_s: float | None = None,
    request_id: str | None = None,
) -> Operation[SearchResult]:
    """Passages for a query, best first: at most `limit` (10). `mode` ranks by meaning (`dense`), by words (`sparse`), by both
    (`hybrid`, the default), or by these and what the graph leads to (`graph`, of a base that keeps one). `reranked` has the
    base's re-ranker order what a question is answered from: what `graph` finds where the base keeps one, else `hybrid`. `where`
    and `version` are as for `ask`."""
    call = codec.build(
        SearchCall,
        base=base,
        query=query,
        where=where,
        version=version,
        request_id=request_id or new_request_id(),
        **given_only(limit=limit, mode=mode),
    )

    async def run(engine: KnowledgeEngine, deadline_s: float) -> SearchResult:
        result = await engine.search(TENANT, call.model_copy(update={"deadline_s": deadline_s}))
        return result.model_copy(update={"request_id": call.request_id})

    read = codec.search_result_from_message
    return Operation("Search", lambda: codec.search_to_message(call), read, run, call.request_id, timeout_s)


def graph(
    base: str,
    name: str,
    *,
    hops: int | None = None,
    limit: int | None = None,
    version: int | None = None,
    timeout_s: float | None = None,
    request_id: str | None = None,
) -> Operation[GraphResult]:
    """What the graph of the base knows of an entity: where its name stands, and the relations within `hops` (1, or 2) of it; of
    each at most `limit` (20). Raises `NotFoundError` for a name that stands nowhere, `UnsupportedError` for a base without a
    graph."""
    call = codec.build(
        GraphCall,
        base=base,
        name=name,
        version=version,
        request_id=request_id or new_request_id(),
        **given_only(hops=hops, limit=limit),
    )

    async def run(engine: KnowledgeEngine, deadline_s: float) -> GraphResult:
        result = await engine.graph(TENANT, call.model_copy(update={"deadline_s": deadline_s}))
        return result.model_copy(update={"request_id": call.request_id})

    read = codec.graph_result_from_message
    return Operation("Graph", lambda: codec.graph_to_message(call), read, run, call.request_id, timeout_s)


def _turn(given: TurnLike, place: int) -> Turn:
    if isinstance(given, Turn):
        return given
    if isinstance(given, tuple) and len(given) == 2:
        return codec.build(Turn, f"turns.{place}", question=given[0], answer=given[1])
    raise InvalidInputError(f"turns.{place} is a {type(given).__name__}; give a pair of question and answer", field="turns")
