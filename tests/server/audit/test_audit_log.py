"""Appending to the audit log: durable, in order, chained, shared, and closed when it can't be written."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taskloom.core.errors import AuditUnavailableError, InternalError, InvalidInputError
from taskloom.core.ports import AuditEntry, AuditReceipt
from taskloom.core.settings import Settings
from taskloom.server.audit import AuditQuery, SqlAuditLog, open_log, open_reader, verify_log
from taskloom.server.audit import log as log_module
from taskloom.server.audit.writer import ChainWriter, Prepared

Entry = Callable[..., AuditEntry]


def database_of(settings: Settings) -> Path:
    return settings.home / "state" / "audit.db"


async def test_concurrent_appends_take_successive_places_in_one_chain(settings: Settings, entry: Entry) -> None:
    log = open_log(settings)
    receipts = await asyncio.gather(*(log.append(entry(request_id=f"r{i}")) for i in range(50)))
    await log.close()
    assert [r.sequence for r in receipts] == list(range(1, 51))
    reader = open_reader(settings)
    rows = list(reader.query())
    reader.close()
    assert [(r.sequence, r.digest, r.request_id) for r in rows] == [
        (i + 1, receipt.digest, f"r{i}") for i, receipt in enumerate(receipts)
    ]
    assert [r.previous for r in rows] == ["0" * 64, *(r.digest for r in rows[:-1])]
    result = verify_log(settings)
    assert result.verified, result.reason
    assert (result.records, result.open, result.payloads) == (50, 50, 50)
    assert result.checkpoints >= 1


async def test_a_log_goes_on_where_the_last_process_stopped(settings: Settings, entry: Entry) -> None:
    for kind in ("accepted", "completed"):
        log = open_log(settings)
        receipt = await log.append(entry(kind))
        await log.close()
    assert receipt.sequence == 2
    assert verify_log(settings).open == 0


async def test_two_logs_append_to_one_chain_at_the_same_time(settings: Settings, entry: Entry) -> None:
    logs = [open_log(settings), open_log(settings)]

    async def use(log: SqlAuditLog) -> None:
        for _ in range(30):
            await log.append(entry())

    await asyncio.gather(*(use(log) for log in logs for _ in range(3)))
    for log in logs:
        await log.close()
    result = verify_log(settings)
    assert result.verified, result.reason
    assert result.records == 180


async def test_every_field_comes_back_as_it_went_in(settings: Settings, entry: Entry) -> None:
    sent = entry(
        "failed",
        tenant="t",
        key_id="k",
        code="model_failed",
        time_s=1e9 / 3,
        duration_s=-0.0,
        facts={"a": [1, 2.5, None, "中"]},
    )
    log = open_log(settings)
    await log.append(sent)
    await log.close()
    reader = open_reader(settings)
    (row,) = reader.tail(1)
    reader.close()
    kept = set(AuditEntry.model_fields) - {"binary"}  # which says how to redact the payload, and is no part of what happened
    assert {name: getattr(row, name) for name in kept} == sent.model_dump(include=kept)
    assert verify_log(settings).verified


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"payload": {"x": float("nan")}}, InvalidInputError),
        ({"payload": {"x": "\ud800"}}, InvalidInputError),
        ({"code": "zero\0byte"}, InvalidInputError),
        ({"kind": "completed", "payload": {"x": object()}}, InternalError),
    ],
)
async def test_an_entry_that_is_no_data_fails_alone(settings: Settings, entry: Entry, bad: Any, error: type) -> None:
    log = open_log(settings)
    outcomes = await asyncio.gather(
        log.append(entry(request_id="a")), log.append(entry(**bad)), log.append(entry(request_id="b")), return_exceptions=True
    )
    await log.close()
    assert isinstance(outcomes[1], error)
    assert [outcomes[0].sequence, outcomes[2].sequence] == [1, 2]  # type: ignore[union-attr]


async def test_under_load_records_wait_for_a_common_commit_and_a_lone_one_does_not(
    make_settings: Callable[..., Settings], entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    waits: list[float] = []
    waiting, enough = threading.Event(), threading.Event()
    write = ChainWriter.write

    def counted(self: ChainWriter, batch: Sequence[Prepared]) -> list[AuditReceipt]:
        commits.append(len(batch))
        return write(self, batch)

    def wait(seconds: float) -> None:
        waits.append(seconds)
        waiting.set()
        enough.wait(30)

    monkeypatch.setattr(ChainWriter, "write", counted)
    monkeypatch.setattr(log_module, "time", SimpleNamespace(sleep=wait, time=time.time))
    log = open_log(make_settings(commit_wait_s=0.25))
    for number in range(3):
        await log.append(entry(request_id=f"lone{number}"))
    assert (commits, waits) == ([1, 1, 1], [])
    crowd = [log.append(entry(request_id=f"crowd{number}")) for number in range(10)]
    enough.set()
    await asyncio.gather(*crowd)
    assert sum(commits) == 13
    enough.clear()
    waiting.clear()
    early = asyncio.gather(*(log.append(entry(request_id=f"early{number}")) for number in range(5)))
    await asyncio.to_thread(waiting.wait, 30)
    late = asyncio.gather(*(log.append(entry(request_id=f"late{number}")) for number in range(5)))
    await asyncio.sleep(0)
    enough.set()
    await asyncio.gather(early, late)
    assert (commits[-1], waits[-1]) == (10, 0.25)
    await log.close()


async def test_a_caller_who_goes_away_leaves_a_record(settings: Settings, entry: Entry) -> None:
    log = open_log(settings)
    gone = asyncio.ensure_future(log.append(entry(request_id="gone")))
    await asyncio.sleep(0)
    gone.cancel()
    await log.append(entry(request_id="next"))
    await log.close()
    assert verify_log(settings).records == 2


async def test_a_closed_log_refuses(settings: Settings, entry: Entry) -> None:
    log = open_log(settings)
    waiting = [asyncio.ensure_future(log.append(entry())) for _ in range(5)]
    await asyncio.sleep(0)
    await log.close()
    assert [r.sequence for r in await asyncio.gather(*waiting)] == [1, 2, 3, 4, 5]
    with pytest.raises(AuditUnavailableError):
        await log.append(entry())


@contextmanager
def limited_file_size(limit: int) -> Iterator[None]:
    """No file of this process grows beyond `limit`: what a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


async def refused_then_recovers(settings: Settings, entry: Entry, trouble: Any) -> None:
    """Under the trouble every append fails with the typed error; after it the same log goes on, and the chain is whole."""
    log = open_log(settings)
    await log.append(entry(request_id="before"))
    with trouble:
        outcomes = await asyncio.gather(*(log.append(entry(request_id="during")) for _ in range(8)), return_exceptions=True)
        assert [type(o) for o in outcomes] == [AuditUnavailableError] * 8
        for outcome in outcomes:
            assert "/" not in str(outcome), "a caller sees this message: no paths"
        with pytest.raises(AuditUnavailableError):
            await log.append(entry(request_id="during"))
    receipt = await log.append(entry(request_id="after"))
    await log.close()
    assert receipt.sequence == 2
    result = verify_log(settings)
    assert result.verified, result.reason
    reader = open_reader(settings)
    assert [r.request_id for r in reader.query()] == ["before", "after"]
    reader.close()


async def test_full_disk(make_settings: Callable[..., Settings], entry: Entry) -> None:
    settings = make_settings()
    await refused_then_recovers(settings, entry, limited_file_size(4096))


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


async def test_read_only_file(make_settings: Callable[..., Settings], entry: Entry) -> None:
    settings = make_settings()
    await refused_then_recovers(settings, entry, _late(lambda: mode(database_of(settings), 0o400)))


@contextmanager
def moved(path: Path) -> Iterator[None]:
    aside = path.with_suffix(".moved")
    os.rename(path, aside)
    try:
        yield
    finally:
        os.rename(aside, path)


@contextmanager
def _late(make: Callable[[], Any]) -> Iterator[None]:
    with make():
        yield


async def test_a_file_that_is_moved_away_is_missed(make_settings: Callable[..., Settings], entry: Entry) -> None:
    settings = make_settings()
    await refused_then_recovers(settings, entry, _late(lambda: moved(database_of(settings))))


@contextmanager
def locked_by_another_writer(path: Path) -> Iterator[None]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.rollback()
        other.close()


async def test_a_foreign_lock_ends_in_an_error_not_in_a_hang(
    make_settings: Callable[..., Settings], entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.server.database.LOCK_WAIT_S", 0.2)
    settings = make_settings()
    await refused_then_recovers(settings, entry, _late(lambda: locked_by_another_writer(database_of(settings))))


@pytest.mark.integration
async def test_postgresql_stopped_and_started(
    make_settings: Callable[..., Settings], entry: Entry, postgres_server: Any, postgres_url: str
) -> None:
    @contextmanager
    def stopped() -> Iterator[None]:
        postgres_server.stop()
        try:
            yield
        finally:
            postgres_server.start()

    await refused_then_recovers(make_settings(url=postgres_url), entry, stopped())


@pytest.mark.integration
async def test_a_postgresql_that_restarted_unnoticed_costs_no_append(
    make_settings: Callable[..., Settings], entry: Entry, postgres_server: Any, postgres_url: str
) -> None:
    log = open_log(make_settings(url=postgres_url))
    await log.append(entry())
    postgres_server.stop()
    postgres_server.start()
    assert (await log.append(entry())).sequence == 2
    await log.close()


def test_a_log_that_cannot_be_opened_says_so(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings()
    (tmp_path / "home").write_text("a file where a folder should be")
    with pytest.raises(AuditUnavailableError, match="opened"):
        open_log(settings)


async def test_secrets_and_records_are_for_their_owner_alone(make_settings: Callable[..., Settings], entry: Entry) -> None:
    settings = make_settings()
    log = open_log(settings)
    await log.append(entry())
    for path in (
        database_of(settings),
        settings.home / "keys" / "audit-hmac.key",
        settings.home / "keys" / "audit-checkpoint.key",
    ):
        assert path.stat().st_mode & 0o077 == 0, path
    await log.close()


async def test_the_wal_is_emptied_as_the_log_grows(
    make_settings: Callable[..., Settings], entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.server.audit.log.RECORDS_PER_WAL_CHECKPOINT", 64)
    settings = make_settings(payloads="full")
    log = open_log(settings)
    for _ in range(20):
        await asyncio.gather(*(log.append(entry()) for _ in range(64)))
    wal = database_of(settings).with_name("audit.db-wal").stat().st_size
    await log.close()
    assert wal < database_of(settings).stat().st_size


async def test_queries_find_by_each_field(settings: Settings, entry: Entry) -> None:
    log = open_log(settings)
    for i in range(6):
        await log.append(
            entry(
                "accepted" if i % 2 else "completed",
                f"r{i}",
                time_s=float(i),
                principal=f"p{i % 3}",
                tenant=f"t{i % 2}",
                model=f"m{i}",
                action="infer" if i else "model.promote",
            )
        )
    await log.close()
    reader = open_reader(settings)

    def found(**asked: Any) -> list[int]:
        return [r.sequence for r in reader.query(AuditQuery(**asked))]

    assert found() == [1, 2, 3, 4, 5, 6]
    assert found(since_s=2.0, until_s=4.0) == [3, 4]
    assert found(principal="p1") == [2, 5]
    assert found(tenant="t1", limit=2) == [2, 4]
    assert found(model="m3") == [4]
    assert found(request_id="r5") == [6]
    assert found(kind="completed") == [1, 3, 5]
    assert found(action="model.promote") == [1]
    assert found(limit=0) == []
    assert [r.sequence for r in reader.tail(2)] == [5, 6]
    assert [r.sequence for r in reader.after(4)] == [5, 6]
    reader.close()
