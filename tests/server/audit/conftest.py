from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.ports import AuditEntry
from taskloom.core.settings import Settings

MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    def make(**audit: Any) -> Settings:
        return Settings(home=tmp_path / "home", audit=audit)

    return make


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def settings(request: pytest.FixtureRequest, make_settings: MakeSettings) -> Settings:
    """Settings for each kind of database, with everything kept and a checkpoint every 5 records."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return make_settings(url=url, payloads="full", checkpoint_every=5)


@pytest.fixture
def entry() -> Callable[..., AuditEntry]:
    def make(kind: str = "accepted", request_id: str = "r1", **changes: Any) -> AuditEntry:
        return AuditEntry.model_validate(
            {
                "kind": kind,
                "request_id": request_id,
                "principal": "ada",
                "model": "intent-en",
                "version": "3",
                "task": "classification",
                "time_s": time.time(),
                "payload": {"text": "my card did not arrive 卡没到"},
                **changes,
            }
        )

    return make
