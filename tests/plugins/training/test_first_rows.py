"""A recipe whose first stage trains on rows of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_context import Context

from taskloom.core.digest import sha256_hex
from taskloom.core.errors import ConfigError, DataError
from taskloom.plugins.commands.recipe import load_recipe
from taskloom.plugins.commands.train import train

RECIPE = """
task = "classification"
name = "staged"

[data]
first = "many.jsonl"
train = "few.jsonl"
evaluation = "unseen.jsonl"

[config]
backbone = "BACKBONE"
adapter = { r = 2, alpha = 4 }
epochs = 1
batch_size = 4
max_length = 32
validation_fraction = 0
precision = "fp32"
"""
STAGES = "\n[[stages]]\nepochs = 2\n"


def write_rows(path: Path, count: int, what: str) -> Path:
    rows = [{"text": f"{what} card {'lost' if n % 2 else 'order'} {n}", "label": "ab"[n % 2]} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path, tiny_bert: str) -> Path:
    for name, count in (("many", 24), ("few", 8), ("unseen", 4)):
        write_rows(tmp_path / f"{name}.jsonl", count, name)
    (tmp_path / "staged.toml").write_text(RECIPE.replace("BACKBONE", tiny_bert) + STAGES, encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str) -> Any:
    context = Context(folder / "home")
    CliRunner().invoke(train, [str(folder / "staged.toml"), "--json", *arguments], obj=context, catch_exceptions=False)
    return context.store.resolve("staged@candidate")


def test_the_first_stage_has_its_own_rows_and_later_ones_have_the_others(folder: Path) -> None:
    made = run(folder)
    assert [(step.facts["rows"], step.facts["steps"]) for step in made.manifest.steps] == [(24, 6), (8, 4)]
    files = [folder / "many.jsonl", folder / "few.jsonl"]
    assert [info.sha256 for info in made.manifest.data] == [sha256_hex(path.read_bytes()) for path in files]
    assert [info.rows for info in made.manifest.data] == [24, 8]


def test_other_first_rows_are_another_training(folder: Path) -> None:
    before = run(folder).manifest.steps[-1].facts["training"]
    write_rows(folder / "many.jsonl", 20, "other")
    assert run(folder).manifest.steps[-1].facts["training"] != before


def test_given_rows_take_the_place_of_those_of_later_stages(folder: Path) -> None:
    given = write_rows(folder / "given.jsonl", 12, "given")
    assert [step.facts["rows"] for step in run(folder, "--data", str(given)).manifest.steps] == [24, 12]
    assert [step.facts["rows"] for step in run(folder, "--first", str(given)).manifest.steps] == [12, 8]


def test_one_stage_has_no_first_rows(folder: Path) -> None:
    path = folder / "staged.toml"
    path.write_text(path.read_text(encoding="utf-8").removesuffix(STAGES), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"there are no \[\[stages\]\]"):
        load_recipe(path)


def test_absent_first_rows_are_named(folder: Path) -> None:
    (folder / "many.jsonl").unlink()
    with pytest.raises(DataError, match=r"not here: .*many\.jsonl.*--first and --data and --eval"):
        run(folder)
