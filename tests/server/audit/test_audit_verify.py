"""Whoever changes the log is found out."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from taskloom.core.errors import InvalidInputError, NotFoundError
from taskloom.core.ports import AuditEntry
from taskloom.core.settings import Settings
from taskloom.server.audit import VerifyResult, open_log, open_reader, verify_log
from taskloom.server.audit.chain import FIELDS, record_digest
from taskloom.server.audit.checkpoints import CHECKPOINTS, CheckpointFile
from taskloom.server.audit.keyring import load_signing_key
from taskloom.server.audit.places import audit_database

Entry = Callable[..., AuditEntry]


async def write(settings: Settings, entry: Entry, count: int = 12) -> None:
    """`count` records of requests that were answered, checkpointed every 5 and at the end."""
    log = open_log(settings)
    for i in range(count):
        await log.append(entry("completed" if i % 2 else "accepted", f"r{i // 2}", facts={"n": i}, duration_s=0.25 * i))
    await log.close()


def tamper(settings: Settings, *statements: str) -> None:
    database = audit_database(settings)
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))
    database.close()


def found(settings: Settings) -> VerifyResult:
    result = verify_log(settings)
    assert not result.verified
    assert result.reason
    return result


NEW_VALUES = {"sequence": "100", "time_s": "time_s + 1", "duration_s": "duration_s + 1"}
UNCHAINED = {"digest"}


@pytest.mark.parametrize("column", sorted({*FIELDS, *UNCHAINED}))
async def test_a_change_of_any_field_is_found(settings: Settings, entry: Entry, column: str) -> None:
    await write(settings, entry)
    new = NEW_VALUES.get(column, f"{column} || 'x'")
    tamper(settings, f"UPDATE audit_records SET {column} = {new} WHERE sequence = 7")
    assert found(settings).bad_sequence == 7


async def test_an_untouched_log_is_verified(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    result = verify_log(settings)
    assert result.verified
    assert (result.records, result.checkpoints, result.payloads, result.open) == (12, 3, 12, 0)


async def test_a_deleted_row_in_the_middle_is_found(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    tamper(settings, "DELETE FROM audit_records WHERE sequence = 7")
    assert found(settings).bad_sequence == 7


async def test_deleted_first_rows_are_found(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    tamper(settings, "DELETE FROM audit_records WHERE sequence <= 2")
    assert found(settings).bad_sequence == 1


async def test_a_deleted_tail_is_found_by_the_head(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    (settings.home / "checkpoints" / CHECKPOINTS).unlink()
    tamper(settings, "DELETE FROM audit_records WHERE sequence > 9")
    assert found(settings).bad_sequence == 10


async def test_a_deleted_tail_with_its_head_is_found_by_the_checkpoint(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    tamper(
        settings,
        "DELETE FROM audit_payloads WHERE sequence > 9",
        "DELETE FROM audit_records WHERE sequence > 9",
        "UPDATE audit_head SET sequence = 9, digest = (SELECT digest FROM audit_records WHERE sequence = 9)",
    )
    result = found(settings)
    assert "12" in result.reason
    assert result.bad_sequence == 10


async def test_everything_deleted_is_found(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    tamper(settings, "DELETE FROM audit_records", f"UPDATE audit_head SET sequence = 0, digest = '{'0' * 64}'")
    assert found(settings).bad_sequence == 1


async def test_swapped_rows_are_found(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    tamper(
        settings,
        "UPDATE audit_records SET sequence = 100 WHERE sequence = 6",
        "UPDATE audit_records SET sequence = 6 WHERE sequence = 7",
        "UPDATE audit_records SET sequence = 7 WHERE sequence = 100",
    )
    assert found(settings).bad_sequence == 6


async def test_a_chain_written_anew_contradicts_its_checkpoints(settings: Settings, entry: Entry) -> None:
    """The strongest attacker of the database: every digest from the changed record on is right again."""
    await write(settings, entry)
    reader = open_reader(settings)
    rows = [dict(row) for row in reader.chained()]
    reader.close()
    statements, previous = [], rows[5]["previous"]
    for row in rows[5:]:
        row["previous"], row["principal"] = previous, "mallory"
        previous = record_digest(row)
        statements.append(
            f"UPDATE audit_records SET principal = 'mallory', previous = '{row['previous']}', digest = '{previous}' "
            f"WHERE sequence = {row['sequence']}"
        )
    tamper(settings, *statements, f"UPDATE audit_head SET digest = '{previous}'")
    result = found(settings)
    assert result.bad_sequence == 10
    assert "checkpoint" in result.reason


@pytest.mark.parametrize("statement", ['content = \'{"text": "other"}\'', "sequence = sequence + 1000"])
async def test_a_changed_or_removed_payload_is_found(settings: Settings, entry: Entry, statement: str) -> None:
    await write(settings, entry)
    tamper(settings, f"UPDATE audit_payloads SET {statement} WHERE sequence = 7")
    assert "payload" in found(settings).reason


async def test_a_payload_put_where_none_was_kept_is_found(make_settings: Callable[..., Settings], entry: Entry) -> None:
    settings = make_settings(payloads="none")
    await write(settings, entry)
    tamper(settings, "INSERT INTO audit_payloads (sequence, content) VALUES (3, '{}')")
    assert found(settings).bad_sequence == 3


def checkpoint_lines(settings: Settings) -> tuple[Path, list[dict[str, Any]]]:
    path = settings.home / "checkpoints" / CHECKPOINTS
    return path, [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "change", [{"sequence": 11}, {"digest": "0" * 64}, {"time_s": 1.0}, {"signature": "00" * 64}, {"key_id": "f" * 16}]
)
async def test_a_forged_checkpoint_is_found(settings: Settings, entry: Entry, change: dict[str, Any]) -> None:
    await write(settings, entry)
    path, lines = checkpoint_lines(settings)
    lines[1] |= change
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "line 2" in found(settings).reason


async def test_a_stretch_without_a_checkpoint_is_told(
    settings: Settings, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.server.audit.verify.MAX_BATCH", 0)
    await write(settings, entry)
    assert verify_log(settings).notes == ()
    path, _ = checkpoint_lines(settings)
    path.unlink()
    result = verify_log(settings)
    assert (result.verified, result.checkpoints) == (True, 0)
    assert "no checkpoint from record 1 to 12, and one is signed every 5" in result.notes[0]


async def test_a_checkpoint_of_a_stranger_is_found(settings: Settings, entry: Entry, tmp_path: Path) -> None:
    await write(settings, entry)
    stranger = load_signing_key(tmp_path / "elsewhere")
    CheckpointFile(settings.home / "checkpoints").append(12, "0" * 64, 1.0, stranger)
    assert stranger.key_id in found(settings).reason


async def test_a_torn_last_line_of_checkpoints_is_no_fault_and_is_mended(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    path, _ = checkpoint_lines(settings)
    with path.open("a") as stream:
        stream.write('{"sequence": 12, "dig')
    assert verify_log(settings).verified
    await write(settings, entry)
    result = verify_log(settings)
    assert result.verified, result.reason
    assert [line["sequence"] for line in checkpoint_lines(settings)[1]][-1] == 24


async def test_keys_may_be_rotated(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    keys = settings.home / "keys"
    with (keys / "audit-hmac.key").open("a") as stream:
        stream.write(f"second {'ab' * 32}\n")
    (keys / "audit-checkpoint.key").unlink()
    await write(settings, entry)
    result = verify_log(settings)
    assert result.verified, result.reason
    reader = open_reader(settings)
    assert {r.hmac_key_id for r in reader.tail(12)} == {"second"}
    reader.close()
    assert len({line["key_id"] for line in checkpoint_lines(settings)[1]}) == 2


async def test_without_the_hmac_key_the_chain_is_still_verified_and_the_gap_told(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    (settings.home / "keys" / "audit-hmac.key").unlink()
    result = verify_log(settings)
    assert result.verified
    assert "HMAC key" in result.notes[0]


async def test_open_requests_are_told_and_are_no_fault(settings: Settings, entry: Entry) -> None:
    log = open_log(settings)
    await log.append(entry("accepted", "answered"))
    await log.append(entry("accepted", "lost"))
    await log.append(entry("failed", "answered", code="model_failed"))
    await log.close()
    result = verify_log(settings)
    assert result.verified
    assert (result.open, result.open_request_ids) == (1, ("lost",))


async def test_erasure_takes_payloads_and_leaves_a_valid_chain_with_a_record_of_it(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    log = open_log(settings)
    await log.append(entry("accepted", "other", principal="bob"))
    assert await log.erase(request_id="r2", asked_by="os:root") == 2
    assert await log.erase(principal="ada", asked_by="os:root") == 10
    with pytest.raises(InvalidInputError):
        await log.erase(asked_by="os:root")
    await log.close()
    result = verify_log(settings)
    assert result.verified, result.reason
    assert (result.payloads, result.erased) == (1, 12)
    reader = open_reader(settings)
    assert [r.sequence for r in reader.query() if r.payload is not None] == [13]
    event = reader.tail(1)[0]
    reader.close()
    assert (event.kind, event.action, event.principal, event.facts["payloads"]) == ("event", "audit.erase", "os:root", 10)


async def test_erased_text_is_in_no_file(make_settings: Callable[..., Settings], entry: Entry) -> None:
    settings = make_settings(payloads="full")
    log = open_log(settings)
    await log.append(entry("accepted", "secret", payload={"text": "a very private sentence"}))
    assert any(b"very private" in p.read_bytes() for p in (settings.home / "state").iterdir())
    await log.erase(request_id="secret", asked_by="ada")
    assert not any(b"very private" in p.read_bytes() for p in (settings.home / "state").iterdir())
    await log.close()


async def test_redacted_payloads_are_kept_redacted_and_verified(make_settings: Callable[..., Settings], entry: Entry) -> None:
    settings = make_settings(payloads="redacted")
    log = open_log(settings)
    await log.append(entry(payload={"text": "我的手机是13800138000"}))
    await log.close()
    reader = open_reader(settings)
    assert reader.tail(1)[0].payload == {"text": "我的手机是[PHONE]"}
    reader.close()
    assert verify_log(settings).verified
    tamper(settings, "UPDATE audit_payloads SET content = '{}'")
    assert found(settings).bad_sequence == 1


async def test_pictures_are_not_kept_in_redacted_payloads(make_settings: Callable[..., Settings], entry: Entry) -> None:
    settings = make_settings(payloads="redacted")
    log = open_log(settings)
    await log.append(entry(payload={"image": "aGVsbG8="}, binary=("image",)))
    await log.close()
    reader = open_reader(settings)
    payload = reader.tail(1)[0].payload
    assert payload is not None
    assert payload["image"].startswith("[BYTES 5 bytes, sha256 2cf24dba5fb0a30e")
    reader.close()


async def test_an_export_can_be_checked_with_the_documented_recipe_alone(settings: Settings, entry: Entry) -> None:
    await write(settings, entry)
    reader = open_reader(settings)
    stream = io.StringIO()
    assert reader.export(stream, with_payloads=True) == 12
    reader.close()
    previous = "0" * 64
    for number, text_line in enumerate(stream.getvalue().splitlines(), 1):
        line = json.loads(text_line)
        digest, _payload = line.pop("digest"), line.pop("payload")
        again = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        assert hashlib.sha256(again).hexdigest() == digest
        assert (line["previous"], line["sequence"]) == (previous, number)
        previous = digest
    assert checkpoint_lines(settings)[1][-1]["digest"] == previous


async def test_a_log_is_verified_while_it_is_written(settings: Settings, entry: Entry) -> None:
    log = open_log(settings)
    writing = asyncio.gather(*(log.append(entry(request_id=f"r{i}")) for i in range(300)))
    results = [await asyncio.to_thread(verify_log, settings) for _ in range(5)]
    await writing
    await log.close()
    assert [r.reason for r in results] == [""] * 5


def test_there_is_nothing_to_verify_before_the_first_record(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(NotFoundError, match="no audit log"):
        verify_log(make_settings())
