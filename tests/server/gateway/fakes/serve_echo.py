"""`serve_echo.py ENGINE_FAKES HOME`: runs the `serve` command, in this process, on a store with one slow echo model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])

from engine_fakes import make_registry, publish

from taskloom.core.settings import load_settings
from taskloom.core.store import ModelStore
from taskloom.server.commands.serve import serve


class Cli:
    """What the tool's root hands to commands."""

    def __init__(self, home: Path) -> None:
        self.settings = load_settings(overrides={"home": str(home)})
        self.registry = make_registry()
        self.store = ModelStore([self.settings.models_folder])

    def print_json(self, data: Any) -> None:
        print(json.dumps(data), flush=True)


if __name__ == "__main__":
    cli = Cli(Path(sys.argv[2]))
    if not cli.store.models():
        publish(cli.store, "echo", "slow")
    serve.main(["echo", "--port", "0", "--dispatcher", "local", "--json", *sys.argv[3:]], obj=cli)
