"""What the SDK registers: the client commands."""

from __future__ import annotations

from collections.abc import Callable

from taskloom.core.hookspecs import CommandSpec, hookimpl

_COMMANDS = (
    ("predict", "Ask a model: texts, or a file of inputs.", "taskloom.sdk.cli.predict:predict"),
    ("models", "List, show, promote and roll back models.", "taskloom.sdk.cli.models:models"),
    ("plugin", "Show which plugins are loaded, and which are not.", "taskloom.sdk.cli.plugin:plugin"),
    ("config", "Check and show the settings.", "taskloom.sdk.cli.config:config"),
)


@hookimpl
def register_commands(register: Callable[[CommandSpec], None]) -> None:
    for name, summary, target in _COMMANDS:
        register(CommandSpec(name=name, summary=summary, target=target))
