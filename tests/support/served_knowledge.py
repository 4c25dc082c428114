"""A gateway with a knowledge engine in memory, in a loop of its own thread; and the same engine in process."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripted_knowledge import MemoryKnowledge

from taskloom.core.hookspecs import hookimpl
from taskloom.core.loader import load_registry
from taskloom.core.settings import load_settings
from taskloom.sdk import LocalClient

FAKES = Path(__file__).parents[1] / "server" / "gateway" / "fakes"
if str(FAKES) not in sys.path:
    sys.path.insert(0, str(FAKES))

from gateway_fakes import MemoryAudit, running_gateway  # noqa: E402


@dataclass
class Served:
    address: str
    engine: MemoryKnowledge
    audit: MemoryAudit


@contextmanager
def serving_knowledge() -> Iterator[Served]:
    """Its key with every role is `key-all`."""
    loop, ended, found = asyncio.new_event_loop(), asyncio.Event(), []
    ready = threading.Event()

    async def run() -> None:
        engine = MemoryKnowledge()
        async with running_gateway(knowledge=engine) as running:
            found.append(Served(running.address, engine, running.audit))
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield found[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(30)
    loop.close()


class SilentModels:
    """An engine of models that nobody asks."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...


class KnowledgeHook:
    def __init__(self, engine: MemoryKnowledge | None) -> None:
        self.engine = engine

    @hookimpl
    def open_local_engine(self, settings: Any, registry: Any) -> SilentModels:
        return SilentModels()

    @hookimpl
    def open_knowledge(self, settings: Any, registry: Any, engine: Any) -> MemoryKnowledge | None:
        return self.engine


def local_client(engine: MemoryKnowledge | None, home: Path, timeout_s: float = 5.0) -> LocalClient:
    registry = load_registry([])
    assert registry.hooks is not None
    registry.hooks.register(KnowledgeHook(engine))
    client = LocalClient(load_settings(overrides={"home": str(home)}), registry, timeout_s=timeout_s)
    client.start()
    return client
