"""A process beside this one for what hostile files could do harm with: endless loops, memory, defects of C libraries."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from taskloom.core.errors import MissingDependencyError

WORKER = "taskloom.plugins.retrieval.documents.worker"
STILL = 10.0
"""So many times its processor time a file may take by the clock: a machine with much to do refuses nothing for it."""
CHUNK_BYTES = 1 << 20


class Refusal(Exception):
    """A file that was not read. Its message is the reason, for people."""


class IsolatedReader:
    """A context manager. Reads HTML, Markdown and PDF files in a process that may take `memory_bytes`, and `seconds` of
    processor time for each; it is started for the first file, and again when a file was the end of it."""

    def __init__(self, memory_bytes: int, seconds: int, most_characters: int) -> None:
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._most_characters = most_characters
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path, kind: str) -> Mapping[str, str]:
        """`text`, `title` and `language` of a file. Raises `Refusal`, and `MissingDependencyError` without its libraries."""
        process = self._process or self._started()
        assert process.stdin is not None
        request = {"path": str(path), "kind": kind, "most_characters": self._most_characters}
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = self._line(process)
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise Refusal(self._end())
        found: dict[str, str] = json.loads(line)
        if "missing" in found:
            raise MissingDependencyError(f"{path.name} needs {found['missing']}: pip install 'taskloom[local]'")
        if "refused" in found:
            raise Refusal(found["refused"])
        return found

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", WORKER, str(self._memory_bytes), str(self._seconds)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0)  # noqa: S603
        return self._process

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        """A reply, or as much of it as there is when the process ends or the time is up."""
        assert process.stdout is not None
        deadline = time.monotonic() + STILL * self._seconds
        parts: list[bytes] = []
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                part = os.read(process.stdout.fileno(), CHUNK_BYTES)
                parts.append(part)
                if not part or part.endswith(b"\n"):
                    break
        return b"".join(parts)

    def _end(self) -> str:
        """Ends the process and says why it gave no answer."""
        process, self._process = self._process, None
        assert process is not None
        try:
            code = process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return f"reading it takes more than {STILL * self._seconds:.0f} s"
        finally:
            _stop(process)
        if code == -signal.SIGXCPU:
            return f"reading it takes more than {self._seconds} s of processor time"
        if code < 0:
            return f"it makes its reader fail ({signal.Signals(-code).name}), or takes more than {self._memory_bytes >> 20} MiB"
        return f"it makes its reader fail (exit status {code}), or takes more than {self._memory_bytes >> 20} MiB"

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _stop(process)

    def __enter__(self) -> IsolatedReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
