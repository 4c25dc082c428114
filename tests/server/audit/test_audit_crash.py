"""Kill -9 under load: what was acknowledged is there, and the chain is whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taskloom.core.settings import Settings
from taskloom.server.audit import open_reader, verify_log

CHILD = """
import asyncio, os, sys, time
from pathlib import Path
from taskloom.core.ports import AuditEntry
from taskloom.core.settings import AuditSettings, Settings
from taskloom.server.audit import open_log

async def worker(log, name):
    n = 0
    while True:
        request_id = f"{os.getpid()}-{name}-{n}"
        entry = AuditEntry(kind="accepted", request_id=request_id, principal="ada", time_s=time.time(), payload={"n": n})
        receipt = await log.append(entry)
        os.write(1, f"{receipt.sequence} {receipt.digest} {request_id}\\n".encode())
        n += 1

async def main():
    settings = Settings(home=Path(sys.argv[1]), audit=AuditSettings(url=sys.argv[2], payloads="full", checkpoint_every=20))
    log = open_log(settings)
    await asyncio.gather(*(worker(log, i) for i in range(16)))

asyncio.run(main())
"""


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_acknowledged_record_is_lost(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = "" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    home = tmp_path / "home"
    acknowledged = tmp_path / "acknowledged"
    for i in range(6):
        before = acknowledged.stat().st_size if acknowledged.exists() else 0
        with acknowledged.open("ab") as out:
            child = subprocess.Popen([sys.executable, "-c", CHILD, str(home), url], stdout=out)
        give_up = time.monotonic() + 60
        while acknowledged.stat().st_size < before + 2000 * (i + 1):
            assert child.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    settings = Settings(home=home, audit={"url": url})  # type: ignore[arg-type]
    result = verify_log(settings)
    assert result.verified, result.reason
    reader = open_reader(settings)
    there = {record.sequence: f"{record.sequence} {record.digest} {record.request_id}" for record in reader.query()}
    reader.close()
    lines = acknowledged.read_text().splitlines()
    assert len(lines) > 100
    assert [line for line in lines if there.get(int(line.split()[0])) != line] == []
