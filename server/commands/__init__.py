"""The server's commands of the `taskloom` tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from taskloom.core.registry import Registry
    from taskloom.core.settings import Settings
    from taskloom.core.store import ModelStore


class Cli(Protocol):
    """What `click.pass_obj` gives: the part of the tool's context that commands use."""

    @property
    def registry(self) -> Registry: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def store(self) -> ModelStore: ...

    def print_json(self, data: Any) -> None: ...
