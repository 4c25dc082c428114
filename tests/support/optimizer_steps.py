"""Optimizing small models in tests: a published parent, one chain of steps, and what comes out of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from taskloom.core.artifact import Artifact, DataInfo, Manifest
from taskloom.core.loader import load_registry
from taskloom.core.optimizing import Optimizing, StepRequest
from taskloom.core.predictor import Predictor, load_predictor
from taskloom.core.publishing import write_model
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, TrainRun

FP32 = RuntimeConfig(runtime="torch", precision="fp32", device="cpu", threads=1)


def registry() -> Any:
    return load_registry()


def published(task: str, model: Any, folder: Path, name: str = "small", data: Sequence[DataInfo] = ()) -> Artifact:
    """A model as an artifact that can be loaded."""
    store = ModelStore([folder])
    with store.draft(name) as draft:
        config = write_model(draft, model, {})
        manifest = Manifest(
            model=name,
            version="draft",
            task=task,
            created="2026-01-01T00:00:00Z",
            backbone=model.backbone,
            config=config,
            labels=model.labels,
            data=tuple(data),
        )
        return store.publish(draft, manifest, (), reason="test")


class Steps:
    """Runs chains on one parent; steps find other models in the store that it is in."""

    def __init__(self, parent: Artifact, rows: Sequence[Example[Any]], folder: Path, held: Sequence[Example[Any]] = ()) -> None:
        self.registry = registry()
        self.store = ModelStore([parent.folder.parent.parent])
        self.parent = parent
        self.folder = folder
        self.rows = rows
        self.held = held

    def optimizing(self, on_event: Callable[[Mapping[str, Any]], None] = lambda _: None) -> Optimizing:
        run = TrainRun(self.folder, show_progress=False, on_event=on_event)
        return Optimizing(
            self.registry,
            self.parent,
            train=self.rows,
            validation=self.held or self.rows[:8],
            identity=["rows"],
            run=run,
            runtime=FP32,
            resolve=self.store.resolve,
        )

    def run(self, name: str, **config: Any) -> Any:
        """The chain of one step."""
        return self.optimizing().run([StepRequest(name=name, config=config)])

    def predictor(self, model: Any, folder: Path) -> Predictor[Any, Any, Any]:
        """What a server would answer with: the model saved and read again."""
        return load_predictor(self.registry, published(self.parent.manifest.task, model, folder), FP32)


def shuffled_words(words: Sequence[str], count: int, length: int, seed: int) -> list[str]:
    """Texts of random words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(list(words), k=length)) for _ in range(count)]
