"""Recipes: everything that a training needs, as a TOML file that is committed beside the model it makes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from taskloom.core.errors import ConfigError, DataError
from taskloom.core.types import Frozen, Name

M = TypeVar("M", bound=BaseModel)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | Path) else value


Files = Annotated[tuple[Path, ...], BeforeValidator(_listed)]
"""One file, or a list of files whose rows are taken one after the other."""


class RecipeData(Frozen):
    """Data files, relative to the recipe. Without `validation`, the task holds a part of `train` out."""

    train: Files = ()
    """Empty for a model that is taken as it is: its `[config]` says `pretrained = true`."""
    evaluation: Files = Field(min_length=1)
    """Never trained on: the report is made from it."""
    first: Files = ()
    """What the first of several stages trains on instead of `train`: many cheap rows, such as `taskloom questions` makes."""
    validation: Files = ()
    licence: str = ""
    source: str = ""
    obtain: str = ""
    """How to get the files, for somebody who hasn't got them."""


class Recipe(Frozen):
    """A recipe file. `[config]` is the task's own `TrainConfig`."""

    task: Name
    name: Name
    description: str = ""
    languages: tuple[str, ...] = ()
    licence: str = ""
    intended_use: str = ""
    limits: str = ""
    examples: tuple[Mapping[str, Any], ...] = ()
    """Inputs worth trying on the model; `taskloom quickstart` asks them."""
    data: RecipeData
    config: Mapping[str, Any] = Field(default_factory=dict)
    stages: tuple[Mapping[str, Any], ...] = ()
    """Further trainings, each from the weights of the one before: what changes in `[config]` from one to the next."""
    backbone: Recipe | None = None
    """The whole recipe of the model that this one stands on. It is trained and published first; `config.backbone` then names
    what it became."""

    @model_validator(mode="after")
    def _something_comes_after_the_first(self) -> Recipe:
        if self.data.first and not self.stages:
            raise ValueError("data.first is for the first of several stages, and there are no [[stages]]; use data.train")
        return self

    @model_validator(mode="after")
    def _one_backbone(self) -> Recipe:
        if self.backbone is not None and any("backbone" in table for table in (self.config, *self.stages)):
            raise ValueError(
                f"[backbone] is the recipe of {self.backbone.name!r}, and the settings name another backbone; give one of them"
            )
        return self

    def standing_on(self, backbone: str) -> Recipe:
        """This recipe, with the name of a backbone that exists in the place of its recipe."""
        return self.model_copy(update={"backbone": None, "config": {**self.config, "backbone": backbone}})


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe; its data paths become absolute or relative to where the process is. Raises `ConfigError` naming
    each key that can't be used."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"recipe {path} can't be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"recipe {path} is not TOML: {exc}") from exc
    return _placed(parsed(Recipe, raw, f"recipe {path}"), path.parent)


def _placed(recipe: Recipe, folder: Path) -> Recipe:
    files = {
        name: tuple(folder / file.expanduser() for file in getattr(recipe.data, name))
        for name in ("first", "train", "validation", "evaluation")
    }
    backbone = _placed(recipe.backbone, folder) if recipe.backbone is not None else None
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=files), "backbone": backbone})


def with_changes(recipe: Recipe, changes: Sequence[str]) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with what `--set backbone.KEY=VALUE` changes in that of its backbone, whose keys are those of a recipe file,
    and the changes that are left, which are of `[config]`. `--set backbone=NAME` puts a backbone that exists in the place of
    the recipe of one."""
    if recipe.backbone is None:
        return recipe, tuple(changes)
    keys = [change.partition("=")[0].strip() for change in changes]
    if "backbone" in keys:
        return recipe.model_copy(update={"backbone": None}), tuple(changes)
    inner = [change.strip().removeprefix("backbone.") for change, key in zip(changes, keys, strict=True) if _is_inner(key)]
    own = tuple(change for change, key in zip(changes, keys, strict=True) if not _is_inner(key))
    raw = set_values(recipe.backbone.model_dump(mode="json"), inner)
    return recipe.model_copy(update={"backbone": parsed(Recipe, raw, "backbone")}), own


def _is_inner(key: str) -> bool:
    return key.startswith("backbone.")


def train_configs(schema: type[M], recipe: Recipe, changes: Sequence[str], seed: int | None) -> list[M]:
    """The settings of each stage: the recipe's `[config]`, with what its `[[stages]]` change one after the other, and in all of
    them `--set key=value` (TOML values; dots reach into tables) and `--seed`."""
    table: dict[str, Any] = {}
    found = []
    for number, stage in enumerate((recipe.config, *recipe.stages)):
        table = {**table, **stage}
        raw = set_values(table, changes)
        if seed is not None:
            raw["seed"] = seed
        found.append(parsed(schema, raw, f"stages.{number}" if number else "config"))
    return found


def set_values(table: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy of the table with each `key=value` set."""
    raw: dict[str, Any] = json.loads(json.dumps(dict(table)))
    for change in changes:
        key, sign, text = change.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {change!r}: write key=value, such as --set epochs=3 or --set adapter.r=8")
        inside = raw
        *outer, last = key.strip().split(".")
        for part in outer:
            inner = inside.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {change!r}: {part!r} is {inner!r}, not a table")
            inside = inner
        inside[last] = _toml_value(text.strip())
    return raw


def _toml_value(text: str) -> Any:
    """A TOML value; what is none is a string, so that words need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parsed(schema: type[M], raw: Mapping[str, Any], where: str) -> M:
    try:
        return schema.model_validate(raw)
    except ValidationError as exc:
        told = "; ".join(f"{'.'.join(str(p) for p in e['loc']) or where}: {e['msg']}" for e in exc.errors(include_url=False))
        raise ConfigError(f"{where} can't be used: {told}. Keys: {', '.join(schema.model_fields)}.") from exc


def need_files(recipe: Recipe, others: str = "--data and --eval") -> None:
    """Raises `DataError`, with how to get them and how to name `others`, if data files are absent."""
    named = (*recipe.data.first, *recipe.data.train, *recipe.data.validation, *recipe.data.evaluation)
    absent = [str(path) for path in named if not path.is_file()]
    if not absent:
        return
    how = f"\n\n{recipe.data.obtain.strip()}\n\n" if recipe.data.obtain else " "
    raise DataError(
        f"{recipe.name} is trained on files that are not here: {', '.join(absent)}.{how}"
        f"Put them there, or name yours with {others}.",
        path=absent[0],
    )
