"""What a replica is told: which models to hold, where they lie, and how to run them. Small and picklable, so that it can
be sent to another process, which then builds its own registry and store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import cast

from taskloom.core.registry import Registry
from taskloom.core.settings import PoolSettings
from taskloom.core.store import ModelStore
from taskloom.core.types import ModelRef

DEFAULT_REGISTRY = "taskloom.core.loader:load_registry"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Exactly one artifact."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True)
class ReplicaSpec:
    """A pool's replicas. `registry_factory` is `module:function`, imported in the replica's process."""

    pool: str
    models: tuple[ModelVersion, ...]
    roots: tuple[Path, ...]
    settings: PoolSettings = field(default_factory=PoolSettings)
    registry_factory: str = DEFAULT_REGISTRY

    def registry(self) -> Registry:
        module, _, function = self.registry_factory.partition(":")
        return cast(Callable[[], Registry], getattr(import_module(module), function))()

    def store(self) -> ModelStore:
        return ModelStore(self.roots)

    def tasks(self) -> set[str]:
        """The tasks of the models, as their manifests say."""
        store = self.store()
        refs = [ModelRef(name=wanted.model, version=wanted.version) for wanted in self.models]
        return {store.resolve(ref).manifest.task for ref in refs}
