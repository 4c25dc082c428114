"""What the SDK registers: the client commands."""

from __future__ import annotations

from collections.abc import Callable

from taskloom.core.hookspecs import CommandSpec, hookimpl

_COMMANDS = (
    ("predict", "Ask a model: texts, or a file of inputs.", "taskloom.sdk.cli.predict:predict"),
    ("advise", "Choose a model by task, language, latency, memory and size.", "taskloom.sdk.cli.advise:advise"),
    ("kb", "Create, fill, ask and roll back knowledge bases.", "taskloom.sdk.cli.kb:kb"),
    ("models", "List, show, promote and roll back models.", "taskloom.sdk.cli.models:models"),
    ("plugin", "Show which plugins are loaded, and which are not.", "taskloom.sdk.cli.plugin:plugin"),
    ("config", "Check and show the settings.", "taskloom.sdk.cli.config:config"),
    ("doctor", "Look at this machine and say what to do.", "taskloom.sdk.cli.doctor:command"),
    ("quickstart", "Start, ask, verify and stop: the whole path once.", "taskloom.sdk.cli.quickstart:command"),
    ("bench", "Measure serving against the model's own limit.", "taskloom.sdk.cli.bench:command"),
)


@hookimpl
def register_commands(register: Callable[[CommandSpec], None]) -> None:
    for name, summary, target in _COMMANDS:
        register(CommandSpec(name=name, summary=summary, target=target))
