"""What the tool's root hands to commands, for tests that call them without it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from taskloom.core.loader import load_registry
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore


class Context:
    """All plugins, and a home that `folder` is."""

    def __init__(self, folder: Path) -> None:
        self.registry = load_registry()
        self.settings = Settings(home=folder)
        self.store = ModelStore([self.settings.models_folder])

    def print_json(self, data: object) -> None:
        click.echo(json.dumps(data))
