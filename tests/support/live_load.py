"""Load through the real path, and the processes that it meets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import pytest

from taskloom.sdk import Client
from taskloom.sdk.cli.server_process import RunningServer

QUESTIONS = (
    "I lost my card on the train.",
    "Why was I charged twice for the same thing? I only bought one coffee, and the shop says it was a single payment.",
    "exchange rate",
    "How do I change my PIN?",
)


@dataclass
class Load:
    """What callers in threads of their own have seen so far."""

    answered: int = 0
    failures: list[Exception] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)


@contextmanager
def under_load(server: RunningServer, callers: int, model: str = "intent-en", timeout_s: float = 60.0) -> Iterator[Load]:
    """`callers` callers with the SDK's defaults, each asking again as soon as it is answered, until the block ends. A caller
    who fails stops."""
    load, stop, lock = Load(), threading.Event(), threading.Lock()

    def caller(index: int) -> None:
        with Client(server.address, api_key=server.api_key, timeout_s=timeout_s) as client:
            turn = index
            while not stop.is_set():
                try:
                    result = client.classify(QUESTIONS[turn % len(QUESTIONS)], model=model)
                except Exception as exc:
                    with lock:
                        load.failures.append(exc)
                    return
                with lock:
                    load.answered += 1
                    load.request_ids.append(result.request_id)
                turn += 1

    threads = [threading.Thread(target=caller, args=(index,)) for index in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)


def wait_until(true: Callable[[], bool], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come within {timeout_s:.0f} s")
        time.sleep(0.1)


def replica_processes(server: RunningServer) -> list[psutil.Process]:
    """The Ray workers of this server that hold models."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        told = " ".join(process.info["cmdline"] or [])
        if told.startswith("ray::ServeReplica") and _descends_from(process, server.pid):
            found.append(process)
    return found


def _descends_from(process: psutil.Process, ancestor: int) -> bool:
    try:
        return any(parent.pid == ancestor for parent in process.parents())
    except psutil.NoSuchProcess:
        return False
