"""The engine: prepares calls, schedules them on the pools, and follows the store as aliases move.

prepare -> Catalogue.prepare      which model and version, is the input valid, what does it cost
run     -> Scheduler.submit       when, with whom, again if a replica dies
        -> Dispatcher.dispatch    to a replica, in process or through Ray
        -> ModelHost.run          the models
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from taskloom.core.ports import PartSink
from taskloom.core.registry import Registry
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef
from taskloom.server.engine.dispatch.protocol import PoolDispatcher
from taskloom.server.engine.scheduler import Scheduler
from taskloom.server.engine.served import Catalogue, PreparedCall, ServedModel, wanted_models
from taskloom.server.engine.spec import DEFAULT_REGISTRY, ModelVersion, ReplicaSpec

log = logging.getLogger(__name__)

REFUSED_S = 60.0
"""How long a version that did not load is left alone: what stood in its way may have passed by then."""


class Ground(Protocol):
    """What dispatchers stand on, such as a cluster: started before them, closed after them."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class _Pool:
    dispatcher: PoolDispatcher
    scheduler: Scheduler


class Engine:
    """Models that answer, in one event loop. `make_dispatcher` makes the dispatcher of a pool."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: ModelStore,
        make_dispatcher: Callable[[ReplicaSpec], PoolDispatcher],
        *,
        ground: Ground | None = None,
        registry_factory: str = DEFAULT_REGISTRY,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._make_dispatcher = make_dispatcher
        self._ground = ground
        self._registry_factory = registry_factory
        self._catalogue = Catalogue(())
        self._pools: dict[str, _Pool] = {}
        self._refused: tuple[ServedModel, ...] = ()
        self._refused_until = 0.0
        self._passed_over: dict[str, str] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        registry: Registry,
        *,
        dispatcher: Literal["ray", "local"] | None = None,
        store: ModelStore | None = None,
        registry_factory: str = DEFAULT_REGISTRY,
    ) -> Engine:
        """The engine that the settings describe, not started yet. `registry_factory` is how a replica's process finds its
        plugins."""
        from taskloom.server.engine.build import build_engine

        return build_engine(settings, registry, dispatcher=dispatcher, store=store, registry_factory=registry_factory)

    # -- life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when every pool can answer. Raises the `TaskloomError` that is in the way; nothing is left running then."""
        wanted = await self._look()
        try:
            if self._ground is not None:
                await self._ground.start()
            for name in sorted({model.pool for model in wanted}):
                await self._open_pool(name, wanted)
        except BaseException:
            await self.close(drain_s=0.0)
            raise
        self._catalogue = Catalogue(wanted)
        self._watcher = asyncio.create_task(self._watch(), name="taskloom-model-watcher")

    async def _open_pool(self, name: str, wanted: Sequence[ServedModel]) -> None:
        pool_settings = self._settings.pools[name]
        spec = ReplicaSpec(
            pool=name,
            models=_versions(wanted, name),
            roots=self._store.roots,
            settings=pool_settings,
            registry_factory=self._registry_factory,
        )
        dispatcher = self._make_dispatcher(spec)
        self._pools[name] = _Pool(dispatcher, Scheduler(dispatcher, pool_settings.batch))
        await dispatcher.start()

    async def close(self, drain_s: float | None = None) -> None:
        """Answers what it has, for at most `drain_s` seconds (`server.drain_s` if None), then stops everything. Safe to call
        twice."""
        if self._closing is None:
            bound = self._settings.server.drain_s if drain_s is None else drain_s
            self._closing = asyncio.create_task(self._close(bound))
        await asyncio.shield(self._closing)

    async def _close(self, drain_s: float) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        pools = list(self._pools.values())
        await asyncio.gather(*(pool.scheduler.close(drain_s) for pool in pools))
        outcomes = await asyncio.gather(*(pool.dispatcher.close() for pool in pools), return_exceptions=True)
        if self._ground is not None:
            await self._ground.close()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                log.error("a pool did not close cleanly", exc_info=outcome)

    # -- calls ------------------------------------------------------------------------------------------------------------

    def prepare(self, call: InferCall) -> PreparedCall:
        """Finds the model, validates and prices the call, without running it. Raises `NotFoundError` for a model or version
        that is not served, `InvalidInputError` for what is wrong with the input or params."""
        return self._catalogue.prepare(call)

    async def run(self, prepared: PreparedCall, send: PartSink | None = None) -> InferResult:
        """The answer to a prepared call; raises the `TaskloomError` that it met. With `send`, the parts of an answer that a
        model writes piece by piece go there first."""
        call = prepared.call
        scheduler = self._pools[prepared.pool].scheduler
        sink = send if prepared.streams else None
        result, timings = await scheduler.submit(prepared.item, prepared.cost, call.priority, call.deadline_s, sink)
        if result.error is not None:
            raise result.error.to_error()
        return InferResult(
            request_id=call.request_id,
            model=call.model.name,
            version=result.version,
            task=prepared.task,
            output=result.output or {},
            timings=timings,
        )

    async def infer(self, call: InferCall, send: PartSink | None = None) -> InferResult:
        """`prepare` and `run`."""
        return await self.run(self.prepare(call), send)

    # -- what is here -----------------------------------------------------------------------------------------------------

    def models(self) -> Sequence[ModelInfo]:
        """What is served; `ready` says whether a replica can answer now."""
        return [model.artifact.info(self._ready(model)) for model in self._catalogue.models]

    def describe(self, ref: ModelRef) -> ModelDescription:
        """What a served model takes and gives."""
        return self._catalogue.describe(ref, self._ready(self._catalogue.find(ref)))

    def health(self) -> Mapping[str, bool]:
        """By model name, whether a replica can answer now; the empty name is all of them together."""
        by_name = {model.name: self._ready(model) for model in self._catalogue.models}
        return {"": bool(by_name) and self._closing is None and all(by_name.values()), **by_name}

    def _ready(self, model: ServedModel) -> bool:
        """A pool that may go down to no replica is ready without one: the next request brings one up."""
        autoscale = self._settings.pools[model.pool].autoscale
        return self._pools[model.pool].dispatcher.replicas() > 0 or (autoscale is not None and autoscale.min_replicas == 0)

    # -- following the store ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.server.model_poll_s)
            try:
                await self.refresh()
            except Exception as exc:
                log.error("the models being served stay as they are: %s", exc)

    async def _look(self) -> tuple[ServedModel, ...]:
        passed_over: dict[str, str] = {}
        wanted = await asyncio.to_thread(wanted_models, self._settings, self._registry, self._store, passed_over)
        for name, reason in passed_over.items():
            if self._passed_over.get(name) != reason:
                log.warning("model %s is not served: %s", name, reason)
        self._passed_over = passed_over
        return wanted

    async def refresh(self) -> None:
        """Serves what the store means now: rolls the pools whose aliases have moved. If a version does not load, this raises
        why, the old one goes on, and the new one is not tried again before the store changes or `REFUSED_S` have passed. Pools
        that rolled are served as they are now, whatever becomes of the others."""
        wanted = await self._look()
        now = asyncio.get_running_loop().time()
        if wanted == self._catalogue.models or (wanted == self._refused and now < self._refused_until):
            return
        failures: list[Exception] = []
        for name, pool in self._pools.items():
            versions = _versions(wanted, name)
            try:
                if versions and versions != _versions(self._catalogue.models, name):
                    log.info("pool %s goes over to %s", name, ", ".join(map(str, versions)))
                    await pool.dispatcher.roll(versions)
            except Exception as exc:
                failures.append(exc)
            else:
                others = [model for model in self._catalogue.models if model.pool != name]
                self._catalogue = Catalogue([*others, *(model for model in wanted if model.pool == name)])
        self._refused, self._refused_until = (wanted, now + REFUSED_S) if failures else ((), 0.0)
        if failures:
            raise failures[0]
        self._catalogue = Catalogue([model for model in wanted if model.pool in self._pools])


def _versions(models: Sequence[ServedModel], pool: str) -> tuple[ModelVersion, ...]:
    return tuple(model.version for model in models if model.pool == pool)
