"""Answers piece by piece, as the three clients give them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from sdk_writing import WritingGateway, local_client, serve

from taskloom.core.errors import ModelFailedError, OverloadedError, RequestCancelledError, UnavailableError
from taskloom.sdk import AsyncClient, Client, DeadlineExceededError, InvalidInputError, RetryPolicy, TaskloomError

QUICK = RetryPolicy(initial_wait_s=0.01)


@pytest.fixture
def gateway() -> WritingGateway:
    return WritingGateway()


@pytest.fixture
def address(gateway: WritingGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[str]:
    monkeypatch.setenv("TASKLOOM_HOME", str(tmp_path))
    monkeypatch.delenv("TASKLOOM_API_KEY", raising=False)
    server, port = serve(gateway)
    yield f"127.0.0.1:{port}"
    gateway.go_on.set()
    server.stop(None).wait()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, api_key="k", timeout_s=10, retry=QUICK) as made:
        yield made


class Blocking:
    """The blocking client, behind the calls of the asynchronous one."""
