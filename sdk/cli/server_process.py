"""A gateway in a process of its own, for commands that need one for a while."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from taskloom.core.errors import UnavailableError

STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RunningServer:
    """A gateway that is ready. `home` holds its state: keys, audit log, logs."""

    address: str
    api_key: str
    home: Path
    log: Path
    pid: int

    def run(self, *arguments: str) -> Any:
        """Runs a `taskloom` command on the server's home; returns the JSON that it prints, whatever its exit status."""
        return json.loads(self._output(arguments))

    def rows(self, *arguments: str) -> list[Any]:
        """As `run`, for commands that print one JSON object a line."""
        return [json.loads(line) for line in self._output(arguments).splitlines()]

    def _output(self, arguments: Sequence[str]) -> str:
        done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
            [*taskloom_command(self.home), *arguments, "--json"], capture_output=True, text=True, check=False
        )
        if not done.stdout.strip():
            raise UnavailableError(f"`taskloom {' '.join(arguments)}` failed: {done.stderr.strip()}")
        return done.stdout


def taskloom_command(home: Path) -> list[str]:
    return [sys.executable, "-m", "taskloom.sdk.cli.main", "--home", str(home)]


@contextmanager
def running_server(
    models: Sequence[str] = (),
    *,
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
    start_timeout_s: float = 300.0,
) -> Iterator[RunningServer]:
    """Starts `taskloom serve` on a free port of loopback; stops it, and all it started, at the end, which may be that of this
    process. With no `home` it gets an empty one, which is removed.

    Raises `UnavailableError` with the end of its log if it does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="taskloom-", ignore_cleanup_errors=True) as folder:
        home = home or Path(folder)
        log = home / "serve.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [*taskloom_command(home), "serve", *models, "--port", "0", "--until-eof", "--json"],
                stdin=subprocess.PIPE,  # closed by the system if this process dies, so that nothing outlives it
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        try:
            ready = _ready_line(process, log, start_timeout_s)
            key = Path(ready["key_file"]).read_text(encoding="utf-8").strip()
            yield RunningServer(ready["address"], key, home, log, process.pid)
        finally:
            _stop(process)


def _ready_line(process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> dict[str, Any]:
    """The one line that `taskloom serve --json` prints when it can answer."""
    assert process.stdout is not None
    lines: list[bytes] = []
    reader = threading.Thread(target=_read_line, args=(process.stdout, lines), daemon=True)
    reader.start()
    reader.join(timeout_s)
    if not lines or not lines[0].strip():
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        ended = process.poll()
        what = f"was not ready within {timeout_s:.0f} s" if ended is None else f"ended with status {ended}"
        raise UnavailableError("\n".join([f"the server {what}; the end of its log:", *(tail or ["(empty)"])]))
    ready: dict[str, Any] = json.loads(lines[0])
    return ready


def _read_line(stream: IO[bytes], lines: list[bytes]) -> None:
    lines.append(stream.readline())


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
