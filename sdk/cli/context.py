"""What every command of the `taskloom` tool gets from `click.pass_obj`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from taskloom.core.registry import Registry
    from taskloom.core.settings import Settings
    from taskloom.core.store import ModelStore


@dataclass
class CliContext:
    """The options of the tool itself, and what commands work with, each made when it is first asked for.

    A command of any layer takes it without importing this module:

        @click.command()
        @click.pass_obj
        def serve(cli: Any) -> None:
            settings = cli.settings
    """

    config: Path | None = None
    """`--config`: the settings file."""
    home: Path | None = None
    """`--home`: where state lives, over what file and environment say."""
    verbose: int = 0
    as_json: bool = False
    """Whether `--json` is among the arguments: results on stdout, and errors on stderr, are then JSON."""

    @cached_property
    def registry(self) -> Registry:
        """Everything that plugins bring; a third-party plugin that does not load is named on stderr and left out."""
        from taskloom.core.loader import load_registry

        return load_registry()

    @cached_property
    def settings(self) -> Settings:
        """The settings in force; raises `ConfigError`."""
        from taskloom.core.settings import load_settings

        return load_settings(self.config, {"home": str(self.home)} if self.home else None)

    @cached_property
    def store(self) -> ModelStore:
        """The models that come with Taskloom and the user's own."""
        from taskloom.core.store import open_store

        return open_store(self.settings.models_folder)

    @cached_property
    def console(self) -> Console:
        """Rich on stdout: tables and styled text for people."""
        from rich.console import Console

        class Stdout(Console):
            def on_broken_pipe(self) -> None:
                raise BrokenPipeError  # rich would exit with 1; the tool has a status for it

        return Stdout(highlight=False, width=None if sys.stdout.isatty() else 240)

    @cached_property
    def error_console(self) -> Console:
        """Rich on stderr: progress bars and notes."""
        from rich.console import Console

        return Console(stderr=True, highlight=False)

    def print_json(self, data: Any) -> None:
        """Writes `data` as JSON to stdout: indented on a terminal, one line elsewhere. Paths become strings; pydantic
        models and mappings become objects."""
        text = json.dumps(data, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None, default=_json_value)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def show(self, data: Any, table: Callable[[], Any]) -> None:
        """`data` as JSON with `--json`; otherwise what `table` makes, for people."""
        if self.as_json:
            self.print_json(data)
        else:
            self.console.print(table())


def _json_value(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "items"):
        return dict(value.items())
    if hasattr(value, "__iter__"):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
