"""Knowledge bases for people: tables, and answers with their sources."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from taskloom.core.knowledge import Hit, Refused, VersionInfo
from taskloom.core.knowledge_calls import BaseInfo, GraphResult, KnowledgeAnswer, SearchResult, Source
from taskloom.core.knowledge_graph import GraphInfo
from taskloom.sdk.cli.render import CUT, EXCERPT_CHARACTERS, LINE_CELLS, excerpt, indented, plain

SHOWN_REFUSALS = 20


def bases_table(bases: Sequence[BaseInfo]) -> RenderableType:
    if not bases:
        return Text("no knowledge base; create one with: taskloom kb create NAME", "dim")
    table = _table("base", "shared", "retriever", right=("version", "documents", "passages", "disk"))
    for info in bases:
        stats = info.stats
        counts = (str(stats.version), f"{stats.documents:,}", f"{stats.passages:,}", size(stats.disk_bytes))
        table.add_row(plain(info.base), "yes" if info.shared else "no", plain(info.retriever), *counts)
    return table


def base_shown(info: BaseInfo) -> RenderableType:
    """One base, with its languages and indexes."""
    stats = info.stats
    languages = ", ".join(f"{plain(name)} {count:,}" for name, count in sorted(stats.languages.items()))
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("base", f"{plain(info.base)}{' (shared)' if info.shared else ''}"),
        ("retriever", plain(info.retriever)),
        ("version", str(stats.version)),
        ("documents", f"{stats.documents:,}"),
        ("passages", f"{stats.passages:,}{f' ({languages})' if languages else ''}"),
        ("disk", size(stats.disk_bytes)),
        *([("graph", _graph_size(stats.graph))] if stats.graph is not None else []),
        *_models_named(info),
    ):
        facts.add_row(Text(name, "dim"), Text(value))
    if not stats.indexes:
        return facts
    table = _table("space", "index", right=("vectors", "dimensions", "recall@10", "memory"))
    for index in stats.indexes:
        counts = (f"{index.vectors:,}", str(index.dimensions), f"{index.recall:.3f}", size(index.memory_bytes))
        table.add_row(plain(index.space), plain(index.kind), *counts)
    return Group(facts, table)


def _models_named(info: BaseInfo) -> list[tuple[str, str]]:
    answering = info.answering
    told = [("re-ranker", f"{answering.reranker}, of {answering.candidates} candidates")] if answering.reranker else []
    return [*told, *([("writer", answering.writer)] if answering.writer else [])]


def _graph_size(graph: GraphInfo) -> str:
    return f"{graph.entities:,} entities, {graph.mentions:,} mentions, {graph.relations:,} relations"


def graph_shown(result: GraphResult) -> RenderableType:
    """Where a name stands, and what it is related to."""
    mentions = _table("entity", "label", "document", "passage", "as written", right=("characters", "score"))
    for one in result.mentions:
        place = (f"{one.start}-{one.end}", f"{one.score:.2f}")
        told = (one.name, one.label, one.document_id, one.passage_id, one.text)
        mentions.add_row(*map(plain, told), *place)
    if not result.relations:
        return Group(mentions, Text("no relation with another name was found", "dim"))
    relations = _table("head", "relation", "tail", "passage", right=("hop", "score"))
    for relation in result.relations:
        said = (relation.head, relation.relation, relation.tail, relation.passage_id)
        relations.add_row(*map(plain, said), str(relation.hop), f"{relation.score:.2f}")
    return Group(mentions, relations)


def versions_table(versions: Sequence[VersionInfo]) -> RenderableType:
    table = _table("version", "created", "change", "name", right=("documents", "passages"))
    for info in versions:
        told = (str(info.number), plain(info.created), plain(info.change), plain(info.name))
        table.add_row(*told, f"{info.documents:,}", f"{info.passages:,}")
    return table


def hits_shown(result: SearchResult) -> RenderableType:
    if not result.hits:
        return Text("nothing was found", "dim")
    return Constrain(Group(*(_hit(place, hit) for place, hit in enumerate(result.hits, 1))), LINE_CELLS)


def _hit(place: int, hit: Hit) -> RenderableType:
    passage = hit.passage
    head = _origin(place, passage.title, passage.document_id, passage.source, hit.score)
    scores = (("fused", hit.fused), ("cosine", hit.dense), ("BM25", hit.sparse), ("graph", hit.graph))
    found = [f"{name} {score:.3f}" for name, score in scores if score is not None]
    if found:
        head.append(f"  {', '.join(found)}", "dim")
    return Group(head, indented(_beginning(passage.text), 4))


def answer_shown(answer: KnowledgeAnswer) -> RenderableType:
    """The answer, how sure it is, and where it stands."""
    parts: list[RenderableType] = []
    if answer.kind == "none":
        parts.append(Text("no answer: nothing that the base holds is sure enough", "yellow"))
    else:
        parts.append(Text(plain(answer.answer), "bold").append(f"  {_sureness(answer)}", "not bold dim"))
    return Constrain(Group(*parts, *_behind(answer)), LINE_CELLS)


def behind_answer(answer: KnowledgeAnswer) -> RenderableType:
    """As `answer_shown`, for an answer whose text was shown while it was written."""
    return Constrain(Group(Text(_sureness(answer), "dim"), *_behind(answer)), LINE_CELLS)


def _sureness(answer: KnowledgeAnswer) -> str:
    kind = ", a FAQ entry" if answer.kind == "faq" else ""
    written = f" that the sources answer it, by {answer.evidence or 'nothing'}" if answer.kind == "written" else ""
    return f"confidence {answer.confidence:.2f}{kind}{written}"


def _behind(answer: KnowledgeAnswer) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if answer.truncated:
        parts.append(Text("the writer did not read the end of its prompt: perhaps not of every source", "yellow"))
    if answer.understood_as:
        parts.append(Text(f"understood as: {plain(answer.understood_as)}", "dim"))
    if answer.sources:
        parts.append(Text("sources" if answer.kind != "none" else "what came nearest", "dim"))
        parts.extend(_source(place, source) for place, source in enumerate(answer.sources, 1))
    return parts


def _source(place: int, source: Source) -> RenderableType:
    start = source.passage.find(source.answer) if source.answer else -1
    shown = excerpt(source.passage, start, start + len(source.answer)) if start >= 0 else _beginning(source.passage)
    head = _origin(place, source.title, source.document_id, source.source, source.score)
    if source.graph is not None:
        head.append("  by the graph", "dim")
    return Group(head, indented(shown, 4))


def _origin(place: int, title: str, document_id: str, source: str, score: float) -> Text:
    told = Text(f"{place:>2}  ").append(plain(title or document_id), "cyan")
    beside = [plain(part) for part in (document_id if title else "", source) if part and part != title]
    return told.append(f"  {' '.join([*(f'[{part}]' for part in dict.fromkeys(beside)), f'{score:.3f}'])}", "dim")


def _beginning(text: str) -> Text:
    shown = plain(text[: 2 * EXCERPT_CHARACTERS])
    return Text(shown if len(text) <= len(shown) else f"{shown} {CUT}", "dim")


def refusals_shown(refused: Sequence[Refused]) -> Text:
    lines = [f"passed over: {plain(one.document_id)}: {plain(one.reason)}" for one in refused[:SHOWN_REFUSALS]]
    if len(refused) > SHOWN_REFUSALS:
        lines.append(f"{CUT} and {len(refused) - SHOWN_REFUSALS} more")
    return Text("\n".join(lines), "yellow")


def size(count_bytes: int) -> str:
    """
    >>> size(900), size(2_560_000)
    ('900 B', '2.6 MB')
    """
    amount, unit = float(count_bytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def _table(*left: str, right: Sequence[str] = ()) -> Table:
    table = Table(*left, box=box.SIMPLE_HEAD)
    for name in right:
        table.add_column(name, justify="right")
    return table
