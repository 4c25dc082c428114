"""What an operator fears, done on purpose to the real path: Ray, gateway, SDK, audit log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from live_load import replica_processes, under_load, wait_until

from taskloom.core.errors import AuditUnavailableError, TaskloomError, UnavailableError
from taskloom.sdk import Client
from taskloom.sdk.cli.server_process import RunningServer, running_server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(["intent-en"], environment={"TASKLOOM_POOLS__DEFAULT__REPLICAS": "2"}) as running:
        yield running


def test_killing_a_replica_under_load_fails_no_call(server: RunningServer) -> None:
    with under_load(server, callers=8) as load:
        for _ in range(2):
            wait_until(lambda: len(replica_processes(server)) == 2, 120, "the second replica")
            before = load.answered
            wait_until(lambda before=before: load.answered > before + 50, 60, "load")  # type: ignore[misc]
            replica_processes(server)[0].send_signal(signal.SIGKILL)
            before = load.answered
            wait_until(lambda before=before: load.answered > before + 50, 60, "answers after the kill")  # type: ignore[misc]
    assert load.failures == []
    report = server.run("audit", "verify")
    assert report["verified"]


def test_every_answer_has_its_two_records(server: RunningServer) -> None:
    with Client(server.address, api_key=server.api_key) as client:
        result = client.classify("Where is my card?", model="intent-en")
    records = server.rows("audit", "query", "--request-id", result.request_id)
    assert [record["kind"] for record in records] == ["accepted", "completed"]


def test_sigterm_under_load_answers_every_accepted_call() -> None:
    with running_server(["intent-en"]) as server:
        with under_load(server, callers=8, timeout_s=15) as load:
            wait_until(lambda: load.answered > 50, 60, "load")
            os.killpg(server.pid, signal.SIGTERM)  # to the whole group, as `timeout` and service managers send it
            wait_until(lambda: len(load.failures) == 8, 90, "the end of every caller")
        log = server.log.read_text(encoding="utf-8")
        wait_until(lambda: '"stopped"' in server.log.read_text(encoding="utf-8"), 60, f"the end of the server: {log}")
        assert "SIGTERM received" not in log
        # Callers end because the gateway takes no more, not because an accepted call was dropped.
        assert all(isinstance(failure, UnavailableError) for failure in load.failures), load.failures
        records = server.run("audit", "export", str(server.home / "audit.jsonl")) and _records(server.home / "audit.jsonl")
        accepted = {r["request_id"] for r in records if r["kind"] == "accepted"}
        ended = {r["request_id"] for r in records if r["kind"] in ("completed", "failed")}
        assert accepted == ended
        assert set(load.request_ids) <= ended
        assert server.run("audit", "verify")["verified"]


def test_a_server_ends_with_the_command_that_started_it() -> None:
    starter = (
        "import time\n"
        "from taskloom.sdk.cli.server_process import running_server\n"
        "with running_server(['intent-en'], environment={'TASKLOOM_SERVER__DISPATCHER': 'local'}) as server:\n"
        "    print(server.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        server = psutil.Process(int(command.stdout.readline()))
        command.kill()
    server.wait(60)


def _records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_full_disk_lets_no_answer_leave() -> None:
    """The server may write files of at most 512 KiB: its log fills up under load, as a disk does."""
    with running_server(["intent-en"], environment={"TASKLOOM_SERVER__DISPATCHER": "local"}) as server:
        gateway = psutil.Process(server.pid)
        gateway.rlimit(psutil.RLIMIT_FSIZE, (524_288, psutil.RLIM_INFINITY))
        answered: list[str] = []
        refused: list[TaskloomError] = []
        with Client(server.address, api_key=server.api_key, timeout_s=3) as client:
            for _ in range(20_000):
                try:
                    answered.append(client.classify("Where is my card?", model="intent-en").request_id)
                except TaskloomError as exc:
                    refused.append(exc)
                    if len(refused) == 3:
                        break
        assert len(refused) == 3, "the log never filled up"
        assert all(isinstance(exc, AuditUnavailableError | UnavailableError) for exc in refused), refused
        gateway.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        with Client(server.address, api_key=server.api_key) as client:
            wait_until(lambda: _answers(client), 60, "work after the disk had room again")
        server.run("audit", "export", str(server.home / "audit.jsonl"))
        completed = {r["request_id"] for r in _records(server.home / "audit.jsonl") if r["kind"] == "completed"}
        assert set(answered) <= completed
        assert server.run("audit", "verify")["verified"]


def _answers(client: Client) -> bool:
    try:
        return bool(client.classify("Where is my card?", model="intent-en").label)
    except TaskloomError:
        return False
