"""Recipes of `taskloom optimize`: a model, steps and data as a TOML file, and the same from the command line over it."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from taskloom.core.errors import ConfigError
from taskloom.core.optimizing import StepRequest, step_config
from taskloom.core.registry import Registry
from taskloom.core.types import Frozen
from taskloom.plugins.commands.recipe import Files, parsed, set_values
from taskloom.plugins.optimizing import DataFiles


class OptimizeData(Frozen):
    """Data files, relative to the recipe. Without `validation`, a tenth of `train` is held out to choose by."""

    train: Files = Field(min_length=1)
    evaluation: Files = Field(min_length=1)
    """Never trained on, by the model or by a step: the report is made from it."""
    validation: Files = ()
    train_rows: int = Field(default=0, ge=0)
    evaluation_rows: int = Field(default=0, ge=0)
    """A sample of so many rows; 0 for all."""
    licence: str = ""
    source: str = ""


class OptimizeRecipe(Frozen):
    """A recipe file; `[[steps]]` are made in their order."""

    model: str
    steps: tuple[StepRequest, ...] = Field(min_length=1)
    data: OptimizeData

    def requests(self) -> tuple[StepRequest, ...]:
        return self.steps

    def files(self) -> DataFiles:
        return DataFiles(**{name: getattr(self.data, name) for name in OptimizeData.model_fields})


def settled_recipe(
    path: Path | None,
    *,
    model: str | None,
    steps: str | None,
    train: Sequence[Path],
    evaluation: Sequence[Path],
    validation: Sequence[Path],
    train_rows: int | None = None,
    evaluation_rows: int | None = None,
    changes: Sequence[str],
    registry: Registry,
) -> OptimizeRecipe:
    """The recipe with what the command line says over it; files that it names lie beside it. Raises `ConfigError` for what
    is missing, and for a setting of a step that is not among the steps."""
    raw = _read(path, registry) if path is not None else {}
    if model is not None:
        raw["model"] = model
    if steps is not None:
        raw["steps"] = [{"name": name.strip()} for name in steps.split(",") if name.strip()]
    given = {"train": list(train), "evaluation": list(evaluation), "validation": list(validation)}
    samples = {"train_rows": train_rows, "evaluation_rows": evaluation_rows}
    told = {name: value for name, value in {**given, **samples}.items() if value}
    if told:
        raw["data"] = {**raw.get("data", {}), **told}
    missing = [
        flag
        for flag, absent in (
            ("MODEL", "model" not in raw),
            ("--with", not raw.get("steps")),
            ("--data", not raw.get("data", {}).get("train")),
            ("--eval", not raw.get("data", {}).get("evaluation")),
        )
        if absent
    ]
    if missing:
        raise ConfigError(f"{', '.join(missing)} must be given, on the command line or in a recipe (--recipe FILE.toml)")
    _change(raw["steps"], changes)
    return parsed(OptimizeRecipe, raw, f"recipe {path}" if path is not None else "the command line")


def _read(path: Path, registry: Registry) -> dict[str, Any]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"recipe {path} can't be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"recipe {path} is not TOML: {exc}") from exc
    recipe = parsed(OptimizeRecipe, raw, f"recipe {path}")
    placed = {
        name: [path.parent / file.expanduser() for file in getattr(recipe.data, name)]
        for name in ("train", "evaluation", "validation")
    }
    found: dict[str, Any] = json.loads(recipe.model_dump_json())
    return {
        **found,
        "steps": [_placed(step, path.parent, registry) for step in recipe.steps],
        "data": {**found["data"], **placed},
    }


def _placed(step: StepRequest, folder: Path, registry: Registry) -> dict[str, Any]:
    """The step with the files that its settings name beside the recipe, as those of `[data]` are."""
    plugin = registry.optimizers.get(step.name)
    try:
        files = plugin.needs(step_config(plugin, step.config)).files
    except ConfigError:
        files = ()  # told where the steps are checked, with what the command line says over it
    places = {file: str(folder / os.path.expanduser(file)) for file in files}

    def place(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: place(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [place(item) for item in value]
        return places.get(Path(value), value) if isinstance(value, str) else value

    return {"name": step.name, "config": place(step.config)}


def _change(steps: list[dict[str, Any]], changes: Sequence[str]) -> None:
    """`--set STEP.KEY=VALUE`; of a step that is there twice, both are changed."""
    names = [step["name"] for step in steps]
    for change in changes:
        name, dot, rest = change.partition(".")
        if not dot or name not in names or "=" not in rest:
            raise ConfigError(f"--set {change!r}: write STEP.KEY=VALUE; the steps are {', '.join(names)}")
        for step in steps:
            if step["name"] == name:
                config: Mapping[str, Any] = step.get("config", {})
                step["config"] = set_values(config, [rest])
