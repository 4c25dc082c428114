from __future__ import annotations

import tomllib
from pathlib import Path

from taskloom.core.selection import TABLE

ROOT = Path(__file__).parents[2]
LAYERS = ("core", "plugins", "server", "sdk", "models")


def test_every_folder_with_python_files_is_packaged() -> None:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    present = {
        "taskloom." + path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for layer in LAYERS
        for path in (ROOT / layer).rglob("__init__.py")
    }
    assert sorted(configured) == sorted(present)


def test_no_module_hides_in_a_folder_that_is_no_package() -> None:
    stray = [
        path.relative_to(ROOT)
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    ]
    assert stray == []


def test_the_measured_table_is_packaged() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert TABLE in setuptools["package-data"]["taskloom.models"]
    assert (ROOT / "models" / TABLE).is_file()
