"""The optimizer contract: an artifact's model in, a smaller or faster one out, whatever the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from taskloom.core.artifact import Artifact, BackboneInfo, DataInfo
from taskloom.core.errors import UnsupportedError
from taskloom.core.task import Example, TaskModel, TaskPlugin, TrainRun


@dataclass(frozen=True)
class Optimized:
    """What an optimizer returns. `facts` are JSON data for the lineage. `files` are what a runtime needs beside the model's own
    files (name in the artifact -> path); `runtime` is the one that must serve it, empty for any. With `external`, `files` hold
    the weights of the model's graph, and the model saves itself without them (`TaskModel.save_rest`)."""

    model: TaskModel[Any, Any, Any]
    facts: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    runtime: str = ""
    external: bool = False


@dataclass(frozen=True)
class Pretrained:
    """A pretrained encoder. `data` are the files that it is known to have been trained on: of a published model's, that
    model's."""

    info: BackboneInfo
    data: tuple[DataInfo, ...] = ()


Describe = Callable[[str, Sequence[Path]], Pretrained]
"""Finds a pretrained encoder by its name; the paths are the roots of the store whose models the name may mean. Raises
`NotFoundError` for a name that nothing answers to."""


def no_encoders(name: str, _: Sequence[Path]) -> Pretrained:
    """Where settings name encoders, and nothing says how to find them."""
    raise UnsupportedError(f"encoder {name!r} can't be looked up: its optimizer does not say how (`Needs.describe`)")


@dataclass(frozen=True)
class Needs:
    """What a step's settings name beside the rows that its chain has: published models (NAME or NAME@VERSION), files, and
    pretrained encoders, which `describe` finds. What these hold is part of what the step is, so one that was kept is not taken
    for another's."""

    models: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    backbones: tuple[str, ...] = ()
    describe: Describe = no_encoders

    def pretrained(self, roots: Sequence[Path]) -> tuple[Pretrained, ...]:
        """The encoders, looked for in the store with these roots as well."""
        return tuple(self.describe(name, roots) for name in self.backbones)

    @property
    def places(self) -> frozenset[Path]:
        """Files, and folders of encoders, as the settings name them."""
        return frozenset((*self.files, *map(Path, self.backbones)))


def no_store(model: str) -> Artifact:
    """Where a chain was given no way to find models."""
    raise UnsupportedError(f"model {model!r} can't be looked up here: this chain was given no store. Name only its own parent")


@dataclass(frozen=True)
class OptimizeContext:
    """What an optimizer may use. `parent` is the published model that the whole chain of steps began with: a teacher, and what
    will be compared with. `train` is for recovery training and calibration, `validation` for choosing; the rows that the report
    is made from are never handed to an optimizer.

    `run.work_folder` belongs to this step alone: checkpoints and caches in it are found again if the step is interrupted.
    """

    task: TaskPlugin[Any, Any, Any]
    parent: Artifact
    train: Sequence[Example[Any]]
    validation: Sequence[Example[Any]]
    run: TrainRun
    score: Callable[[Optimized], Mapping[str, float]]
    """Every metric of the task on `validation`, of the model as it would be published: saved, read again, run by its
    runtime."""
    resolve: Callable[[str], Artifact] = no_store
    """A published model by NAME or NAME@VERSION, its files verified; raises `NotFoundError` for one that isn't there. For what
    `OptimizerPlugin.needs` said, and nothing else."""


class OptimizerPlugin(ABC):
    """An optimizer, as the registry knows it. It names no task: what it needs of a model is in `TaskModel`."""

    name: ClassVar[str]
    description: ClassVar[str]
    Config: type[BaseModel]
    """What a user may set; every field has a default."""

    def needs(self, config: Any) -> Needs:
        """What the settings (a `Config`) name beside the chain's own model and rows; nothing by default."""
        return Needs()

    @abstractmethod
    def check(self, task: TaskPlugin[Any, Any, Any], artifact: Artifact, config: Any) -> None:
        """Raises `UnsupportedError`, with the reason, where this optimizer makes no sense for the artifact. Called with each
        artifact that a step is given, so an optimizer that can't follow another says so here. Imports nothing heavy."""

    @abstractmethod
    def apply(self, model: TaskModel[Any, Any, Any], config: Any, context: OptimizeContext) -> Optimized:
        """The optimized model; `model`, which was read for this step alone, may be changed in place. `config` is a `Config`."""
