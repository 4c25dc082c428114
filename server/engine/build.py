"""Puts an engine together from the settings."""

from __future__ import annotations

from typing import Literal

from taskloom.core.registry import Registry
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore, open_store
from taskloom.server.engine.dispatch.local import LocalDispatcher
from taskloom.server.engine.dispatch.protocol import PoolDispatcher
from taskloom.server.engine.engine import Engine
from taskloom.server.engine.spec import DEFAULT_REGISTRY, ReplicaSpec


def build_engine(
    settings: Settings,
    registry: Registry,
    *,
    dispatcher: Literal["ray", "local"] | None = None,
    store: ModelStore | None = None,
    registry_factory: str = DEFAULT_REGISTRY,
) -> Engine:
    """An engine with the dispatcher that is asked for, else the one in the settings. Ray is imported only for its own."""
    found = store or open_store(settings.models_folder)
    if (dispatcher or settings.server.dispatcher) == "local":

        def local(spec: ReplicaSpec) -> PoolDispatcher:
            return LocalDispatcher(spec, registry, found)

        return Engine(settings, registry, found, local, registry_factory=registry_factory)

    from taskloom.server.engine.cluster import RayCluster
    from taskloom.server.engine.dispatch.ray_serve import RayDispatcher

    cluster = RayCluster(settings)

    def ray(spec: ReplicaSpec) -> PoolDispatcher:
        return RayDispatcher(spec, cluster, registry)

    return Engine(settings, registry, found, ray, ground=cluster, registry_factory=registry_factory)
