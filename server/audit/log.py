"""The audit log that the gateway appends to: an async front, one writer thread, group commit."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from taskloom.core.errors import AuditUnavailableError, InvalidInputError, TaskloomError
from taskloom.core.ports import AuditEntry, AuditReceipt
from taskloom.core.settings import Settings
from taskloom.server.audit.checkpoints import CheckpointFile
from taskloom.server.audit.keyring import SigningKey, load_hmac_ring, load_signing_key
from taskloom.server.audit.places import audit_database, checkpoint_folder, keys_folder, reason
from taskloom.server.audit.writer import ChainWriter, Erasure, Prepared
from taskloom.server.database import Database

log = logging.getLogger(__name__)

MAX_BATCH = 1024
RECORDS_PER_WAL_CHECKPOINT = 4096
MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "audit_schema_version"

Job = tuple[AuditEntry | Erasure, "asyncio.Future[Any]"]


def open_log(settings: Settings) -> SqlAuditLog:
    """Opens the log for writing: makes or upgrades its database, and starts the writer. Raises `AuditUnavailableError` if
    it can't be written."""
    try:
        database = audit_database(settings)
        database.create(MIGRATIONS, VERSION_TABLE)
        ring = load_hmac_ring(keys_folder(settings), create=True)
        signing = load_signing_key(keys_folder(settings))
        folder = checkpoint_folder(settings)
        folder.mkdir(parents=True, exist_ok=True)
    except (SQLAlchemyError, OSError) as exc:
        raise AuditUnavailableError(f"the audit log can't be opened for writing: {reason(exc)}") from exc
    writer = ChainWriter(database, ring, settings.audit.payloads)
    checkpoints = Checkpointer(CheckpointFile(folder), signing, settings.audit.checkpoint_every)
    return SqlAuditLog(database, writer, checkpoints, settings.audit.commit_wait_s)


class Checkpointer:
    """Writes a signed checkpoint when enough records have passed."""

    def __init__(self, file: CheckpointFile, key: SigningKey, every: int) -> None:
        self._file = file
        self._key = key
        self._every = every
        self._last = 0
        self._due = False

    def saw(self, first: int, last: int, digest: str) -> None:
        """Records `first` to `last` were committed by this process, the last with this digest."""
        if self._due or last // self._every > (first - 1) // self._every:
            self.write(last, digest)

    def write(self, sequence: int, digest: str) -> None:
        """A checkpoint that can't be written now is tried again after the next commit: the records are safe meanwhile."""
        if sequence <= self._last:
            return
        try:
            self._file.append(sequence, digest, time.time(), self._key)
            self._last, self._due = sequence, False
        except OSError as exc:
            self._due = True
            log.error("no checkpoint could be written to %s: %s", self._file.path, exc)


class SqlAuditLog:
    """The audit log on SQL. Appends wait together for one commit; each returns when its record is on stable storage.

    A commit that held several records is a sign that more are coming, so the next one waits `commit_wait_s` for them, as
    PostgreSQL's `commit_delay` does: fewer, larger commits leave more of the machine to the models.

    After an error the log goes on: each append tries again, and succeeds when the cause is gone.
    """

    def __init__(self, database: Database, writer: ChainWriter, checkpoints: Checkpointer, commit_wait_s: float) -> None:
        self._database = database
        self._writer = writer
        self._checkpoints = checkpoints
        self._commit_wait_s = commit_wait_s
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._closed = False
        self._since_wal_checkpoint = 0
        self._crowded = False
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    async def append(self, entry: AuditEntry) -> AuditReceipt:
        """Returns when the entry is on stable storage; raises `AuditUnavailableError` if it can't be put there."""
        receipt: AuditReceipt = await self._submit(entry)
        return receipt

    async def erase(self, *, request_id: str | None = None, principal: str | None = None, asked_by: str) -> int:
        """Deletes the payloads of a request, of a principal, or of both at once; records that as `audit.erase`; returns how
        many were deleted. The chain stays valid: it holds HMACs alone."""
        if request_id is None and principal is None:
            raise InvalidInputError("erase needs a request id or a principal: whose payloads?")
        gone: int = await self._submit(Erasure(request_id, principal, asked_by))
        return gone

    def _submit(self, work: AuditEntry | Erasure) -> asyncio.Future[Any]:
        if self._closed:
            raise AuditUnavailableError("the audit log is closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put((work, future))
        return future

    async def close(self) -> None:
        """Writes what waits, then a checkpoint; returns when all is on stable storage."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- the writer thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        going = True
        while going:
            jobs, going = self._next_batch()
            self._crowded = len(jobs) > 1
            entries = [job for job in jobs if isinstance(job[0], AuditEntry)]
            if entries:
                self._append(entries)
            for work, future in jobs:
                if isinstance(work, Erasure):
                    self._erase(work, future)
        self._finish()

    def _next_batch(self) -> tuple[list[Job], bool]:
        """What waits, up to `MAX_BATCH`, and whether to go on after it."""
        first = self._queue.get()
        if first is None:
            return [], False
        if self._crowded:
            time.sleep(self._commit_wait_s)
        jobs = [first]
        try:
            while len(jobs) < MAX_BATCH:
                job = self._queue.get_nowait()
                if job is None:
                    return jobs, False
                jobs.append(job)
        except Empty:
            pass
        return jobs, True

    def _append(self, jobs: Sequence[Job]) -> None:
        outcomes: list[tuple[asyncio.Future[Any], Any]] = []
        ready: list[tuple[asyncio.Future[Any], Prepared]] = []
        for entry, future in jobs:
            assert isinstance(entry, AuditEntry)
            prepared = self._prepare(entry)
            if isinstance(prepared, Prepared):
                ready.append((future, prepared))
            else:
                outcomes.append((future, prepared))
        if ready:
            outcomes += zip((future for future, _ in ready), self._write([item for _, item in ready]), strict=True)
        settle(outcomes)
        if ready:
            self._after_commit(len(ready))

    def _prepare(self, entry: AuditEntry) -> Prepared | TaskloomError:
        try:
            return self._writer.prepare(entry)
        except Exception as exc:  # one entry that nobody foresaw must not end the thread that all wait for
            return unavailable(exc)

    def _write(self, batch: Sequence[Prepared]) -> Sequence[AuditReceipt | TaskloomError]:
        try:
            return self._writer.write(batch)
        except Exception as exc:
            log.error("%d audit records could not be written: %s", len(batch), reason(exc))
            return [unavailable(exc) for _ in batch]

    def _erase(self, erasure: Erasure, future: asyncio.Future[Any]) -> None:
        try:
            gone = self._writer.erase(erasure)
            self._database.checkpoint("TRUNCATE")  # no copy stays behind in the WAL
            settle([(future, gone)])
        except Exception as exc:
            log.error("payloads could not be erased: %s", reason(exc))
            settle([(future, unavailable(exc))])

    def _after_commit(self, count: int) -> None:
        """What may fail without harm to a record that is already safe."""
        sequence = self._writer.sequence
        if not sequence:
            return
        self._checkpoints.saw(sequence - count + 1, sequence, self._writer.digest)
        self._since_wal_checkpoint += count
        if self._since_wal_checkpoint >= RECORDS_PER_WAL_CHECKPOINT:
            self._since_wal_checkpoint = 0
            try:
                self._database.checkpoint()
            except (SQLAlchemyError, sqlite3.Error, OSError) as exc:
                log.warning("the audit log's WAL could not be checkpointed: %s", reason(exc))

    def _finish(self) -> None:
        if self._writer.sequence:
            self._checkpoints.write(self._writer.sequence, self._writer.digest)
        self._writer.disconnect()
        try:
            self._database.close()
        except (SQLAlchemyError, OSError) as exc:
            log.warning("the audit log was not closed cleanly: %s", reason(exc))


def unavailable(exc: Exception) -> AuditUnavailableError:
    if not isinstance(exc, SQLAlchemyError | OSError):
        log.exception("a defect in the audit log", exc_info=exc)
    return AuditUnavailableError("the audit log can't be written, so nothing is answered; try again later")


def settle(outcomes: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    """Resolves futures from another thread: one wake-up for each event loop, however many wait there."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for outcome in outcomes:
        loops.setdefault(outcome[0].get_loop(), []).append(outcome)
    for loop, mine in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, mine)
        except RuntimeError:
            log.warning("%d audit records were written for callers that are gone", len(mine))


def _resolve(outcomes: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in outcomes:
        if future.done():
            continue  # the caller went away; the record stays
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
