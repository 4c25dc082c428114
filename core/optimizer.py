"""The optimizer contract: an artifact's model in, a smaller or faster one out, whatever the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from taskloom.core.artifact import Artifact
from taskloom.core.task import Example, TaskModel, TaskPlugin, TrainRun


@dataclass(frozen=True)
class OptimizeContext:
    """What an optimizer may use: the parent, its task, and data. `train` is for recovery training and calibration,
    `validation` for choosing; the rows that the report is made from are never handed to an optimizer."""

    task: TaskPlugin[Any, Any, Any]
    parent: Artifact
    train: Sequence[Example[Any]]
    validation: Sequence[Example[Any]]
    run: TrainRun


@dataclass(frozen=True)
class Optimized:
    """What an optimizer returns. `files` are what a runtime needs beside the weights (name in the artifact -> path);
    `runtime` is the runtime that must serve it, None for any."""

    model: TaskModel[Any, Any, Any]
    facts: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    runtime: str | None = None


class OptimizerPlugin(ABC):
    """An optimizer, as the registry knows it. It names no task: what it needs of a model is in `TaskModel`."""

    name: ClassVar[str]
    description: ClassVar[str]
    Config: type[BaseModel]
    """What a user may set; every field has a default."""

    @abstractmethod
    def check(self, task: TaskPlugin[Any, Any, Any], artifact: Artifact) -> None:
        """Raises `UnsupportedError`, with the reason, where this optimizer makes no sense for the artifact."""

    @abstractmethod
    def apply(self, model: TaskModel[Any, Any, Any], config: Any, context: OptimizeContext) -> Optimized:
        """The optimized model; `model` may be changed in place. `config` is a `Config`."""
