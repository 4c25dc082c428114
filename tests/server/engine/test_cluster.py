"""Private Ray clusters of one process, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskloom.core.settings import Settings
from taskloom.server.engine.cluster import TOKEN_FILE, RayCluster

pytestmark = [pytest.mark.integration, pytest.mark.asyncio, pytest.mark.timeout(180)]


async def test_a_process_may_serve_one_home_after_another(tmp_path: Path) -> None:
    tokens = set()
    for name in ("first", "second"):
        home = tmp_path / name
        home.mkdir()
        cluster = RayCluster(Settings(home=home))
        try:
            await cluster.start()
        finally:
            await cluster.close()
        tokens.add((home / TOKEN_FILE).read_text())
    assert len(tokens) == 2, "each home has a token of its own"


async def test_gateways_that_share_a_cluster_do_not_share_names(tmp_path: Path) -> None:
    for home in ("a", "b"):
        (tmp_path / home).mkdir()
    names = {RayCluster(Settings(home=tmp_path / home)).owner for home in ("a", "b", "a")}
    assert len(names) == 2
