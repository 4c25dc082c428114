"""What a pool leaves on a cluster that others use as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.errors import UnavailableError
from taskloom.core.registry import Registry
from taskloom.server.engine.dispatch.ray_serve import RayDispatcher
from taskloom.server.engine.spec import ReplicaSpec


class Joined:
    """A cluster of others on which nothing can be placed. `private` is false as for one that was joined."""

    private = False
    owner = "ours"

    async def run(self, call: Callable[[], Any]) -> Any:
        return call()


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RayDispatcher, list[str]]:
    dispatcher = RayDispatcher(ReplicaSpec("default", (), (tmp_path,)), Joined(), Registry())  # type: ignore[arg-type]
    told: list[str] = []

    def full(*_: Any) -> None:
        told.append("sent")
        raise UnavailableError("no room")

    monkeypatch.setattr(dispatcher, "_send_deployment", full)
    monkeypatch.setattr(dispatcher, "_delete", lambda: told.append("deleted"))
    return dispatcher, told


async def test_a_pool_that_could_not_start_is_taken_off_the_cluster_once(pool: tuple[RayDispatcher, list[str]]) -> None:
    dispatcher, told = pool
    with pytest.raises(UnavailableError, match="no room"):
        await dispatcher.start()
    await dispatcher.close()
    await dispatcher.close()
    assert told == ["sent", "deleted"]


async def test_a_pool_that_was_never_sent_deletes_nothing(pool: tuple[RayDispatcher, list[str]]) -> None:
    dispatcher, told = pool
    await dispatcher.close()
    assert told == []
