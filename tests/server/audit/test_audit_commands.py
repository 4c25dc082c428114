"""`taskloom audit` and `taskloom key`, as they are run."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from taskloom.core.errors import AuditIntegrityError, AuditUnavailableError, NotFoundError, UnauthenticatedError
from taskloom.core.ports import AuditEntry
from taskloom.core.settings import Settings
from taskloom.server.audit import open_log
from taskloom.server.auth.keys import open_keys
from taskloom.server.commands.audit import audit
from taskloom.server.commands.key import key

Run = Callable[..., Result]


@pytest.fixture
def run(make_settings: Callable[..., Settings]) -> Run:
    settings = make_settings(payloads="full", checkpoint_every=2)
    cli = SimpleNamespace(settings=settings, registry=None, store=None, print_json=lambda data: click.echo(json.dumps(data)))

    def invoke(command: click.Command, *words: str, **options: Any) -> Result:
        return CliRunner().invoke(command, words, obj=cli, catch_exceptions=False, **options)

    invoke.settings = settings  # type: ignore[attr-defined]
    return invoke


@pytest.fixture
def written(run: Run, entry: Callable[..., AuditEntry]) -> Settings:
    settings: Settings = run.settings  # type: ignore[attr-defined]

    async def write() -> None:
        log = open_log(settings)
        await log.append(entry("accepted", "r1", time_s=time.time() - 7200))
        await log.append(entry("completed", "r1", time_s=time.time() - 7199, duration_s=0.5))
        await log.append(entry("accepted", "r2", principal="bob", model="other"))
        await log.append(entry("failed", "r2", principal="bob", model="other", code="model_failed"))
        await log.close()

    asyncio.run(write())
    return settings


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_tail_and_query_show_what_was_asked(run: Run, written: Settings) -> None:
    assert [r["sequence"] for r in lines(run(audit, "tail", "-n", "2", "--json"))] == [3, 4]
    assert [r["sequence"] for r in lines(run(audit, "query", "--since", "1h", "--json"))] == [3, 4]
    assert [r["sequence"] for r in lines(run(audit, "query", "--until", "1h", "--json"))] == [1, 2]
    assert [r["sequence"] for r in lines(run(audit, "query", "--since", "2020-01-01", "--limit", "1", "--json"))] == [1]
    assert [r["sequence"] for r in lines(run(audit, "query", "--principal", "bob", "--kind", "failed", "--json"))] == [4]
    assert [r["sequence"] for r in lines(run(audit, "query", "--model", "intent-en", "--request-id", "r1", "--json"))] == [1, 2]
    shown = run(audit, "tail").stdout.splitlines()
    assert "completed" in shown[1]
    assert "500.0 ms" in shown[1]
    assert "model_failed" in shown[3]
    assert run(audit, "query", "--since", "soon").exit_code == 2


def test_verify_says_yes_and_then_no(run: Run, written: Settings) -> None:
    assert "4 records, 2 checkpoints" in run(audit, "verify").stdout
    (data,) = lines(run(audit, "verify", "--json"))
    assert (data["verified"], data["records"], data["checkpoints"]) == (True, 4, 2)
    path = written.home / "checkpoints" / "checkpoints.jsonl"
    path.write_text(path.read_text().replace('"sequence":2', '"sequence":3'))
    with pytest.raises(AuditIntegrityError, match="signature"):
        run(audit, "verify")


def test_reading_a_log_that_is_not_there_makes_none(run: Run) -> None:
    for words in (["tail"], ["query"], ["verify"], ["export", "-"], ["erase", "--request-id", "r1", "--yes"]):
        with pytest.raises(NotFoundError):
            run(audit, *words)
    assert not (run.settings.home / "state" / "audit.db").exists()  # type: ignore[attr-defined]


def test_export_writes_the_chain(run: Run, written: Settings, tmp_path: Path) -> None:
    out = tmp_path / "chain.jsonl"
    assert lines(run(audit, "export", str(out), "--json")) == [{"file": str(out), "records": 4}]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["sequence"] for r in rows] == [1, 2, 3, 4]
    assert "payload" not in rows[0]
    assert json.loads(run(audit, "export", "-", "--payloads").stdout.splitlines()[0])["payload"]["text"]


def test_erase_asks_first_erases_and_leaves_a_valid_log(run: Run, written: Settings) -> None:
    assert run(audit, "erase").exit_code == 2
    assert run(audit, "erase", "--principal", "bob", input="n\n").exit_code == 1
    assert lines(run(audit, "erase", "--principal", "bob", "--yes", "--json"))[0]["erased"] == 2
    (data,) = lines(run(audit, "verify", "--json"))
    assert (data["verified"], data["erased"], data["payloads"]) == (True, 2, 2)


def test_a_key_lives_from_create_to_revoke_and_both_are_on_record(run: Run) -> None:
    settings: Settings = run.settings  # type: ignore[attr-defined]
    (made,) = lines(run(key, "create", "ada", "--role", "audit", "--model", "m*", "--rate", "3", "--expires", "2", "--json"))
    assert (made["roles"], made["models"], made["requests_per_s"]) == (["audit"], ["m*"], 3.0)
    store = open_keys(settings)
    assert store.authenticate(made["secret"]).name == "ada"
    (listed,) = json.loads(run(key, "list", "--json").stdout)
    assert (listed["state"], listed["key_id"]) == ("valid", made["key_id"])
    assert "secret" not in listed
    assert made["key_id"] in run(key, "list").stdout
    assert run(key, "revoke", made["key_id"]).exit_code == 0
    with pytest.raises(UnauthenticatedError):
        store.authenticate(made["secret"])
    store.close()
    events = lines(run(audit, "query", "--kind", "event", "--json"))
    assert [(e["action"], e["key_id"]) for e in events] == [("key.create", made["key_id"]), ("key.revoke", made["key_id"])]
    assert made["secret"] not in json.dumps(events)


def test_a_key_that_cannot_be_recorded_does_not_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Settings) -> None:
        raise AuditUnavailableError("full")

    monkeypatch.setattr("taskloom.server.audit.open_log", broken)
    with pytest.raises(AuditUnavailableError):
        run(key, "create", "ada")
    (listed,) = json.loads(run(key, "list", "--json").stdout)
    assert listed["state"] == "revoked"
