from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_knowledge import MemoryKnowledge
from served_knowledge import Served, local_client, serving_knowledge

from taskloom.sdk import Client


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The environment says where it is, and has its key."""
    with serving_knowledge() as found:
        monkeypatch.setenv("TASKLOOM_ADDRESS", found.address)
        monkeypatch.setenv("TASKLOOM_API_KEY", "key-all")
        yield found


@pytest.fixture(params=["over gRPC", "in process"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A blocking client of either kind."""
    if request.param == "in process":
        made: Any = local_client(MemoryKnowledge(), tmp_path)
    else:
        made = Client(request.getfixturevalue("served").address, timeout_s=20)
    with made:
        yield made
