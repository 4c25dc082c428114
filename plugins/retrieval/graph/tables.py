"""The tables of a graph, what is written into them with a revision, and what is read of them for one version.

Rows belong to a revision of a document, as its passages do, and are seen where it lives: so a graph has the versions of its
base, and a change writes it in the same transaction. An entity is a name in one form with one label; it says nothing by
itself, and goes when nothing mentions it any more. Each row has a checksum, as bodies and vectors have.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import InvalidInputError
from taskloom.core.knowledge import Passage, Prepared
from taskloom.core.knowledge_graph import EntityMention, Extraction, GraphInfo, RelationMention
from taskloom.plugins.retrieval.graph.names import normalised
from taskloom.plugins.retrieval.schema import checksum

NO_GRAPH = "this knowledge base keeps no graph: that is chosen when one is created, with graph = true"

TABLES = """
create table entities (
    row integer primary key autoincrement, name text not null, label text not null, crc integer not null, unique (name, label)
);
create table extractions (
    passage integer primary key, document integer not null, content text not null, models text not null, crc integer not null
);
create index extractions_by_document on extractions (document);
create index extractions_by_content on extractions (content);
create table mentions (
    row integer primary key autoincrement, document integer not null, passage integer not null, entity integer not null,
    start integer not null, end integer not null, score real not null, crc integer not null
);
create index mentions_by_document on mentions (document);
create index mentions_by_passage on mentions (passage);
create index mentions_by_entity on mentions (entity, passage);
create table relations (
    row integer primary key autoincrement, document integer not null, passage integer not null, head integer not null,
    tail integer not null, head_mention integer not null, tail_mention integer not null, label text not null,
    score real not null, crc integer not null
);
create index relations_by_document on relations (document);
create index relations_by_passage on relations (passage);
create index relations_by_head on relations (head);
create index relations_by_tail on relations (tail);
"""

LIVES = (
    "exists (select 1 from lives l where l.document = t.document and +l.added <= :version "
    "and (+l.removed is null or +l.removed > :version))"
)
"""Whether the document of a row of table `t` is in a version."""


@dataclass(frozen=True)
class MentionRow:
    row: int
    document: int
    passage: int
    entity: int
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class RelationRow:
    """`head` and `tail` are entities, `head_mention` and `tail_mention` where they stand in the passage."""

    row: int
    document: int
    passage: int
    head: int
    tail: int
    head_mention: int
    tail_mention: int
    label: str
    score: float


MENTION = "t.row, t.document, t.passage, t.entity, t.start, t.end, t.score, t.crc"
RELATION = "t.row, t.document, t.passage, t.head, t.tail, t.head_mention, t.tail_mention, t.label, t.score, t.crc"


def crc_of(*values: Any) -> int:
    return checksum(canonical_json(list(values)))


def content_key(passage: Passage, models: Sequence[str]) -> str:
    """Equal for passages of the same text and language that the same models read."""
    return sha256_hex(canonical_json([passage.language, passage.text, list(models)]))


def checked_extractions(prepared: Prepared, extractions: Sequence[Extraction]) -> dict[str, Extraction]:
    """By passage id. Raises `InvalidInputError` for what is of no prepared passage, comes twice or doesn't fit the text."""
    passages = {passage.passage_id: passage for passage in prepared.passages}
    found: dict[str, Extraction] = {}
    for extraction in extractions:
        name = extraction.passage_id
        if name not in passages or name in found:
            why = "has two extractions" if name in found else "is no prepared passage, and has an extraction"
            raise InvalidInputError(f"{name!r} {why}", field="extractions")
        for entity in extraction.entities:
            stands = passages[name].text[entity.start : entity.end]
            if stands != entity.text or len(stands) != entity.end - entity.start:
                raise InvalidInputError(
                    f"{entity.text!r} does not stand at {entity.start} to {entity.end} of passage {name!r}", field="extractions"
                )
        if any(max(one.head, one.tail) >= len(extraction.entities) for one in extraction.relations):
            raise InvalidInputError(f"a relation in passage {name!r} is of an entity that is not there", field="extractions")
        found[name] = extraction
    return found


def insert_extraction(
    connection: sqlite3.Connection, document: int, row: int, passage: Passage, extraction: Extraction
) -> None:
    """Within the transaction that writes the passage's revision; `document` and `row` are the rows of that and of the passage.
    What is no name in the graph's form (marks alone) is left out, with its relations."""
    content, models = content_key(passage, extraction.models), json.dumps(list(extraction.models))
    connection.execute(
        "insert into extractions values (?, ?, ?, ?, ?)", (row, document, content, models, crc_of(document, content, models))
    )
    placed: dict[int, tuple[int, int]] = {}
    for place, found in enumerate(extraction.entities):
        if name := normalised(found.text):
            entity = _entity(connection, name, found.label)
            told = (document, row, entity, found.start, found.end, float(found.score))
            mention = connection.execute(
                "insert into mentions (document, passage, entity, start, end, score, crc) values (?, ?, ?, ?, ?, ?, ?)",
                (*told, crc_of(*told)),
            ).lastrowid
            assert mention is not None
            placed[place] = (entity, mention)
    for one in extraction.relations:
        if one.head in placed and one.tail in placed:
            (head, head_mention), (tail, tail_mention) = placed[one.head], placed[one.tail]
            said = (document, row, head, tail, head_mention, tail_mention, one.label, float(one.score))
            connection.execute(
                "insert into relations (document, passage, head, tail, head_mention, tail_mention, label, score, crc) "
                "values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*said, crc_of(*said)),
            )


def _entity(connection: sqlite3.Connection, name: str, label: str) -> int:
    found = connection.execute("select row from entities where name = ? and label = ?", (name, label)).fetchone()
    if found is None:
        found = connection.execute(
            "insert into entities (name, label, crc) values (?, ?, ?) returning row", (name, label, crc_of(name, label))
        ).fetchone()
    return int(found[0])


def prune_graph(connection: sqlite3.Connection) -> None:
    """Deletes what belongs to the documents whose rows are in the table `dead`, and entities that nothing mentions."""
    for table in ("relations", "mentions", "extractions"):
        connection.execute(f"delete from {table} where document in (select row from dead)")  # noqa: S608
    connection.execute("delete from entities where not exists (select 1 from mentions where entity = entities.row)")


class GraphTables:
    """Reads the graph. `read` asks the database, on whichever connection is free; `damage` makes the error for a row that is
    not what was written."""

    def __init__(self, read: Callable[[str, Mapping[str, Any]], list[Any]], damage: Callable[[str], Exception]) -> None:
        self._read = read
        self._damage = damage

    def _checked(self, table: str, columns: Sequence[Any]) -> Sequence[Any]:
        """A row without its checksum, which is over all but its number."""
        if crc_of(*columns[1:-1]) != columns[-1]:
            raise self._damage(f"row {columns[0]} of {table} is not what was written")
        return columns[:-1]

    def _mentions(self, where: str, given: Mapping[str, Any], limit: int = -1) -> list[MentionRow]:
        question = f"select {MENTION} from mentions t where {where} limit :limit"  # noqa: S608
        return [MentionRow(*self._checked("mentions", row)) for row in self._read(question, {**given, "limit": limit})]

    def _relations(self, where: str, given: Mapping[str, Any], limit: int = -1) -> list[RelationRow]:
        question = f"select {RELATION} from relations t where {where} limit :limit"  # noqa: S608
        return [RelationRow(*self._checked("relations", row)) for row in self._read(question, {**given, "limit": limit})]

    # What a version has

    def info(self, version: int) -> GraphInfo:
        given = {"version": version}
        entities, mentions = self._read(
            f"select count(distinct t.entity), count(*) from mentions t where {LIVES}",  # noqa: S608
            given,
        )[0]
        relations = self._read(f"select count(*) from relations t where {LIVES}", given)[0][0]  # noqa: S608
        return GraphInfo(entities=entities, mentions=mentions, relations=relations)

    def named(self, names: Collection[str], version: int) -> dict[str, list[int]]:
        """The rows of the entities of a version that have some names, of whatever label."""
        question = (
            "select row, name, label, crc from entities where name in (select value from json_each(:names)) "  # noqa: S608
            f"and exists (select 1 from mentions t where t.entity = entities.row and {LIVES}) order by row"
        )
        found: dict[str, list[int]] = {}
        for row in self._read(question, {"names": json.dumps(list(names)), "version": version}):
            entity, name, _ = self._checked("entities", row)
            found.setdefault(name, []).append(entity)
        return found

    def entities(self, rows: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Name and label by row."""
        question = "select row, name, label, crc from entities where row in (select value from json_each(:rows))"
        found = (self._checked("entities", row) for row in self._read(question, {"rows": json.dumps(list(rows))}))
        return {entity: (name, label) for entity, name, label in found}

    def mentions(self, entity: int, version: int, least: float, limit: int) -> list[MentionRow]:
        """Where an entity stands in a version, in the order of passages."""
        given = {"entity": entity, "version": version, "least": least}
        return self._mentions(f"t.entity = :entity and t.score >= :least and {LIVES} order by t.passage, t.row", given, limit)

    def relations(self, entity: int, version: int, least: float, limit: int) -> list[RelationRow]:
        """What a version says of an entity together with another one, the surest first."""
        given = {"entity": entity, "version": version, "least": least}
        about = "(t.head = :entity or t.tail = :entity) and t.head <> t.tail"
        return self._relations(f"{about} and t.score >= :least and {LIVES} order by t.score desc, t.row", given, limit)

    def models(self, passages: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """Which models read some passages (rows)."""
        question = (
            "select passage, document, content, models, crc from extractions "
            "where passage in (select value from json_each(:passages))"
        )
        found = (self._checked("extractions", row) for row in self._read(question, {"passages": json.dumps(list(passages))}))
        return {passage: tuple(json.loads(models)) for passage, _, _, models in found}

    # What was extracted before

    def known(self, passages: Sequence[Passage], models: Mapping[str, Sequence[str]]) -> dict[str, Extraction]:
        """What is stored of passages with the same texts, of whatever version, that the same models read."""
        keys = {content_key(passage, models[passage.language]): None for passage in passages if models.get(passage.language)}
        question = (
            "select content, min(passage) from extractions "
            "where content in (select value from json_each(:contents)) group by content"
        )
        stored = dict(self._read(question, {"contents": json.dumps(list(keys))}))
        found = {}
        for passage in passages:
            read_by = models.get(passage.language)
            row = stored.get(content_key(passage, read_by)) if read_by else None
            if row is not None and read_by:
                found[passage.passage_id] = self._extraction(row, passage, read_by)
        return found

    def _extraction(self, row: int, passage: Passage, models: Sequence[str]) -> Extraction:
        mentions = self._mentions("t.passage = :passage order by t.row", {"passage": row})
        relations = self._relations("t.passage = :passage order by t.row", {"passage": row})
        labels = self.entities([mention.entity for mention in mentions])
        places = {mention.row: place for place, mention in enumerate(mentions)}
        return Extraction(
            passage_id=passage.passage_id,
            entities=tuple(
                EntityMention(
                    text=passage.text[one.start : one.end],
                    label=labels[one.entity][1],
                    start=one.start,
                    end=one.end,
                    score=one.score,
                )
                for one in mentions
            ),
            relations=tuple(
                RelationMention(head=places[one.head_mention], tail=places[one.tail_mention], label=one.label, score=one.score)
                for one in relations
            ),
            models=tuple(models),
        )
