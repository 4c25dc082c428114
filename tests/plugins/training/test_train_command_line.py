"""The command that a model card says makes the model again."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskloom.plugins.commands.train import _command


def test_a_recipe_is_named_from_the_current_folder_or_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "repository" / "recipes" / "a b.toml"
    recipe.parent.mkdir(parents=True)
    recipe.touch()
    monkeypatch.chdir(tmp_path / "repository")
    for told in (recipe, Path("recipes/a b.toml"), Path("../repository/recipes/a b.toml")):
        assert _command(told, (), None, None) == "taskloom train 'recipes/a b.toml'"
    monkeypatch.chdir(tmp_path / "repository" / "recipes")
    assert _command(Path("a b.toml"), ("epochs=2",), "m", 3) == "taskloom train 'a b.toml' --set epochs=2 --name m --seed 3"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for told in (recipe, Path("../repository/recipes/a b.toml")):
        assert _command(told, (), None, None) == "taskloom train 'a b.toml'"
