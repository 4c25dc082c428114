"""Puts entries on the chain and on disk. Sync; used by one thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from taskloom.core.digest import canonical_json
from taskloom.core.errors import InternalError, InvalidInputError, TaskloomError
from taskloom.core.ports import AuditEntry, AuditReceipt
from taskloom.server.audit.chain import record_digest
from taskloom.server.audit.keyring import HmacRing
from taskloom.server.audit.redaction import redact
from taskloom.server.audit.tables import head, payloads, records
from taskloom.server.database import Database

Policy = Literal["none", "redacted", "full"]
_WORDS = ("kind", "action", "request_id", "principal", "tenant", "key_id", "model", "version", "task", "code")


@dataclass(frozen=True)
class Erasure:
    """Which payloads to erase, and who asked for it."""

    request_id: str | None
    principal: str | None
    asked_by: str


@dataclass(slots=True)
class Prepared:
    """An entry with everything but its place in the chain. `content` is what is kept of its payload."""

    fields: dict[str, Any]
    content: str | None


class ChainWriter:
    """Appends to the chain of one database, many entries in one transaction."""

    def __init__(self, database: Database, ring: HmacRing, policy: Policy) -> None:
        self._database = database
        self._ring = ring
        self._policy = policy
        self._connection: Connection | None = None
        self._inserting = False
        dialect = sqlite.dialect(paramstyle="named") if database.path else database.engine.dialect
        # Compiled once and given to the driver as they are: what SQLAlchemy does for each statement and row would cost more
        # than the rest of the work.
        self._insert_record = str(insert(records).compile(dialect=dialect))
        self._insert_payload = str(insert(payloads).compile(dialect=dialect))
        self._lock_head = str(select(head.c.sequence, head.c.digest).with_for_update().compile(dialect=dialect))
        moved = update(head).values(sequence=bindparam("sequence"), digest=bindparam("digest"))
        self._move_head = str(moved.compile(dialect=dialect))
        self.sequence = 0
        self.digest = ""
        """The last record that this writer wrote."""

    def prepare(self, entry: AuditEntry) -> Prepared | TaskloomError:
        """What is written of an entry; an error if it is no data that can be written, so that others are not held up."""
        try:
            return self._prepare(entry)
        except (TypeError, ValueError, RecursionError) as exc:
            message = f"the record can't be written: it must be JSON data without NaN, infinity and broken characters ({exc})"
            return InvalidInputError(message, field="input") if entry.kind == "accepted" else InternalError(message)

    def _prepare(self, entry: AuditEntry) -> Prepared:
        given = vars(entry)
        fields: dict[str, Any] = {name: given[name] for name in _WORDS}
        joined = "".join(fields.values())
        if "\0" in joined:
            raise ValueError("a zero byte in a field")  # PostgreSQL takes none
        joined.encode()  # a lone surrogate fails here, for this entry alone
        fields["facts"] = canonical_json(entry.facts).decode() if entry.facts else "{}"
        fields["time_s"] = entry.time_s + 0.0  # SQLite gives -0.0 back as 0.0
        fields["duration_s"] = entry.duration_s + 0.0
        content: str | None = None
        fields["payload_hmac"] = fields["kept_hmac"] = fields["hmac_key_id"] = ""
        fields["kept"] = "none"
        if entry.payload is not None:
            whole = canonical_json(entry.payload)
            fields["hmac_key_id"] = self._ring.current
            fields["payload_hmac"] = self._ring.digest(whole)
            if self._policy != "none":
                kept = whole if self._policy == "full" else canonical_json(redact(entry.payload, entry.binary))
                content = kept.decode()
                fields["kept"] = self._policy
                fields["kept_hmac"] = self._ring.digest(kept)
        return Prepared(fields, content)

    def write(self, batch: Sequence[Prepared]) -> list[AuditReceipt]:
        """Chains and commits; all of the batch or, with an exception, none of it."""
        self._inserting = False
        try:
            try:
                return self._write(batch)
            except DBAPIError as exc:
                if self._inserting or not exc.connection_invalidated:
                    raise
                self.disconnect()  # the connection died while nothing happened, and nothing was sent on it
                return self._write(batch)
        except BaseException:
            self.disconnect()
            raise

    def _write(self, batch: Sequence[Prepared]) -> list[AuditReceipt]:
        connection = self._connected()
        with self._database.transaction(connection):
            sequence, digest = connection.exec_driver_sql(self._lock_head).one()
            receipts = []
            for item in batch:
                sequence += 1
                fields = item.fields
                fields["sequence"] = sequence
                fields["previous"] = digest
                digest = fields["digest"] = record_digest(fields)
                receipts.append(AuditReceipt(sequence=sequence, digest=digest))
            self._insert(connection, batch)
            connection.exec_driver_sql(self._move_head, {"sequence": sequence, "digest": digest})
        self.sequence, self.digest = sequence, digest
        return receipts

    def _insert(self, connection: Connection, batch: Sequence[Prepared]) -> None:
        self._inserting = True
        connection.exec_driver_sql(self._insert_record, [item.fields for item in batch])
        kept = [{"sequence": item.fields["sequence"], "content": item.content} for item in batch if item.content is not None]
        if kept:
            connection.exec_driver_sql(self._insert_payload, kept)

    def erase(self, erasure: Erasure) -> int:
        """Deletes payloads and appends the record of it, in one transaction. Returns how many were deleted."""
        wanted = select(records.c.sequence)
        if erasure.request_id is not None:
            wanted = wanted.where(records.c.request_id == erasure.request_id)
        if erasure.principal is not None:
            wanted = wanted.where(records.c.principal == erasure.principal)
        try:
            connection = self._connected()
            with self._database.transaction(connection):
                sequence, digest = connection.exec_driver_sql(self._lock_head).one()
                gone = connection.execute(delete(payloads).where(payloads.c.sequence.in_(wanted))).rowcount
                facts = {"request_id": erasure.request_id, "principal": erasure.principal, "payloads": gone}
                fields = self._prepare(_event("audit.erase", erasure.asked_by, facts)).fields
                fields["sequence"], fields["previous"] = sequence + 1, digest
                fields["digest"] = record_digest(fields)
                self._insert(connection, [Prepared(fields, None)])
                moved = {"sequence": fields["sequence"], "digest": fields["digest"]}
                connection.exec_driver_sql(self._move_head, moved)
        except BaseException:
            self.disconnect()
            raise
        self.sequence, self.digest = fields["sequence"], fields["digest"]
        return gone

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._database.engine.connect()
        return self._connection

    def disconnect(self) -> None:
        """Forgets the connection, whatever state it is in; the next write makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
            finally:
                connection.close()


def _event(action: str, principal: str, facts: Mapping[str, Any]) -> AuditEntry:
    return AuditEntry(kind="event", action=action, principal=principal, time_s=time.time(), facts=facts)
