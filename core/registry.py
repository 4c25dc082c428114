"""The registry: plugins in, by name out. It is built once, by `loader.load_registry`, and handed down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import pluggy
from pydantic import BaseModel

from taskloom.core.errors import AlreadyExistsError, PluginError, unknown_name
from taskloom.core.hookspecs import CommandSpec
from taskloom.core.knowledge import RetrieverPlugin
from taskloom.core.optimizer import OptimizerPlugin
from taskloom.core.runtime import RuntimePlugin
from taskloom.core.task import TaskPlugin
from taskloom.core.types import NAME_PATTERN, Frozen


class Named(Protocol):
    @property
    def name(self) -> str: ...


P = TypeVar("P", bound=Named)


class Shelf(Generic[P]):
    """The plugins of one kind, by name, each with its owner (the entry point that brought it)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, P] = {}
        self._owners: dict[str, str] = {}

    def add(self, item: P, owner: str) -> None:
        if item.name in self._items:
            raise AlreadyExistsError(
                f"two plugins bring a {self.kind} named {item.name!r}: {self._owners[item.name]} and {owner}; "
                f"uninstall one or rename its {self.kind}"
            )
        self._items[item.name] = item
        self._owners[item.name] = owner

    def get(self, name: str) -> P:
        if name not in self._items:
            raise unknown_name(self.kind, name, self._items, "`taskloom plugin list` shows what is loaded.")
        return self._items[name]

    def owner(self, name: str) -> str:
        return self._owners[self.get(name).name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[P]:
        return (self._items[name] for name in sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)


class PluginReport(Frozen):
    """How the loading of one entry point went. `error` is empty if it is in use."""

    owner: str
    distribution: str
    version: str
    builtin: bool
    provides: tuple[str, ...] = ()
    error: str = ""


def _check_task(task: TaskPlugin[Any, Any, Any]) -> None:
    """What would otherwise be found out when the task is first used, or never."""
    for part in ("Input", "Output", "Params", "TrainConfig"):
        schema = getattr(task, part, None)
        if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
            raise PluginError(f"{part} of task {task.name!r} is {schema!r}; it must be a pydantic model")
    metrics = [metric.name for metric in task.metrics]
    if task.primary_metric not in metrics:
        raise PluginError(
            f"the primary metric of task {task.name!r} is {task.primary_metric!r}, and its metrics are: {', '.join(metrics)}"
        )
    fields = task.Input.model_fields
    if task.text_field is not None and task.text_field not in fields:
        raise PluginError(
            f"the text field of task {task.name!r} is {task.text_field!r}, and its input has: {', '.join(fields)}"
        )


@dataclass
class Registry:
    """Everything that plugins brought, and how each plugin's loading went."""

    tasks: Shelf[TaskPlugin[Any, Any, Any]] = field(default_factory=lambda: Shelf("task"))
    optimizers: Shelf[OptimizerPlugin] = field(default_factory=lambda: Shelf("optimizer"))
    runtimes: Shelf[RuntimePlugin] = field(default_factory=lambda: Shelf("runtime"))
    retrievers: Shelf[RetrieverPlugin] = field(default_factory=lambda: Shelf("retriever"))
    commands: Shelf[CommandSpec] = field(default_factory=lambda: Shelf("command"))
    reports: list[PluginReport] = field(default_factory=list)
    hooks: pluggy.PluginManager | None = None

    def shelves(self) -> dict[str, Shelf[Any]]:
        """By the name of the hook that fills each."""
        return {
            "register_tasks": self.tasks,
            "register_optimizers": self.optimizers,
            "register_runtimes": self.runtimes,
            "register_retrievers": self.retrievers,
            "register_commands": self.commands,
        }

    def take(self, plugin: object, owner: str, manager: pluggy.PluginManager) -> tuple[str, ...]:
        """Calls the register hooks of one plugin and shelves what it brings, all of it or nothing. Returns
        `kind:name` of each."""
        brought: list[tuple[Shelf[Any], Any]] = []
        for hook, shelf in self.shelves().items():
            for impl in getattr(manager.hook, hook).get_hookimpls():
                if impl.plugin is plugin:
                    impl.function(lambda item, shelf=shelf: brought.append((shelf, item)))
        seen: set[tuple[str, str]] = set()
        for shelf, item in brought:
            name = getattr(item, "name", None)
            if not isinstance(name, str) or isinstance(item, type):
                raise PluginError(f"{owner} registered {item!r} as a {shelf.kind}; it must be an instance with a `name`")
            if not re.fullmatch(NAME_PATTERN, name):
                raise PluginError(f"{owner} names a {shelf.kind} {name!r}; names are of the form {NAME_PATTERN}")
            if isinstance(item, TaskPlugin):
                _check_task(item)
            if name in shelf or (shelf.kind, name) in seen:
                taken_by = shelf.owner(name) if name in shelf else owner
                raise AlreadyExistsError(
                    f"two plugins bring a {shelf.kind} named {name!r}: {taken_by} and {owner}; "
                    f"uninstall one or rename its {shelf.kind}"
                )
            seen.add((shelf.kind, name))
        for shelf, item in brought:
            shelf.add(item, owner)
        return tuple(f"{shelf.kind}:{item.name}" for shelf, item in brought)
