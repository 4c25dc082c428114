"""Reads the audit log: queries, the last records, an export that outsiders can check."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from pydantic import Field
from sqlalchemy import Select, select
from sqlalchemy.exc import SQLAlchemyError

from taskloom.core.errors import AuditUnavailableError
from taskloom.core.settings import Settings
from taskloom.core.types import Frozen
from taskloom.server.audit.chain import FIELDS
from taskloom.server.audit.places import audit_database, reason
from taskloom.server.audit.tables import head, payloads, records
from taskloom.server.database import Database

PAGE = 1000


class AuditRecord(Frozen):
    """A record of the log. `payload` is what is kept of the input or output; None if nothing is, or no more."""

    sequence: int
    kind: str
    action: str
    request_id: str
    principal: str
    tenant: str
    key_id: str
    model: str
    version: str
    task: str
    code: str
    time_s: float
    duration_s: float
    facts: Mapping[str, Any] = Field(default_factory=dict)
    payload: Any = None
    kept: str
    payload_hmac: str
    kept_hmac: str
    hmac_key_id: str
    previous: str
    digest: str


class AuditQuery(Frozen):
    """Which records: all that are set must hold. Times are on the `time.time()` clock, `since_s` included, `until_s` not."""

    since_s: float | None = None
    until_s: float | None = None
    principal: str | None = None
    tenant: str | None = None
    model: str | None = None
    request_id: str | None = None
    kind: str | None = None
    action: str | None = None
    limit: int | None = Field(default=None, ge=0)


def open_reader(settings: Settings) -> AuditReader:
    """Opens the log for reading; raises `NotFoundError` if there is none yet."""
    database = audit_database(settings)
    with _readable():
        database.require(records.name, "audit log")
    return AuditReader(database)


class AuditReader:
    """Reads while others write; writes nothing. Sync. Results are streamed in pages, in the order of the chain."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def query(self, query: AuditQuery | None = None) -> Iterator[AuditRecord]:
        """The records that match, oldest first."""
        query = query or AuditQuery()
        wanted = _matching(_with_payloads(), query)
        after, left = 0, query.limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self._rows(wanted.where(records.c.sequence > after).order_by(records.c.sequence).limit(size))
            yield from map(_record, page)
            if len(page) < size:
                return
            after, left = page[-1]["sequence"], None if left is None else left - size

    def tail(self, count: int = 10) -> list[AuditRecord]:
        """The last records, oldest first."""
        rows = self._rows(_with_payloads().order_by(records.c.sequence.desc()).limit(count))
        return [_record(row) for row in reversed(rows)]

    def after(self, sequence: int) -> list[AuditRecord]:
        """Up to a page of the records after a sequence number: how `--follow` goes on."""
        wanted = _with_payloads().where(records.c.sequence > sequence).order_by(records.c.sequence).limit(PAGE)
        return [_record(row) for row in self._rows(wanted)]

    def chained(self, first: int = 1, last: int | None = None) -> Iterator[Mapping[str, Any]]:
        """Rows as they are stored, `content` (the kept payload) among them, from one sequence number to another."""
        after = first - 1
        while last is None or after < last:
            wanted = _with_payloads().where(records.c.sequence > after)
            wanted = wanted if last is None else wanted.where(records.c.sequence <= last)
            page = self._rows(wanted.order_by(records.c.sequence).limit(PAGE))
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1]["sequence"]

    def head(self) -> tuple[int, str]:
        """Sequence number and digest that the last writer left."""
        rows = self._rows(select(head.c.sequence, head.c.digest))
        return (rows[0]["sequence"], rows[0]["digest"]) if rows else (0, "")

    def export(self, stream: TextIO, with_payloads: bool = False) -> int:
        """Writes the whole chain as JSON Lines; returns the number of records.

        Anyone can check it without Taskloom. For each line: take out `digest` (and `payload`); write the rest as JSON with
        sorted keys, no blanks, in UTF-8; its SHA-256 is `digest`. `previous` is the `digest` of the line before, 64 zeros on
        the first. `checkpoints.jsonl` says, signed, which `digest` stands at which `sequence`.
        """
        count = 0
        for row in self.chained(last=self.head()[0]):
            line = {name: row[name] for name in FIELDS} | {"digest": row["digest"]}
            if with_payloads:
                line["payload"] = None if row["content"] is None else json.loads(row["content"])
            stream.write(json.dumps(line, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n")
            count += 1
        return count

    def close(self) -> None:
        self._database.close()

    def _rows(self, statement: Select[Any]) -> Sequence[Mapping[str, Any]]:
        with _readable(), self._database.reading() as connection:
            return [row._asdict() for row in connection.execute(statement)]


def _with_payloads() -> Select[Any]:
    return select(records, payloads.c.content).outerjoin(payloads, payloads.c.sequence == records.c.sequence)


def _matching(statement: Select[Any], query: AuditQuery) -> Select[Any]:
    if query.since_s is not None:
        statement = statement.where(records.c.time_s >= query.since_s)
    if query.until_s is not None:
        statement = statement.where(records.c.time_s < query.until_s)
    for name in ("principal", "tenant", "model", "request_id", "kind", "action"):
        value = getattr(query, name)
        if value is not None:
            statement = statement.where(records.c[name] == value)
    return statement


def _record(row: Mapping[str, Any]) -> AuditRecord:
    data = {**row}
    content = data.pop("content")
    data["facts"] = json.loads(data["facts"])
    return AuditRecord(**data, payload=None if content is None else json.loads(content))


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as exc:
        raise AuditUnavailableError(f"the audit log can't be read: {reason(exc)}") from exc
