"""The composition root of the server: builds what serves, starts it in order, and closes it in reverse."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pluggy

from taskloom.core.errors import ConfigError, TaskloomError
from taskloom.core.hookspecs import RequestEvent
from taskloom.core.knowledge_calls import KnowledgeEngine
from taskloom.core.loader import load_registry
from taskloom.core.ports import AuditEntry, AuditLog, InferenceEngine
from taskloom.core.preflight import check_settings
from taskloom.core.registry import Registry
from taskloom.core.settings import Settings
from taskloom.core.store import open_store
from taskloom.core.types import Frozen
from taskloom.server.audit import open_log
from taskloom.server.auth.keys import Authenticator, KeyStore, open_keys
from taskloom.server.engine.engine import Engine
from taskloom.server.gateway.caller import current_request_id
from taskloom.server.gateway.server import Gateway, join_address
from taskloom.server.knowledge.service import KnowledgeService
from taskloom.server.ledger import Observer
from taskloom.server.memory import settle_memory
from taskloom.server.service import InferenceService
from taskloom.server.telemetry.logs import logging_to

log = logging.getLogger(__name__)

HEALTH_PERIOD_S = 1.0

OPERATOR = "system"
"""Who starts and stops the server, in the audit log."""


class ServerAddress(Frozen):
    """Where a server answers that is ready, and what a first client needs. `key_file` holds the key that was made at the
    first start; it is None where there is no such file."""

    host: str
    port: int
    tls: bool
    models: tuple[str, ...]
    key_file: Path | None

    @property
    def address(self) -> str:
        """As gRPC clients take it."""
        return join_address(self.host, self.port)


async def serve(
    settings: Settings,
    *,
    on_ready: Callable[[ServerAddress], None] | None = None,
    stop: asyncio.Event | None = None,
    lifeline: int | None = None,
    registry: Registry | None = None,
) -> None:
    """Serves until `stop` is set; without one, until SIGTERM or SIGINT, or until the pipe `lifeline` (a file descriptor to read
    from) is closed at its other end. Calls that were accepted by then are answered.

    Raises the `TaskloomError` that keeps it from starting; what had been started is closed then.
    """
    with logging_to(settings.telemetry, current_request_id):
        async with AsyncExitStack() as closing:
            stop = stop or closing.enter_context(_stopped_from_outside(lifeline))
            if await _until(stop, _start(settings, registry, closing, on_ready)):
                await stop.wait()
                log.info("draining: accepted calls are answered, for at most %g s", settings.server.drain_s)
        log.info("stopped")


async def _start(
    settings: Settings,
    registry: Registry | None,
    closing: AsyncExitStack,
    on_ready: Callable[[ServerAddress], None] | None,
) -> None:
    """Everything that opens puts its end on `closing`; it closes from the last to the first: the gateway drains, then late
    records are written, the models go, and the audit log ends with its checkpoint."""
    began = time.perf_counter()
    registry, store = registry or load_registry(), open_store(settings.models_folder)
    check_settings(settings, registry, store)
    _make_home(settings.home)
    keys, first_key = await asyncio.to_thread(_open_keys, settings)
    closing.callback(keys.close)
    audit = await asyncio.to_thread(open_log, settings)
    closing.push_async_callback(audit.close)
    if first_key is not None:
        await _record_first_key(audit, keys, first_key, settings)
    engine = Engine.from_settings(settings, registry, store=store)
    closing.push_async_callback(engine.close)
    bases = open_bases(settings, registry, engine)
    if bases is not None:
        closing.push_async_callback(bases.close)
    service = InferenceService(engine, audit, settings.server, observers=observers_of(registry))
    closing.push_async_callback(service.close)
    knowledge = KnowledgeService(bases, service.admission, service.ledger) if bases is not None else None
    authenticator = Authenticator(keys, settings.auth.cache_s)
    gateway = Gateway(service, authenticator, settings.server, settings.tls, knowledge)
    closing.push_async_callback(gateway.drain, settings.server.drain_s)

    port = await gateway.start()
    await engine.start()
    models = tuple(f"{info.name}@{info.version}" for info in engine.models())
    address = ServerAddress(
        host=settings.server.host,
        port=port,
        tls=settings.tls.enabled,
        models=models,
        key_file=_key_file(settings),
    )
    # A log that can't be written is found here, not by the first caller.
    await audit.append(_event("server.start", {"address": address.address, "models": list(models)}))
    service.open()
    await gateway.report(serving=True)
    closing.push_async_callback(_record_stop, audit)
    closing.push_async_callback(_ended, asyncio.create_task(_follow_health(engine, gateway), name="taskloom-health"))
    settle_memory()
    log.info("ready on %s after %.1f s: %s", address.address, time.perf_counter() - began, ", ".join(models))
    if on_ready is not None:
        on_ready(address)


def open_bases(settings: Settings, registry: Registry, engine: InferenceEngine) -> KnowledgeEngine | None:
    """The knowledge bases that a plugin keeps, over the models of `engine`; None if no plugin keeps any."""
    if registry.hooks is None:
        return None
    found: KnowledgeEngine | None = registry.hooks.hook.open_knowledge(settings=settings, registry=registry, engine=engine)
    return found


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ConfigError(
            f"the home folder {home} can't be made ({exc.strerror}); set TASKLOOM_HOME, or give --home, a folder of yours"
        ) from exc


def _open_keys(settings: Settings) -> tuple[KeyStore, AuditEntry | None]:
    """The key store with at least one key in it, and what to record if that was made now."""
    keys = open_keys(settings)
    try:
        if keys.ensure_first_key(settings.home) is None:
            return keys, None
        first = keys.list()[0]
    except BaseException:
        keys.close()
        raise
    log.info("made the first key, %s; its secret is in %s", first.key_id, _key_file(settings))
    facts = {"name": first.name, "roles": list(first.roles), "models": list(first.models)}
    return keys, _event("key.create", facts, key_id=first.key_id)


async def _record_first_key(audit: AuditLog, keys: KeyStore, entry: AuditEntry, settings: Settings) -> None:
    """A key without a record must not live: if the log can't take it, the next start makes another."""
    try:
        await audit.append(entry)
    except TaskloomError:
        await asyncio.to_thread(keys.discard, entry.key_id)
        (settings.home / "key").unlink(missing_ok=True)
        raise


def _key_file(settings: Settings) -> Path | None:
    path = settings.home / "key"
    return path if path.is_file() else None


def _event(action: str, facts: Mapping[str, Any], key_id: str = "") -> AuditEntry:
    return AuditEntry(kind="event", action=action, principal=OPERATOR, key_id=key_id, time_s=time.time(), facts=facts)


async def _follow_health(engine: Engine, gateway: Gateway) -> None:
    """Health checks fail while a pool has no replica, so that a load balancer sends callers elsewhere meanwhile."""
    while True:
        await asyncio.sleep(HEALTH_PERIOD_S)
        await gateway.report(serving=engine.health()[""])


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _record_stop(audit: AuditLog) -> None:
    """That the end was asked for. A log that can't take it holds up nobody: what callers are owed matters more."""
    try:
        await audit.append(_event("server.stop", {}))
    except TaskloomError as error:
        log.error("that the server stops is not recorded: %s", error)


def observers_of(registry: Registry) -> list[Observer]:
    """Every plugin's `observe_request`, each on its own, so that one that fails keeps nothing from the others."""
    if registry.hooks is None:
        return []
    return [_observer(hook) for hook in registry.hooks.hook.observe_request.get_hookimpls()]


def _observer(hook: pluggy.HookImpl) -> Observer:
    takes_event = "event" in hook.argnames

    def observe(event: RequestEvent) -> None:
        hook.function(event) if takes_event else hook.function()

    return observe


async def _until(stop: asyncio.Event, start: Coroutine[Any, Any, None]) -> bool:
    """Whether `start` finished before `stop` was set; if not, it is cancelled."""
    starting, stopping = asyncio.create_task(start), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
        return starting.done()
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


@contextmanager
def _stopped_from_outside(lifeline: int | None) -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set, and the end of what can be read from `lifeline`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read(descriptor: int) -> None:
        with suppress(OSError):
            if os.read(descriptor, 4096):
                return
        loop.remove_reader(descriptor)
        log.info("whoever started this has gone")
        stop.set()

    if lifeline is not None:
        try:
            loop.add_reader(lifeline, read, lifeline)
        except PermissionError as exc:
            raise ConfigError("stdin is a file, whose end says nothing; give --until-eof a pipe") from exc
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        if lifeline is not None:
            loop.remove_reader(lifeline)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
