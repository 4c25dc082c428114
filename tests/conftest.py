"""What every test gets: no network beyond loopback, a home of its own, and no settings from outside."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A deadline measures how busy the machine is.
settings.register_profile("taskloom", deadline=None)
settings.load_profile("taskloom")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            raise AssertionError(f"a test tried to reach {address!r}; only loopback is allowed")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith("TASKLOOM_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("TASKLOOM_HOME", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def fp32() -> Iterator[None]:
    """The same precision on every processor: what the tests train and compare in this process is in fp32. Tests of bf16 ask for
    it by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskloom.plugins.runtimes.machine.BF16_FLAGS", ())
        yield
