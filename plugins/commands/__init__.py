"""The commands that need the plugins' ML libraries. Each is imported when it is used."""

from __future__ import annotations

from typing import Any, Protocol

from taskloom.core.registry import Registry
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore


class CliContext(Protocol):
    """What the tool's root hands to a command (`click.pass_obj`)."""

    @property
    def registry(self) -> Registry: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def store(self) -> ModelStore: ...

    def print_json(self, data: Any) -> None: ...
